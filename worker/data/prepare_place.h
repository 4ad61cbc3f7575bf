/* prepare_place.h - where prepared shards lie, and who may fill the directory.
 *
 * CACHE/shards/KEY is complete or not there. It is filled as CACHE/shards/.KEY.tmp, by the one
 * process that holds the lock of that directory; the kernel drops the lock when the process ends,
 * and the next finds what it left. Where a file system knows no locks every process fills a
 * directory of its own, the first that is done counts, and the others' work is lost.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdbool.h>

struct prepare_place {
    char dir[1024], temporary[1024], parent[1024];
    int lock; /* -1: none */
};

LH_MUST_CHECK int prepare_place_name(struct prepare_place *p, const char *cache_dir,
                                     const char *key, struct lh_err *reterr);
bool prepare_place_ready(const struct prepare_place *p); /* whole shards are at p->dir */

/* 1: p->temporary is there and ours; 0: another process has it now, or has just been done. */
LH_MUST_CHECK int prepare_place_enter(struct prepare_place *p, struct lh_err *reterr);
/* Removes what is in p->temporary. */
LH_MUST_CHECK int prepare_place_clear(const struct prepare_place *p, struct lh_err *reterr);
/* Moves the filled directory to p->dir. Another may have been first: then theirs stays. */
LH_MUST_CHECK int prepare_place_publish(const struct prepare_place *p, struct lh_err *reterr);
/* Lets others in; removes what was not published. */
void prepare_place_leave(struct prepare_place *p);
