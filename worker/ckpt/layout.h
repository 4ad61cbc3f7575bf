/* layout.h - names inside OUT/checkpoints, shared by save.c, load.c and newest.c. */
#pragma once
#include "worker/ckpt/ckpt.h"

#define CKPT_VERSION 1
#define CKPT_STATE "state.json"
#define CKPT_OPTIMIZER "optimizer.safetensors"
#define CKPT_ADAPTER "adapter_model.safetensors"
#define CKPT_MODEL "model.safetensors"
#define CKPT_COPY_BYTES (8u << 20) /* what is copied at a time between device and file */
#define CKPT_STATE_MAX (4u << 20)  /* state.json: a job of at most 1 MiB and room */

/* The step of a complete checkpoint's directory name, or -1 for any other name. */
int64_t ckpt_step_of(const char *name);

/* state.json of a run: new reference, NULL when memory is exhausted. */
json_t *ckpt_state_json(const struct run *r, const struct model_config *config,
                        const struct rope_config *rope, const struct train_state *state);
