/* peft.h - PEFT adapter directories: adapter_config.json and adapter_model.safetensors.
 *
 * Keys: "base_model.model." + module path + ".lora_A.weight" [R,in], ".lora_B.weight" [out,R]; embeddings and norms
 * trained whole are in the same file under the prefix. With a tied head the embedding stands twice (embed_tokens and
 * lm_head), ensure_weight_tying is true, and modules_to_save also has "model.embed_tokens", as PEFT itself writes.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "kernels/dtype.h"
#include "proto/job.h"
#include "worker/formats/safetensors.h"
#include <stdbool.h>

#define PEFT_PREFIX "base_model.model."

/* The adapter_config.json of a job's adapter: new reference. base: what base_model_name_or_path says. */
json_t *peft_config(const struct lh_job *job, const char *base, bool tied);

/* An adapter directory opened for reading. LH_EINPUT for what is not LoRA or uses what longhaul has not (dora, bias). */
struct peft_adapter {
    struct st_file *weights;
    json_t *config;
};
LH_MUST_CHECK int peft_open(const char *dir, struct peft_adapter *ret_adapter, struct lh_err *reterr);
void peft_close(struct peft_adapter *a);
/* The tensor of that key with rows x cols (cols 0: a vector). LH_EINPUT at /model/adapter says what is there instead. */
LH_MUST_CHECK int peft_find(const struct peft_adapter *a, const char *key, int64_t rows, int64_t cols,
                            const struct st_tensor **ret_tensor, struct lh_err *reterr);
/* Elements [from, from + n) of a tensor of peft_find as dtype. */
void peft_values(const struct st_tensor *t, int64_t from, int64_t n, enum kn_dtype dtype, void *out);
/* Checks rank, alpha, targets, rslora, patterns, modules_to_save of the directory against the job; LH_EJOB says which
 * member differs and both values. */
LH_MUST_CHECK int peft_check(const struct peft_adapter *a, const struct lh_job *job, struct lh_err *reterr);
