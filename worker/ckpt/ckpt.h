/* ckpt.h - checkpoints: write one that is either whole or absent, read one back (spec: checkpoint.md). */
#pragma once
#include "proto/manifest.h"
#include "worker/model/params.h"
#include "worker/run.h"

/* Where a run stands; state.json holds it. All counters are of finished work. */
struct train_state {
    int64_t step;        /* finished optimizer steps */
    int64_t tokens;      /* seen, over all ranks */
    int64_t skipped;     /* of the steps, passed over because something was not finite */
    double train_seconds; /* spent in steps, over all attempts */
    double last_loss;
};

/* Writes OUT/checkpoints/step-%08lld: adapter_config.json, adapter_model.safetensors (or model.safetensors for full
 * fine-tuning), optimizer.safetensors (exp_avg.KEY, exp_avg_sq.KEY), state.json, manifest.json; into a temporary
 * directory, synced, then renamed and the parent synced. Removes older ones beyond job.checkpoint.keep (never the
 * newest). Collective: rank 0 gets what ranks keep apart and writes, the others wait. A failure (no space) leaves the older ones as they were. */
LH_MUST_CHECK int ckpt_save(struct run *r, const struct params *params, const struct model_config *config,
                            const struct rope_config *rope, const struct train_state *state, char ret_path[static 1024],
                            struct lh_manifest *ret_manifest, struct lh_err *reterr);

/* Verifies dir by its manifest, checks that it belongs to this job's model, adapter, rope and data order (LH_EINPUT says
 * what differs), loads masters and moments on every rank. */
LH_MUST_CHECK int ckpt_load(struct run *r, const char *dir, struct params *params, struct train_state *ret_state,
                            struct lh_err *reterr);

/* The newest complete checkpoint below a directory of checkpoints (OUT/checkpoints). LH_EINPUT when there is none. */
LH_MUST_CHECK int ckpt_newest(const char *dir, char ret_path[static 1024], struct lh_err *reterr);

/* What bit-identity depends on, as found in this process: {"cpu", "isa", "library", "compiler", "longhaul"}, all strings:
 * new reference, NULL when memory is exhausted. */
json_t *ckpt_machine_json(void);

/* Finished steps of a checkpoint, from its state.json alone. */
LH_MUST_CHECK int ckpt_step(const char *dir, int64_t *ret_step, struct lh_err *reterr);
