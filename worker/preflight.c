/* preflight.c - longhaul-worker --plan: everything about a job that can be known without training.
 *
 * One process, no slot held: a node runs it before a job may start. It opens what the job names,
 * compares it with what the job says, and counts the bytes of one rank with the same tables that a
 * run allocates from. The answer is one line of JSON: {"ok": true, bytes and FLOPs} or {"ok":
 * false, "code", "class", "pointer", "detail"}; class infra: it may be well another time.
 */
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "proto/manifest.h"
#include "worker/ckpt/ckpt.h"
#include "worker/commands.h"
#include "worker/data/dataset.h"
#include "worker/data/dialog.h"
#include "worker/data/units.h"
#include "worker/formats/mapping.h"
#include "worker/formats/peft.h"
#include "worker/kinds/engine.h"
#include "worker/kinds/job_data.h"
#include "worker/kinds/job_plan.h"
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct preflight {
    struct lh_job *job;
    struct model_source *source;
    const struct model_config *config; /* of source */
    json_t *answer;                    /* object, grows while all is well */
};

static int preflight_job(struct preflight *p, const char *path, struct lh_err *reterr);
static int check_device(const struct lh_job *job, struct lh_err *reterr);
static int check_texts(const struct lh_strings *uris, const char *pointer, bool records,
                       struct lh_err *reterr);
static int check_tokenizer(const struct preflight *p, struct lh_err *reterr);
static int check_model(struct preflight *p, struct lh_err *reterr);
static int check_adapter(const struct preflight *p, struct lh_err *reterr);
static int check_tokens(const struct preflight *p, struct lh_err *reterr);
static int make_plan(struct preflight *p, struct lh_err *reterr);

static json_t *refusal(int rc, const struct lh_err *err)
{
    return json_pack("{s:b, s:s, s:s, s:s, s:s}", "ok", 0, "code", run_error_name(rc), "class",
                     run_exit_code(rc) == EXIT_TRY_AGAIN ? "infra" : "app", "pointer", err->pointer,
                     "detail", err->text);
}

static enum worker_exit tell(const json_t *answer)
{
    char *text = answer ? lh_json_text(answer, 0) : NULL;
    bool told = text && printf("%s\n", text) >= 0 && fflush(stdout) == 0;

    free(text);
    return told ? EXIT_DONE : EXIT_INTERNAL;
}

/* A file was cut short, or its disk failed, while it was looked at. */
static void on_lost_input(int rc, const struct lh_err *err)
{
    _exit((int)tell(refusal(rc, err)));
}

enum worker_exit worker_preflight(const struct worker_options *o)
{
    struct preflight p = {.answer = json_pack("{s:b}", "ok", 1)};
    struct lh_err err = {0};
    enum worker_exit code;
    int rc;

    mapping_watch(on_lost_input);
    rc = preflight_job(&p, o->job, &err);
    if (rc < 0) {
        json_decref(p.answer);
        p.answer = refusal(rc, &err);
    }
    code = tell(p.answer);
    json_decref(p.answer);
    model_source_close(p.source);
    lh_job_free(p.job);
    return code;
}

static int preflight_job(struct preflight *p, const char *path, struct lh_err *reterr)
{
    char dir[1024];
    bool texts;
    int rc = lh_job_load(path, &p->job, reterr);

    if (rc == 0)
        rc = check_device(p->job, reterr);
    if (rc < 0 || p->job->kind == LH_KIND_CHECK)
        return rc;
    texts = p->job->data.train.n > 0 && p->job->data.format != LH_DATA_TOKENS &&
            !job_data_is_shards(&p->job->data.train, dir);
    texts |= p->job->eval.perplexity.n > 0 && !job_data_is_tokens(&p->job->eval.perplexity);
    texts |= p->job->eval.has_passkey;
    rc = check_model(p, reterr);
    if (rc == 0 && texts)
        rc = check_tokenizer(p, reterr);
    if (rc == 0)
        rc = check_texts(&p->job->data.train, "/data/train", p->job->data.format == LH_DATA_SFT,
                         reterr);
    if (rc == 0)
        rc = check_texts(&p->job->eval.perplexity, "/eval/perplexity", false, reterr);
    if (rc < 0 || p->job->kind == LH_KIND_PREPARE)
        return rc;
    rc = check_adapter(p, reterr);
    if (rc == 0)
        rc = check_tokens(p, reterr);
    return rc < 0 ? rc : make_plan(p, reterr);
}

static int check_device(const struct lh_job *job, struct lh_err *reterr)
{
    const struct kn_ops *ops;
    int rc;

    if (job->kind == LH_KIND_PREPARE)
        return 0;
    rc = kn_ops_for(lh_device_name(job->resources.device), &ops, reterr);
    if (rc < 0 && reterr)
        (void)snprintf(reterr->pointer, sizeof(reterr->pointer), "/resources/device");
    return rc;
}

/* records: data.format sft, which reads them from files of certain names. */
static int check_one_text(const char *path, const char *pointer, bool records,
                          struct lh_err *reterr)
{
    struct stat st;
    char manifest[1200];

    (void)snprintf(manifest, sizeof(manifest), "%s/%s", path, LH_MANIFEST_NAME);
    if (stat(path, &st) < 0 || access(path, R_OK) < 0)
        return lh_err_at(reterr, LH_EINPUT, pointer, "'%s' cannot be read: %s", path,
                         strerror(errno));
    if (S_ISDIR(st.st_mode) && lh_path_exists(manifest))
        return 0; /* shards that an earlier job prepared */
    if (!S_ISREG(st.st_mode))
        return lh_err_at(reterr, LH_EINPUT, pointer,
                         "'%s' is neither a file nor a directory of prepared shards", path);
    if (st.st_size == 0)
        return lh_err_at(reterr, LH_EINPUT, pointer, "'%s' is empty", path);
    if (records && unit_kind_of(path, true) == UNIT_PLAIN)
        return lh_err_at(reterr, LH_EINPUT, pointer,
                         "'%s' holds no records by its name; data.format sft takes .jsonl and "
                         ".json files (also .gz, .zst)",
                         path);
    return 0;
}

static int check_texts(const struct lh_strings *uris, const char *pointer, bool records,
                       struct lh_err *reterr)
{
    char path[1024], at[64];
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < uris->n; i++) {
        glob_t found;

        (void)snprintf(at, sizeof(at), "%s/%u", pointer, i);
        rc = run_path(uris->at[i], at, path, reterr);
        if (rc < 0)
            break;
        if (glob(path, 0, NULL, &found) != 0) {
            rc = lh_err_at(reterr, LH_EINPUT, at, "no file matches '%s'", path);
            break;
        }
        for (size_t k = 0; rc == 0 && k < found.gl_pathc; k++)
            rc = check_one_text(found.gl_pathv[k], at, records, reterr);
        globfree(&found);
    }
    return rc;
}

static int check_tokenizer(const struct preflight *p, struct lh_err *reterr)
{
    struct tokenizer *t = NULL;
    struct dialog *dialog = NULL;
    int rc = tokenizer_open(model_source_path(p->source), &t, reterr);

    if (rc == 0 && tokenizer_vocab(t) > p->config->vocab)
        rc = lh_err_set(
            reterr, LH_EINPUT,
            "the tokenizer of '%s' has %lld tokens, the model's vocabulary (its embedding's rows) "
            "only "
            "%lld; the two do not belong together: take the tokenizer that came with the model",
            model_source_path(p->source), (long long)tokenizer_vocab(t),
            (long long)p->config->vocab);
    if (rc == 0 && p->job->data.format == LH_DATA_SFT && p->job->data.template_) {
        rc = dialog_open(p->job->data.template_, t, &dialog, reterr);
        dialog_free(dialog);
    }
    tokenizer_free(t);
    return run_point(rc, "/model/base", reterr);
}

/* Config, and every tensor that the base must have, by name and shape. */
static int check_model(struct preflight *p, struct lh_err *reterr)
{
    struct params_spec spec = {.dtype = KN_F32};
    struct params params = {0};
    char path[1024];
    int rc = run_path(p->job->model.base, "/model/base", path, reterr);

    if (rc == 0)
        rc = run_point(model_source_open(path, &p->source, reterr), "/model/base", reterr);
    if (rc < 0)
        return rc;
    p->config = model_source_config(p->source);
    rc = params_init(p->config, &spec, &params, reterr);
    for (unsigned i = 0; rc == 0 && i < params.n; i++) {
        const struct param *at = &params.at[i];

        rc = model_source_check(p->source, at->name, at->rows, at->cols, reterr);
    }
    params_release(&params);
    return run_point(rc, "/model/base", reterr);
}

static int check_adapter(const struct preflight *p, struct lh_err *reterr)
{
    struct peft_adapter adapter;
    char path[1024];
    int rc;

    /* A finished model's adapter is opened by its plan, which also takes whole models. */
    if (!p->job->model.adapter || p->job->kind == LH_KIND_EXPORT ||
        p->job->kind == LH_KIND_GENERATE)
        return 0;
    rc = run_path(p->job->model.adapter, "/model/adapter", path, reterr);
    if (rc == 0)
        rc = peft_open(path, &adapter, reterr);
    if (rc < 0)
        return run_point(rc, "/model/adapter", reterr);
    if (p->job->kind == LH_KIND_TRAIN)
        rc = peft_check(&adapter, p->job, reterr);
    peft_close(&adapter);
    return run_point(rc, "/model/adapter", reterr);
}

static int check_tokens(const struct preflight *p, struct lh_err *reterr)
{
    struct dataset *d = NULL;
    int rc;

    if (p->job->kind != LH_KIND_TRAIN || p->job->data.format != LH_DATA_TOKENS)
        return 0;
    rc = dataset_open(p->job, NULL, p->config->vocab, &d, reterr);
    if (rc == 0)
        json_object_set_new(p->answer, "tokens_per_epoch", json_integer(dataset_tokens(d)));
    dataset_close(d);
    return run_point(rc, "/data/train", reterr);
}

/* Bytes and FLOPs of one rank, from the tables that a run allocates from; refuses what no memory
 * here could hold. */
static int make_plan(struct preflight *p, struct lh_err *reterr)
{
    json_t *plan = NULL;
    int ranks = (int)p->job->resources.slots;
    int local = LH_MIN(ranks, worker_cores());
    struct engine_place place = {ranks, local, worker_threads(p->job, local), true};
    int rc = job_plan(p->job, &place, &plan, reterr);

    if (rc < 0)
        return rc;
    json_object_set(p->answer, "bytes", json_object_get(plan, "parts"));
    json_object_del(plan, "parts");
    json_object_update(p->answer, plan);
    json_decref(plan);
    json_object_set_new(p->answer, "steps", json_integer(p->job->optim.steps));
    return 0;
}
