/* tokenize.h - inputs to shards: one reader, many encoding threads, one writer, in the order of the
 * inputs.
 *
 * The shards are the same whatever the number of threads. Memory is bounded by the units in flight.
 */
#pragma once
#include "worker/data/dataset.h"
#include "worker/data/dialog.h"
#include "worker/data/inputs.h"
#include "worker/data/shard_writer.h"
#include "worker/data/units.h"

/* Called when everything before `at` has been appended to w. */
typedef int tokenize_mark_fn(void *arg, const struct unit_place *at, struct shard_writer *w,
                             struct lh_err *reterr);

struct tokenize_job {
    const struct input_list *inputs;
    const struct tokenizer *tokenizer;
    const char *field;
    const struct dialog *dialog; /* not NULL: inputs hold records, not texts */
    int threads;
    size_t unit_bytes; /* 0: the default */
    uint64_t all_bytes;
    prepare_progress_fn *progress; /* may be NULL */
    void *arg;
    struct unit_place from; /* where to go on; zeros: from the start */
    tokenize_mark_fn *mark; /* after each unit; may be NULL */
    void *mark_arg;
};

/* On failure the writer is left open (shard_writer_abort). */
LH_MUST_CHECK int tokenize_inputs(const struct tokenize_job *job, struct shard_writer *w,
                                  struct lh_err *reterr);
