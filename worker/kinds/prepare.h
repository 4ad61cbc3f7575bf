/* prepare.h - tokenising a job's texts, for kind prepare and for --prepare. */
#pragma once
#include "worker/run.h"

/* Prepares the training texts (unless they are tokens already) and the texts for perplexity of the
 * job in r->cache_dir. Rank 0 works, the others wait. ret_train, ret_eval (1024 bytes each, or
 * NULL): the shard directories, "" for none. */
LH_MUST_CHECK int prepare_inputs(struct run *r, char *ret_train, char *ret_eval,
                                 struct lh_err *reterr);

/* --prepare: prepare_inputs, and a look at whether there is a window of the job's length in them.
 * Alone, without other ranks. */
LH_MUST_CHECK int prepare_only(struct run *r, struct lh_err *reterr);
