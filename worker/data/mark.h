/* mark.h - where a preparation of shards stands, so that a later one goes on from there.
 *
 * A mark is a small file in the unfinished directory: the place in the inputs, and what the writer
 * had written up to it. It is written after that data is on disk, so what it says is there; what
 * else lies in the files was written later and is cut off. The directory's name holds the digest of
 * all that decides its content, so a mark needs no other check.
 */
#pragma once
#include "worker/data/shard_writer.h"
#include "worker/data/units.h"

#define MARK_NAME "mark.json"           /* never in a finished directory */
#define MARK_TOKENS ((uint64_t)4 << 20) /* between two: about half a second of one core */

/* Syncs the writer's files and leaves a mark beside them. */
LH_MUST_CHECK int mark_save(struct shard_writer *w, const struct unit_place *at,
                            struct lh_err *reterr);

LH_MUST_CHECK int mark_remove(const char *dir, struct lh_err *reterr);

/* Goes on from the mark in dir: a writer of its files, and the place. False: there is none, or not
 * all that it speaks of; then nothing is open. */
bool mark_resume(const char *dir, uint64_t shard_tokens, bool with_labels, unsigned n_files,
                 struct shard_writer *ret_writer, struct unit_place *ret_at);
