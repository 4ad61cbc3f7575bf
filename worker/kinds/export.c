/* export.c - kind export: base and adapter as one model, in files that other programs read.
 *
 * Rank 0 works, the others wait. The files are written into OUT/export.tmp, read again and compared
 * (export_check.c), and renamed to OUT/export with a manifest only when all agrees (JOB-35).
 */
#include "worker/kinds/export.h"
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include "worker/formats/gguf_llama.h"
#include "worker/formats/hf_writer.h"
#include "worker/model/counter.h"
#include "worker/model/rope.h"
#include "worker/text/tokenizer_export.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int export_run(struct export *x, struct lh_err *reterr);
static int export_open(const struct lh_job *job, struct export *x, struct lh_err *reterr);
static int export_model(struct export *x, const struct lh_job *job,
                        const struct engine_place *place, struct lh_err *reterr);
static int export_write(struct export *x, struct lh_err *reterr);

static void export_release(struct export *x)
{
    merge_close(&x->merge);
    engine_close(&x->engine);
    free(x->entries);
    free(x->logits);
}

int kind_export(struct run *r, struct lh_err *reterr)
{
    struct export *x;
    uint64_t planned = 0;
    int64_t peak = 0;
    int rc = 0;

    if (r->comm->rank == 0) {
        x = calloc(1, sizeof(*x));
        if (!x)
            rc = lh_err_set(reterr, -ENOMEM, "the export");
        if (rc == 0) {
            x->run = r;
            rc = export_run(x, reterr);
            if (rc < 0 && *x->tmp)
                (void)!lh_remove_tree(x->tmp, NULL);
            planned = x->planned;
            export_release(x);
        }
        free(x);
    }
    rc = run_agree(r, rc, reterr);
    if (rc == 0)
        rc = engine_peak(r, &peak, reterr);
    if (rc == 0)
        engine_report_bytes(r, planned, peak);
    return rc;
}

static int export_run(struct export *x, struct lh_err *reterr)
{
    struct run *r = x->run;
    struct engine_place place = engine_place_of(r);
    struct export_check check;
    int rc;

    if (snprintf(x->final, sizeof(x->final), "%s/export", r->out_dir) >= 1000)
        return lh_err_set(reterr, -ENAMETOOLONG, "output '%s/export'", r->out_dir);
    rc = export_open(r->job, x, reterr);
    if (rc == 0)
        rc = export_model(x, r->job, &place, reterr);
    if (rc < 0)
        return rc;
    run_phase(r, "loading", 0, 1, "tensors");
    rc = export_logits(x, &x->engine, x->logits, reterr);
    run_phase(r, "loading", 1, 1, "tensors");
    (void)snprintf(x->tmp, sizeof(x->tmp), "%.1000s.tmp", x->final);
    if (rc == 0)
        rc = lh_remove_tree(x->tmp, reterr);
    if (rc == 0)
        rc = lh_mkdir_p(x->tmp, reterr);
    if (rc == 0)
        rc = export_write(x, reterr);
    lh_fault("export.written");
    if (rc == 0)
        rc = export_check(x, &check, reterr);
    return rc < 0 ? rc : export_publish(x, &check, reterr);
}

/* ---- opening ---- */

static int read_weights(void *arg, unsigned i, int64_t r0, int64_t rows, float *out,
                        struct lh_err *reterr)
{
    struct export *x = arg;
    int64_t cols = weights_cols(&x->entries[i]);

    run_phase(x->run, x->phase, i, x->weights.n, "tensors");
    if (r0 == 0 && i > 0) /* what has been read makes room */
        model_source_forget(x->engine.source, x->entries[i - 1].name);
    if (run_stopping(x->run))
        return lh_err_set(reterr, LH_ESTOPPED, "stopped while exporting");
    if (x->format != EXPORT_ADAPTER)
        return merge_read(&x->merge, i, r0, rows, out, reterr);
    peft_values(st_at(x->engine.adapter.weights, i), r0 * cols, rows * cols, KN_F32, out);
    return 0;
}

static int list_merged(struct export *x, struct lh_err *reterr)
{
    x->entries = calloc(x->merge.n, sizeof(*x->entries));
    if (!x->entries)
        return lh_err_set(reterr, -ENOMEM, "names of the weights");
    for (unsigned i = 0; i < x->merge.n; i++)
        x->entries[i] = (struct weights_entry){x->merge.at[i]->name, x->merge.at[i]->rows,
                                               x->merge.at[i]->cols};
    x->weights.n = x->merge.n;
    return 0;
}

/* Of the adapter every tensor is one that merge_open has found to be of the model. */
static int list_adapter(struct export *x, struct lh_err *reterr)
{
    const struct st_file *f = x->engine.adapter.weights;

    if (!x->engine.has_adapter)
        return lh_err_at(reterr, LH_EJOB, "/export/format",
                         "model.adapter is a fully trained model, which holds no adapter; use "
                         "export.format hf or gguf");
    x->entries = calloc(st_count(f), sizeof(*x->entries));
    if (!x->entries)
        return lh_err_set(reterr, -ENOMEM, "names of the weights");
    for (unsigned i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);

        x->entries[i] =
            (struct weights_entry){t->name, t->shape[0], t->n_dims > 1 ? t->shape[1] : 0};
    }
    x->weights.n = st_count(f);
    return 0;
}

static enum quant_type type_named(const char *name)
{
    if (strcmp(name, "f32") == 0)
        return QUANT_F32;
    if (strcmp(name, "f16") == 0)
        return QUANT_F16;
    if (strcmp(name, "q8_0") == 0)
        return QUANT_Q8_0;
    assert(strcmp(name, "bf16") == 0);
    return QUANT_BF16;
}

static int export_open(const struct lh_job *job, struct export *x, struct lh_err *reterr)
{
    const char *format = job->export.format;
    int rc;

    x->format = strcmp(format, "gguf") == 0      ? EXPORT_GGUF
                : strcmp(format, "adapter") == 0 ? EXPORT_ADAPTER
                                                 : EXPORT_HF;
    x->type = type_named(job->export.dtype             ? job->export.dtype
                         : x->format == EXPORT_ADAPTER ? "f32"
                                                       : "bf16");
    x->weights.read = read_weights;
    x->weights.arg = x;
    rc = engine_open_finished(job, &x->engine, reterr);
    if (rc == 0)
        rc = merge_open(x->engine.source, x->engine.has_adapter ? &x->engine.adapter : NULL,
                        &x->engine.spec, &x->merge, reterr);
    if (rc < 0)
        return rc;
    x->weights.at = NULL;
    rc = x->format == EXPORT_ADAPTER ? list_adapter(x, reterr) : list_merged(x, reterr);
    x->weights.at = x->entries;
    return rc;
}

/* ---- the model that is compared with ---- */

static int make_model(struct export *x, const struct lh_job *job, const struct engine_place *place,
                      enum kn_dtype dtype, struct lh_err *reterr)
{
    const struct engine_need need = {.dtype = dtype, .tokens = x->n_ids, .positions = x->n_ids};
    uint64_t logits = (uint64_t)(x->n_ids * x->engine.config->vocab) * sizeof(*x->logits);
    int rc = engine_model(&x->engine, &need, reterr);

    x->compute = dtype;
    if (rc < 0)
        return rc;
    llama_add_outside(&x->engine.model, PLAN_HOST, 2 * logits); /* of both that are compared */
    rc = engine_count(&x->engine, job, place, reterr);
    x->planned = plan_total(&x->engine.model.plan);
    return rc;
}

/* fp32 where it fits. ids: any will do; the same for every export of a vocabulary. */
static int export_model(struct export *x, const struct lh_job *job,
                        const struct engine_place *place, struct lh_err *reterr)
{
    int rc;

    x->n_ids = LH_MIN((int64_t)EXPORT_CHECK_TOKENS, x->engine.length);
    for (int64_t t = 0; t < x->n_ids; t++)
        x->ids[t] = (int32_t)(counter_bits(0, 0, (uint64_t)t) % (uint64_t)x->engine.config->vocab);
    x->logits = malloc((size_t)(x->n_ids * x->engine.config->vocab) * sizeof(*x->logits));
    if (!x->logits)
        return lh_err_set(reterr, -ENOMEM, "logits to compare with");
    rc = make_model(x, job, place, KN_F32, reterr);
    if (rc == 0)
        rc = engine_check(&x->engine, job, place->local_ranks, reterr);
    if (rc == LH_ENOFIT) {
        engine_model_release(&x->engine);
        rc = make_model(x, job, place, KN_BF16, reterr);
        if (rc == 0)
            rc = engine_check(&x->engine, job, place->local_ranks, reterr);
    }
    return rc;
}

int export_plan(const struct lh_job *job, const struct engine_place *place, json_t **ret_plan,
                struct lh_err *reterr)
{
    struct export *x = calloc(1, sizeof(*x));
    int rc = x ? export_open(job, x, reterr) : lh_err_set(reterr, -ENOMEM, "the plan");

    if (rc == 0)
        rc = export_model(x, job, place, reterr);
    if (rc == 0)
        rc = engine_plan_json(&x->engine, job, 1, ret_plan, reterr);
    if (x)
        export_release(x);
    free(x);
    return rc;
}

/* ---- writing ---- */

int64_t export_positions(const struct export *x)
{
    return rope_max_positions(&x->engine.rope, x->engine.config, x->engine.length);
}

/* What a tokenizer's config is told; for positions it means nothing. */
static int64_t max_text(const struct export *x)
{
    return LH_MAX(x->engine.config->max_positions, x->engine.length);
}

static int write_json(const struct export *x, const char *name, json_t *value,
                      struct lh_err *reterr)
{
    char path[1400];
    int rc;

    (void)snprintf(path, sizeof(path), "%s/%s", x->tmp, name);
    rc = value ? lh_json_save(path, value, reterr) : lh_err_set(reterr, -ENOMEM, "'%s'", path);
    json_decref(value);
    return rc;
}

static int write_config(const struct export *x, const char *dtype, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *rope = rope_json(&x->engine.rope);

    return write_json(x, "config.json",
                      hf_writer_config(x->engine.config, rope, export_positions(x), dtype), reterr);
}

static int write_hf(struct export *x, struct lh_err *reterr)
{
    int rc = write_config(x, hf_writer_dtype(x->type), reterr);

    if (rc == 0)
        rc = hf_writer_weights(x->tmp, &x->weights, x->type,
                               (uint64_t)x->run->job->export.shard_bytes, &x->files, reterr);
    if (rc == 0)
        rc = tokenizer_export_hf(x->engine.base_path, x->tmp, max_text(x), &x->tokenizer,
                                 &x->why_not, reterr);
    return rc;
}

/* The job's name, else that of the base's file or directory. */
static void model_name(const struct export *x, char name[static 128])
{
    const char *path = x->engine.base_path, *slash = strrchr(path, '/');
    const char *given = x->run->job->name;

    (void)snprintf(name, 128, "%.127s", *given ? given : slash && slash[1] ? slash + 1 : path);
    if (!*given && lh_ends_with(name, ".gguf"))
        name[strlen(name) - strlen(".gguf")] = '\0';
    lh_utf8_trim(name);
}

static int write_gguf(struct export *x, struct lh_err *reterr)
{
    LH_CLEANUP(gguf_closep) struct gguf_file *base = NULL;
    char path[1400], name[128], base_path[1100];
    struct gguf_llama m = {.config = x->engine.config,
                           .rope = &x->engine.rope,
                           .inv_freq = x->engine.inv_freq,
                           .scaling = x->engine.scaling,
                           .context = export_positions(x),
                           .type = x->type,
                           .name = name};
    struct gguf_writer *w = NULL;
    int rc = 0;

    model_name(x, name);
    model_source_resolve(x->engine.base_path, base_path);
    if (!lh_is_dir(base_path))
        rc = gguf_open(base_path, &base, reterr);
    m.base = base;
    (void)snprintf(path, sizeof(path), "%s/%s", x->tmp, MODEL_GGUF_NAME);
    if (rc == 0)
        rc = gguf_writer_new(path, &w, reterr);
    if (rc == 0)
        rc = gguf_llama_keys(w, &m, reterr);
    if (rc == 0)
        rc = tokenizer_export_gguf(x->engine.base_path, x->engine.config->vocab, w, &x->tokenizer,
                                   &x->why_not, reterr);
    if (rc == 0)
        rc = gguf_llama_tensors(w, &m, &x->weights, reterr);
    x->files = 1;
    if (rc == 0)
        return gguf_writer_finish(w, reterr);
    gguf_writer_abort(w);
    return rc;
}

/* The config of the base comes along: PEFT's own has no place for positions. */
static int write_adapter(struct export *x, struct lh_err *reterr)
{
    char path[1400];
    int rc = write_json(x, "adapter_config.json", json_deep_copy(x->engine.adapter.config), reterr);

    (void)snprintf(path, sizeof(path), "%s/adapter_model.safetensors", x->tmp);
    if (rc == 0)
        rc = hf_writer_file(path, &x->weights, 0, x->weights.n, x->type, reterr);
    if (rc == 0)
        rc = write_config(x, NULL, reterr);
    if (rc == 0)
        rc = tokenizer_export_hf(x->engine.base_path, x->tmp, max_text(x), &x->tokenizer,
                                 &x->why_not, reterr);
    x->files = 1;
    return rc;
}

static int export_write(struct export *x, struct lh_err *reterr)
{
    int rc;

    x->phase = "export";
    switch (x->format) {
    case EXPORT_HF:
        rc = write_hf(x, reterr);
        break;
    case EXPORT_GGUF:
        rc = write_gguf(x, reterr);
        break;
    default:
        rc = write_adapter(x, reterr);
        break;
    }
    run_phase(x->run, x->phase, x->weights.n, x->weights.n, "tensors");
    if (rc == 0 && !x->tokenizer) {
        lh_warn("export.no_tokenizer", "why=\"%s\"", x->why_not);
        lh_report(x->run->reporter, "warning",
                  json_pack("{s:s, s:s}", "code", "no_tokenizer", "text", x->why_not));
    }
    return rc;
}
