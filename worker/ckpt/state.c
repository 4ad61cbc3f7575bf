/* state.c - state.json: where a run stands and what its numbers depend on (spec: checkpoint.md). */
#include "worker/ckpt/layout.h"
#include "worker/model/rope.h"
#include <math.h>

/* Says what became of a tied head, because loaders differ in whether they tie a trained copy again.
 */
static const char *tied_policy(const struct run *r, const struct model_config *config)
{
    if (!config->tied)
        return "untied";
    if (r->job->full_finetune || r->job->adapter.embeddings)
        return "head moves with the embedding";
    return "tied, frozen";
}

json_t *ckpt_state_json(const struct run *r, const struct model_config *config,
                        const struct rope_config *rope, const struct train_state *state)
{
    const struct lh_job *job = r->job;

    return json_pack(
        "{s:i, s:I, s:I, s:I, s:f, s:o, s:{s:I, s:I, s:I, s:s}, s:{s:I, s:o}, s:s, s:{s:s, s:s}, "
        "s:s, "
        "s:i, s:i, s:s, s:o, s:O}",
        "version", CKPT_VERSION, "step", (json_int_t)state->step, "tokens",
        (json_int_t)state->tokens, "skipped", (json_int_t)state->skipped, "train_seconds",
        state->train_seconds, "last_loss",
        isfinite(state->last_loss) ? json_real(state->last_loss) : json_null(), "data", "seed",
        (json_int_t)job->optim.seed, "batch_sequences", (json_int_t)job->optim.batch_sequences,
        "next_sequence", (json_int_t)(state->step * job->optim.batch_sequences), "sha256",
        r->data_digest, "context", "length", (json_int_t)job->context.length, "rope",
        rope_json(rope), "head", tied_policy(r, config), "model", "base", job->model.base, "sha256",
        r->model_digest, "precision", lh_precision_name(job->precision), "ranks", r->comm->size,
        "threads", r->threads, "device", r->ops->name, "machine", ckpt_machine_json(), "job",
        job->spec);
}
