/* fence.h - the highest (cluster, epoch) this node has obeyed, on disk before it obeys (NODE-1). */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdint.h>

struct fence {
    char path[1024];
    char cluster[64]; /* "": none yet */
    uint64_t epoch;
};

LH_MUST_CHECK int fence_load(const char *path, struct fence *ret_fence, struct lh_err *reterr);

/* 0: it may be obeyed (and is on disk when it was new); -ESTALE: an older epoch; -EXDEV: another
 * cluster. */
LH_MUST_CHECK int fence_admit(struct fence *f, const char *cluster, uint64_t epoch,
                              struct lh_err *reterr);
