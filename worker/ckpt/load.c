/* load.c - reading a checkpoint back: nothing is believed before its digest matches, and nothing
 * that was made for another model, adapter, rope or order of data is taken.
 */
#include "proto/base/json.h"
#include "worker/ckpt/layout.h"
#include "worker/formats/peft.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct load {
    struct run *run;
    struct params *params;
    const char *dir;
    json_t *state; /* owned: state.json */
    void *host;    /* owned: the pieces on their way to the device */
};

static int state_read(struct load *l, struct train_state *ret_state, struct lh_err *reterr);
static int state_fits(const struct load *l, struct lh_err *reterr);
static int load_trained(struct load *l, struct lh_err *reterr);
static int load_moments(struct load *l, struct lh_err *reterr);

int ckpt_load(struct run *r, const char *dir, struct params *params, struct train_state *ret_state,
              struct lh_err *reterr)
{
    struct load l = {.run = r, .params = params, .dir = dir};
    struct train_state state;
    int rc = 0;

    /* One rank a machine hashes; the others read the same files. */
    if (r->comm->local_rank == 0)
        rc = lh_manifest_verify(dir, reterr);
    rc = run_agree(r, rc, reterr);
    if (rc < 0)
        return rc;
    rc = state_read(&l, &state, reterr);
    if (rc == 0)
        rc = state_fits(&l, reterr);
    if (rc == 0 && !(l.host = malloc(CKPT_COPY_BYTES)))
        rc = lh_err_set(reterr, -ENOMEM, "buffer for checkpoint '%s'", dir);
    if (rc == 0)
        rc = load_trained(&l, reterr);
    if (rc == 0)
        rc = load_moments(&l, reterr);
    if (rc == 0) {
        params_refresh(params, r->ops, r->stream);
        rc = r->ops->sync(r->stream, reterr);
    }
    json_decref(l.state);
    free(l.host);
    rc = run_agree(r, rc, reterr);
    if (rc == 0)
        *ret_state = state;
    return rc;
}

int ckpt_step(const char *dir, int64_t *ret_step, struct lh_err *reterr)
{
    struct load l = {.dir = dir};
    struct train_state state;
    int rc = state_read(&l, &state, reterr);

    json_decref(l.state);
    if (rc == 0)
        *ret_step = state.step;
    return rc;
}

static int state_read(struct load *l, struct train_state *ret_state, struct lh_err *reterr)
{
    char path[1100];
    int rc;

    (void)snprintf(path, sizeof(path), "%s/%s", l->dir, CKPT_STATE);
    rc = lh_json_load(path, CKPT_STATE_MAX, &l->state, reterr);
    if (rc < 0)
        return rc;
    if (lh_json_i64(l->state, "version", -1) != CKPT_VERSION)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s' has version %lld, this longhaul reads version %d", path,
                          (long long)lh_json_i64(l->state, "version", -1), CKPT_VERSION);
    *ret_state = (struct train_state){
        .step = lh_json_i64(l->state, "step", -1),
        .tokens = lh_json_i64(l->state, "tokens", -1),
        .skipped = lh_json_i64(l->state, "skipped", 0),
        .train_seconds = lh_json_num(l->state, "train_seconds", 0),
        .last_loss = lh_json_num(l->state, "last_loss", 0),
    };
    if (ret_state->step < 0 || ret_state->tokens < 0 || ret_state->skipped < 0 ||
        ret_state->skipped > ret_state->step)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s' has no step or no tokens, or skipped more than it "
                          "made",
                          path);
    return 0;
}

/* The value at a path of member names, e.g. "optim/seed"; NULL when absent. */
static const json_t *member(const json_t *object, const char *path)
{
    char name[64];
    size_t len;

    while (object && *path) {
        len = strcspn(path, "/");
        (void)snprintf(name, sizeof(name), "%.*s", (int)LH_MIN(len, sizeof(name) - 1), path);
        object = json_object_get(object, name);
        path += len + (path[len] == '/');
    }
    return object;
}

static int differs(const struct load *l, const char *path, const json_t *saved, const json_t *now,
                   struct lh_err *reterr)
{
    char *was = saved ? lh_json_text(saved, 0) : NULL, *is = now ? lh_json_text(now, 0) : NULL;
    char pointer[80];
    int rc;

    (void)snprintf(pointer, sizeof(pointer), "/%s", path);
    rc = lh_err_at(reterr, LH_EINPUT, pointer,
                   "checkpoint '%s' was made with %s = %.120s, the job says %.120s; start anew "
                   "with model.adapter, "
                   "or change the job back",
                   l->dir, path, was ? was : "nothing", is ? is : "nothing");
    free(was);
    free(is);
    return rc;
}

static int digest_fits(const struct load *l, const char *part, const char *what, const char *mine,
                       struct lh_err *reterr)
{
    const char *saved = lh_json_str(json_object_get(l->state, part), "sha256", "");

    if (!*saved || !*mine || strcmp(saved, mine) == 0)
        return 0;
    return lh_err_set(
        reterr, LH_EINPUT,
        "checkpoint '%s' belongs to another %s (SHA-256 %.12s..., the job's has %.12s...)", l->dir,
        what, saved, mine);
}

/* Steps, rates and everything about resources may change between attempts; these may not. */
static int state_fits(const struct load *l, struct lh_err *reterr)
{
    static const char *const fixed[] = {
        "kind",
        "context/length",
        "context/rope",
        "context/attention",
        "adapter",
        "data/format",
        "data/pack",
        "data/field",
        "data/template",
        "optim/seed",
        "optim/batch_sequences",
    };
    const json_t *saved = json_object_get(l->state, "job"), *now = l->run->job->spec;
    int rc = digest_fits(l, "model", "base model", l->run->model_digest, reterr);

    if (rc == 0)
        rc = digest_fits(l, "data", "training data", l->run->data_digest, reterr);
    for (size_t i = 0; rc == 0 && i < LH_ARRAY_LEN(fixed); i++) {
        const json_t *a = member(saved, fixed[i]), *b = member(now, fixed[i]);

        if ((a || b) && (!a || !b || !json_equal(a, b)))
            rc = differs(l, fixed[i], a, b, reterr);
    }
    return rc;
}

/* Copies one tensor of a file to the device; n elements at `to`. */
static int load_floats(struct load *l, const struct st_file *f, const char *file,
                       const char *prefix, const struct param *p, float *to, struct lh_err *reterr)
{
    const struct kn_ops *ops = l->run->ops;
    const struct st_tensor *t;
    char name[256];
    int rc = 0;

    (void)snprintf(name, sizeof(name), "%s%s", prefix, p->key);
    t = st_find(f, name);
    if (!t)
        return lh_err_set(reterr, LH_EINPUT, "'%s/%s' lacks the tensor '%s'", l->dir, file, name);
    if (t->dtype != ST_F32 || t->n_dims != (p->cols ? 2 : 1) || t->shape[0] != p->rows ||
        (p->cols && t->shape[1] != p->cols))
        return lh_err_set(reterr, LH_EINPUT, "'%s/%s': tensor '%s' is not F32 [%lld%s%lld]", l->dir,
                          file, name, (long long)p->rows, p->cols ? "," : " x ",
                          (long long)LH_MAX(p->cols, 1));
    for (uint64_t at = 0; rc == 0 && at < t->bytes; at += CKPT_COPY_BYTES) {
        uint64_t bytes = LH_MIN((uint64_t)CKPT_COPY_BYTES, t->bytes - at);

        /* Through memory of our own: the tensor in the mapped file need not be aligned, and the
         * copy may be late. */
        memcpy(l->host, (const char *)t->data + at, bytes);
        ops->upload(l->run->stream, (char *)to + at, l->host, bytes);
        rc = ops->sync(l->run->stream, reterr);
    }
    return rc;
}

static int load_trained(struct load *l, struct lh_err *reterr)
{
    const char *file = l->run->job->full_finetune ? CKPT_MODEL : CKPT_ADAPTER;
    struct st_file *f;
    char path[1100];
    unsigned n = 0;
    int rc;

    (void)snprintf(path, sizeof(path), "%s/%s", l->dir, file);
    rc = st_open(path, &f, reterr);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; rc == 0 && i < l->params->n; i++) {
        struct param *p = &l->params->at[i];

        if (!p->trains)
            continue;
        n++;
        rc = load_floats(l, f, file, "", p, p->master, reterr);
    }
    if (rc == 0 && st_count(f) > n + (st_find(f, PEFT_PREFIX "lm_head.weight") != NULL))
        rc = lh_err_set(reterr, LH_EINPUT, "'%s' has %u tensors, but this job trains %u", path,
                        st_count(f), n);
    st_close(f);
    return rc;
}

static int load_moments(struct load *l, struct lh_err *reterr)
{
    struct st_file *f;
    char path[1100];
    int rc;

    (void)snprintf(path, sizeof(path), "%s/%s", l->dir, CKPT_OPTIMIZER);
    rc = st_open(path, &f, reterr);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; rc == 0 && i < l->params->n; i++) {
        struct param *p = &l->params->at[i];

        if (!p->trains || !p->m)
            continue;
        rc = load_floats(l, f, CKPT_OPTIMIZER, "exp_avg.", p, p->m, reterr);
        if (rc == 0)
            rc = load_floats(l, f, CKPT_OPTIMIZER, "exp_avg_sq.", p, p->v, reterr);
    }
    st_close(f);
    return rc;
}
