/* job_data.h - from the texts a job names to open data sets, on every rank. */
#pragma once
#include "worker/data/dataset.h"
#include "worker/run.h"

/* The training data of the job; texts are prepared first where they are not (one rank a machine
 * works, the others wait). Sets r->data_digest. Collective; LH_EINPUT when ranks see different
 * data. */
LH_MUST_CHECK int job_data_train(struct run *r, int64_t vocab, struct dataset **ret_dataset,
                                 struct lh_err *reterr);

/* The windows for perplexity: prepared texts, or one .safetensors file of tokens. Collective.
 * *job_copy must live as long as the data set. */
LH_MUST_CHECK int job_data_eval(struct run *r, int64_t vocab, struct lh_job *job_copy,
                                struct dataset **ret_dataset, struct lh_err *reterr);
