/* params.h - one table of every parameter: name, shape, role, where its value and gradient live.
 *
 * Made from a model config and a job; it decides what trains (LoRA factors, embeddings, norms, or everything), what is
 * saved and under which name. Everything that trains has an fp32 master, gradient and Adam moments; what the ops read
 * is `w`, in the precision of the job (a low copy of the master, or the frozen base weight).
 */
#pragma once
#include "kernels/ops.h"
#include "proto/job.h"
#include "worker/formats/source.h"

enum param_role {
    PARAM_EMBED, PARAM_HEAD, PARAM_NORM_IN, PARAM_NORM_POST, PARAM_NORM_FINAL,
    PARAM_Q, PARAM_K, PARAM_V, PARAM_O, PARAM_GATE, PARAM_UP, PARAM_DOWN, /* linears, in the order of enum lh_target */
    PARAM_LORA_A, PARAM_LORA_B,
};

struct param {
    char name[160];  /* Hugging Face name of a base tensor; for LoRA the module path + ".lora_A.weight" */
    char key[192];   /* key in the files of a checkpoint: PEFT's for an adapter, else the name */
    enum param_role role;
    enum param_role of; /* LoRA: the linear it belongs to; else role */
    int layer;       /* -1 when in none */
    int64_t rows, cols; /* a vector has cols 0 */
    int64_t n;       /* elements */
    bool trains, decays; /* decays: weight decay applies (LoRA factors, embeddings, head, linears; not norms) */
    struct kn_mat w; /* device: what ops read */
    float *master, *grad, *m, *v; /* device, n each; NULL when it does not train. w.p == master in fp32 */
};

struct params {
    struct param *at;
    unsigned n;
    int64_t n_trainable, n_total; /* elements */
};

const struct param *params_find(const struct params *p, const char *key); /* by key, NULL when absent */
