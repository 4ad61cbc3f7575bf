/* job_data.h - from the texts a job names to open data sets, on every rank. */
#pragma once
#include "worker/data/dataset.h"
#include "worker/kinds/held_out.h"
#include "worker/run.h"

/* What needs no preparation: a directory that an earlier job of kind prepare made, for its texts
 * (ret_dir: where it lies); one .safetensors file of tokens, for perplexity. */
bool job_data_is_shards(const struct lh_strings *uris, char ret_dir[static 1024]);
bool job_data_is_tokens(const struct lh_strings *texts);

/* The training data of the job; texts are prepared first where they are not (one rank a machine
 * works, the others wait). Sets r->data_digest. Collective; LH_EINPUT when ranks see different
 * data. */
LH_MUST_CHECK int job_data_train(struct run *r, int64_t vocab, struct dataset **ret_dataset,
                                 struct lh_err *reterr);

/* The held-out texts: prepared ones, or one .safetensors file of tokens. Collective. */
LH_MUST_CHECK int job_data_eval(struct run *r, int64_t vocab, struct held_out **ret_held_out,
                                struct lh_err *reterr);
