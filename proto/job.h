/* job.h - the job: what a user submits and a worker runs.
 *
 * One table of members (job.c) drives parsing, validation, defaults, printing and the JSON Schema; this struct
 * is its typed form. Everything here is checked: ranges, enums, arithmetic, unknown members (spec: job-spec.md).
 * Whether files exist and fit is a later stage (`longhaul-worker --plan`), never decided here.
 */
#pragma once
#include "proto/base/arena.h"
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define LH_JOB_BODY_MAX (1u << 20) /* bytes of a job's JSON: a thousand times a large one */
#define LH_JOB_DEPTH_MAX 64
#define LH_LAYERS_MAX 1024
#define LH_EVAL_ROPES_MAX 16   /* entries of eval.ropes */
#define LH_EVAL_LENGTHS_MAX 64 /* of eval.lengths and of eval.passkey.lengths */

enum lh_kind { LH_KIND_PREPARE, LH_KIND_TRAIN, LH_KIND_EVAL, LH_KIND_EXPORT, LH_KIND_CHECK, LH_KIND_GENERATE };
enum lh_precision { LH_FP32, LH_BF16 };
enum lh_attention { LH_ATTENTION_S2, LH_ATTENTION_DENSE, LH_ATTENTION_FOT };
enum lh_rope { LH_ROPE_DEFAULT, LH_ROPE_LINEAR, LH_ROPE_DYNAMIC, LH_ROPE_NTK, LH_ROPE_YARN, LH_ROPE_LLAMA3, LH_ROPE_LONGROPE };
enum lh_data_format { LH_DATA_TEXT, LH_DATA_SFT, LH_DATA_TOKENS };
enum lh_pack { LH_PACK_NONE, LH_PACK_MASKED, LH_PACK_JOIN }; /* false, true, "join" */
enum lh_schedule { LH_SCHEDULE_CONSTANT, LH_SCHEDULE_LINEAR, LH_SCHEDULE_COSINE };
enum lh_device { LH_DEVICE_CPU, LH_DEVICE_CUDA, LH_DEVICE_CUDA_EMU };
enum lh_when { LH_WHEN_OK, LH_WHEN_NOT_OK, LH_WHEN_ANY };
enum lh_nonfinite { LH_NONFINITE_STOP, LH_NONFINITE_SKIP };
enum lh_eval_mode { LH_EVAL_PREFIXES, LH_EVAL_STRIDE, LH_EVAL_COMPATIBLE, LH_EVAL_SLIDING };

/* The linear layers LoRA may attach to; adapter.targets is a set of these bits. */
enum lh_target {
    LH_TARGET_Q = 1, LH_TARGET_K = 2, LH_TARGET_V = 4, LH_TARGET_O = 8,
    LH_TARGET_GATE = 16, LH_TARGET_UP = 32, LH_TARGET_DOWN = 64,
};

struct lh_strings { const char **at; unsigned n; };
struct lh_label { const char *key, *value; };
struct lh_pattern { const char *module; double value; }; /* rank_pattern, alpha_pattern: suffix of a module path */
struct lh_after { const char *job; enum lh_when when; };
struct lh_micro_batch { int64_t *rows; unsigned n; };
struct lh_lengths { int64_t *at; unsigned n; };
struct lh_rope_wish { bool has_type; enum lh_rope type; double factor; }; /* as context.rope; shipped: no type, factor 1 */

struct lh_job {
    struct lh_arena arena; /* owns every pointer below */
    json_t *spec;          /* owned: the job with every default filled in, as it is echoed and stored */

    const char *name; /* "" when not given */
    enum lh_kind kind;
    enum lh_precision precision; /* default bf16 */

    struct { const char *base, *adapter; } model; /* URIs or paths; adapter NULL: start fresh */
    struct {
        int64_t length; /* tokens; 0 for kinds that need none */
        struct {
            bool has_type; /* false: the base's own scheme */
            enum lh_rope type;
            double factor; /* 0: not given, derived by lh_rope_factor (contract in job-spec.md) */
            bool skip_check;
        } rope;
        struct { enum lh_attention type; int64_t group; bool wrap; } attention; /* group 0: length / 4 */
    } context;
    struct {
        struct lh_strings train;
        enum lh_data_format format;
        enum lh_pack pack;
        const char *field; /* member of a .jsonl line that holds the text; default "text" */
        const char *template_; /* sft: a name, or the text of an object (begins with '{'); NULL when not given */
    } data;
    bool full_finetune; /* "adapter": null */
    struct {
        int64_t rank;
        double alpha, dropout;
        unsigned targets; /* enum lh_target bits */
        bool embeddings, norms, use_rslora;
        struct lh_pattern *rank_pattern, *alpha_pattern;
        unsigned n_rank_pattern, n_alpha_pattern;
    } adapter;
    struct {
        bool has_lr; /* without a rate one forward and backward pass is made and nothing is updated */
        double lr, beta1, beta2, eps, weight_decay, clip, lora_plus_ratio; /* clip 0: none; ratio 1: plain LoRA */
        enum lh_schedule schedule;
        int64_t warmup_steps, batch_sequences, steps;
        uint64_t seed;
        int64_t minutes; /* not 0: stop after that many minutes of training, steps is the upper bound */
    } optim;
    struct { enum lh_nonfinite action; int64_t budget; } on_nonfinite;
    struct {
        int64_t every_steps; /* of kind train; 0: only at the end */
        struct lh_strings perplexity; /* texts */
        enum lh_eval_mode mode;
        int64_t stride; /* 0 in mode prefixes */
        bool join;
        struct lh_lengths lengths; /* to report; empty: powers of two from 2048, and context.length */
        int64_t windows; /* at most so many windows over all texts; 0: all */
        int64_t bands, batch_windows;
        const char *attention; /* "full" (default) or "train" */
        struct lh_rope_wish *ropes; /* empty: context.rope alone */
        unsigned n_ropes;
        bool has_passkey;
        struct {
            struct lh_lengths lengths; /* empty: powers of two from 2048, and context.length */
            double *depths;
            unsigned n_depths;
            int64_t trials;
            uint64_t seed;
        } passkey;
    } eval;
    struct {
        struct lh_strings prompts;
        int64_t max_tokens;
        double temperature, top_p; /* temperature 0: greedy */
        uint64_t seed;
    } generate;
    struct {
        const char *format; /* "hf", "gguf" or "adapter" */
        const char *dtype;  /* "f32", "f16", "bf16", "q8_0"; NULL: bf16, of an adapter f32 */
        int64_t shard_bytes;
    } export;
    struct {
        int64_t every_steps, every_s, keep;
        const char *upload; /* URI prefix; NULL: the coordinator's default store, or none by hand */
    } checkpoint;
    struct {
        int64_t slots;
        enum lh_device device;
        int64_t sequence_parallel;
        int64_t threads; /* per rank; 0: cores / slots of the node */
        struct lh_micro_batch *micro_batches; /* empty: one row a micro-batch */
        unsigned n_micro_batches;
        int64_t micro_batch_rows; /* used when micro_batches is empty; default 1 */
        struct lh_strings constraints;
    } resources;
    struct { int64_t wall_s, lease_s, memory_bytes; } limits; /* 0: none, the coordinator's, the machine's */
    struct { int64_t infra, app; } retry;
    int64_t priority;
    bool hold;
    struct lh_label *labels;
    unsigned n_labels;
    struct lh_after *after;
    unsigned n_after;
    struct { double seconds; int64_t allreduce_mib, matrix; } check; /* kind check: how long, sizes */
};

/* Every problem of a spec, not only the first. */
#define LH_PROBLEMS_MAX 32
struct lh_problem { char pointer[160]; const char *code; char detail[320]; };
struct lh_problems { struct lh_problem at[LH_PROBLEMS_MAX]; unsigned n; };

/* Records one problem; beyond LH_PROBLEMS_MAX they are dropped. code is a static string. */
void lh_problem_add(struct lh_problems *p, const char *pointer, const char *code, const char *fmt, ...)
    LH_PRINTF(4, 5);

/* Parses and validates a spec (spec is only read). Returns 0 and a new job (free with lh_job_free), or LH_EJOB
 * with at least one entry in *problems (may be NULL) and the first one in *reterr.
 * Codes of problems: unknown_member wrong_type out_of_range missing conflict not_supported bad_value too_long. */
LH_MUST_CHECK int lh_job_parse(const json_t *spec, struct lh_job **ret_job, struct lh_problems *problems,
                               struct lh_err *reterr);

/* Reads a file (JSON) and parses it; errors name the file. */
LH_MUST_CHECK int lh_job_load(const char *path, struct lh_job **ret_job, struct lh_err *reterr);

void lh_job_free(struct lh_job *job); /* accepts NULL */
LH_DEFINE_FREEP(struct lh_job *, lh_job_free)

/* The JSON Schema (2020-12) of a job, made from the table: new reference. */
json_t *lh_job_schema(void);

/* Names as they stand in a spec ("train", "bf16", "s2", "yarn", ...). */
const char *lh_kind_name(enum lh_kind kind);
const char *lh_precision_name(enum lh_precision precision);
const char *lh_attention_name(enum lh_attention attention);
const char *lh_rope_name(enum lh_rope rope);
const char *lh_device_name(enum lh_device device);
