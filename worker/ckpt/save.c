/* save.c - writing a checkpoint: into step-N.tmp, everything synced, then renamed into place.
 *
 * Whoever dies at whatever moment: a directory of the final name is whole, because it gets that
 * name last, and .tmp directories are removed by the next save. Parameters go from the device to
 * the file in pieces of CKPT_COPY_BYTES, so saving needs no memory that grows with the model.
 */
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "worker/ckpt/layout.h"
#include "worker/formats/hf_writer.h"
#include "worker/formats/peft.h"
#include "worker/model/rope.h"
#include "worker/optim/share.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct save {
    struct run *run;
    const struct params *params;
    const struct model_config *config;
    const struct rope_config *rope;
    const struct train_state *state;
    char parent[1024], final[1100], tmp[1110];
};

static int save_all(struct save *s, struct lh_manifest *ret_manifest, struct lh_err *reterr);
static void prune(const struct save *s);

int ckpt_save(struct run *r, const struct params *params, const struct model_config *config,
              const struct rope_config *rope, const struct train_state *state,
              char ret_path[static 1024], struct lh_manifest *ret_manifest, struct lh_err *reterr)
{
    struct save s = {.run = r, .params = params, .config = config, .rope = rope, .state = state};
    struct lh_manifest manifest = {0};
    int rc;

    if (snprintf(s.parent, sizeof(s.parent), "%s/checkpoints", r->out_dir) > 960)
        return lh_err_set(reterr, -ENAMETOOLONG, "checkpoints of '%s'", r->out_dir);
    (void)snprintf(s.final, sizeof(s.final), "%s/step-%08lld", s.parent, (long long)state->step);
    (void)snprintf(s.tmp, sizeof(s.tmp), "%s.tmp", s.final);
    rc = share_state(params, r->comm, reterr);
    if (rc < 0)
        return rc;
    if (r->comm->rank == 0) {
        rc = save_all(&s, &manifest, reterr);
        if (rc == 0)
            prune(&s);
        else if (lh_remove_tree(s.tmp, NULL) < 0)
            rc = lh_err_prefix(reterr, rc, "'%s' is left over and can be removed", s.tmp);
    }
    rc = run_agree(r, rc, reterr);
    if (rc < 0) {
        lh_manifest_release(&manifest);
        return rc;
    }
    (void)snprintf(ret_path, 1024, "%.1023s", s.final);
    if (ret_manifest)
        *ret_manifest = manifest;
    else
        lh_manifest_release(&manifest);
    return 0;
}

/* Declares one tensor for each trained parameter and for each prefix, e.g. "exp_avg." and
 * "exp_avg_sq.". */
struct tensors {
    struct st_entry *entries; /* owned */
    char (*names)[224];       /* owned */
    unsigned n;
};

static void tensors_release(struct tensors *t)
{
    free(t->entries);
    free(t->names);
}

static int tensors_init(struct tensors *t, const struct params *p, unsigned copies,
                        struct lh_err *reterr)
{
    size_t most = (size_t)p->n * copies + 1; /* and a tied head */

    t->n = 0;
    t->entries = calloc(most, sizeof(*t->entries));
    t->names = calloc(most, sizeof(*t->names));
    return t->entries && t->names ? 0
                                  : lh_err_set(reterr, -ENOMEM, "names of a checkpoint's tensors");
}

static void tensors_add(struct tensors *t, const char *prefix, const char *key,
                        const struct param *p)
{
    struct st_entry *e = &t->entries[t->n];

    (void)snprintf(t->names[t->n], sizeof(t->names[0]), "%s%s", prefix, key);
    *e = (struct st_entry){.name = t->names[t->n],
                           .dtype = ST_F32,
                           .n_dims = p->cols ? 2 : 1,
                           .shape = {p->rows, p->cols}};
    t->n++;
}

static int write_floats(struct save *s, struct st_writer *w, const float *device, int64_t n,
                        void *host, struct lh_err *reterr)
{
    const struct kn_ops *ops = s->run->ops;
    int64_t piece = CKPT_COPY_BYTES / (int64_t)sizeof(float);
    int rc = 0;

    for (int64_t at = 0; rc == 0 && at < n; at += piece) {
        uint64_t bytes = (uint64_t)LH_MIN(piece, n - at) * sizeof(float);

        ops->download(s->run->stream, host, device + at, bytes);
        rc = ops->sync(s->run->stream, reterr);
        if (rc == 0)
            rc = st_write(w, host, bytes, reterr);
    }
    return rc;
}

/* A tied head that trains is written a second time under lm_head, as PEFT itself does. */
static const struct param *tied_head(const struct save *s)
{
    if (!s->config->tied || s->run->job->full_finetune)
        return NULL;
    for (unsigned i = 0; i < s->params->n; i++)
        if (s->params->at[i].role == PARAM_EMBED && s->params->at[i].trains)
            return &s->params->at[i];
    return NULL;
}

static int write_trained(struct save *s, const char *file, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *metadata = json_pack("{s:s}", "format", "pt");
    const struct param *head = tied_head(s);
    struct tensors t;
    struct st_writer *w = NULL;
    void *host = malloc(CKPT_COPY_BYTES);
    char path[1200];
    int rc = tensors_init(&t, s->params, 1, reterr);

    if (rc == 0 && !host)
        rc = lh_err_set(reterr, -ENOMEM, "buffer of a checkpoint");
    for (unsigned i = 0; rc == 0 && i < s->params->n; i++)
        if (s->params->at[i].trains)
            tensors_add(&t, "", s->params->at[i].key, &s->params->at[i]);
    if (rc == 0 && head)
        tensors_add(&t, "", PEFT_PREFIX "lm_head.weight", head);
    (void)snprintf(path, sizeof(path), "%s/%s", s->tmp, file);
    if (rc == 0)
        rc = st_create(path, t.entries, t.n, metadata, &w, reterr);
    for (unsigned i = 0; rc == 0 && i < s->params->n; i++)
        if (s->params->at[i].trains)
            rc = write_floats(s, w, s->params->at[i].master, s->params->at[i].n, host, reterr);
    if (rc == 0 && head)
        rc = write_floats(s, w, head->master, head->n, host, reterr);
    if (rc == 0)
        rc = st_finish(w, reterr);
    else if (w)
        st_abort(w);
    tensors_release(&t);
    free(host);
    return rc;
}

static int write_moments(struct save *s, struct lh_err *reterr)
{
    struct tensors t;
    struct st_writer *w = NULL;
    void *host = malloc(CKPT_COPY_BYTES);
    char path[1200];
    int rc = tensors_init(&t, s->params, 2, reterr);

    if (rc == 0 && !host)
        rc = lh_err_set(reterr, -ENOMEM, "buffer of a checkpoint");
    for (unsigned i = 0; rc == 0 && i < s->params->n; i++) {
        const struct param *p = &s->params->at[i];

        if (!p->trains || !p->m)
            continue; /* a run without a learning rate has no moments */
        tensors_add(&t, "exp_avg.", p->key, p);
        tensors_add(&t, "exp_avg_sq.", p->key, p);
    }
    (void)snprintf(path, sizeof(path), "%s/%s", s->tmp, CKPT_OPTIMIZER);
    if (rc == 0)
        rc = st_create(path, t.entries, t.n, NULL, &w, reterr);
    for (unsigned i = 0; rc == 0 && i < s->params->n; i++) {
        const struct param *p = &s->params->at[i];

        if (!p->trains || !p->m)
            continue;
        rc = write_floats(s, w, p->m, p->n, host, reterr);
        if (rc == 0)
            rc = write_floats(s, w, p->v, p->n, host, reterr);
    }
    if (rc == 0)
        rc = st_finish(w, reterr);
    else if (w)
        st_abort(w);
    tensors_release(&t);
    free(host);
    return rc;
}

static int write_json(struct save *s, const char *file, json_t *value, struct lh_err *reterr)
{
    char path[1200];
    int rc;

    if (!value)
        return lh_err_set(reterr, -ENOMEM, "%s of a checkpoint", file);
    (void)snprintf(path, sizeof(path), "%s/%s", s->tmp, file);
    rc = lh_json_save(path, value, reterr);
    json_decref(value);
    return rc;
}

/* A fully trained model's config: the base's, with the positions and the window it was trained for.
 */
static json_t *model_config_json(const struct save *s)
{
    LH_CLEANUP(lh_json_decrefp) json_t *rope = rope_json(s->rope);

    return hf_writer_config(s->config, rope,
                            rope_max_positions(s->rope, s->config, s->run->job->context.length),
                            "float32");
}

static int write_files(struct save *s, struct lh_err *reterr)
{
    const struct lh_job *job = s->run->job;
    char base[1024]; /* as PEFT opens it: a path, no file:// */
    int rc = run_path(job->model.base, "/model/base", base, reterr);

    if (rc < 0)
        return rc;
    if (job->full_finetune) {
        rc = write_trained(s, CKPT_MODEL, reterr);
        if (rc == 0)
            rc = write_json(s, "config.json", model_config_json(s), reterr);
    } else {
        rc = write_trained(s, CKPT_ADAPTER, reterr);
        if (rc == 0)
            rc = write_json(s, "adapter_config.json", peft_config(job, base, s->config->tied),
                            reterr);
    }
    lh_fault("ckpt.after_adapter");
    if (rc == 0)
        rc = write_moments(s, reterr);
    if (rc == 0)
        rc = write_json(s, CKPT_STATE, ckpt_state_json(s->run, s->config, s->rope, s->state),
                        reterr);
    return rc;
}

/* Gives the finished directory its name. One of that name is there when a run was resumed from an
 * older checkpoint and came by again: the two change places in one step, so that there is never
 * none. */
static int put_in_place(const struct save *s, struct lh_err *reterr)
{
    if (rename(s->tmp, s->final) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return lh_err_set(reterr, -errno, "rename checkpoint to '%s'", s->final);
    if (renameat2(AT_FDCWD, s->tmp, AT_FDCWD, s->final, RENAME_EXCHANGE) == 0)
        return lh_remove_tree(s->tmp, reterr);
    if (errno != EINVAL && errno != ENOSYS)
        return lh_err_set(reterr, -errno, "exchange checkpoint '%s'", s->final);
    /* A file system that cannot exchange: the older checkpoints cover the moment between. */
    if (lh_remove_tree(s->final, reterr) < 0 || rename(s->tmp, s->final) < 0)
        return lh_err_set(reterr, -errno, "replace checkpoint '%s'", s->final);
    return 0;
}

static int save_all(struct save *s, struct lh_manifest *ret_manifest, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp)
    json_t *about = json_pack("{s:s, s:I, s:I}", "name", s->run->job->name, "step",
                              (json_int_t)s->state->step, "tokens", (json_int_t)s->state->tokens);
    bool first = !lh_is_dir(s->parent);
    int rc = lh_mkdir_p(s->parent, reterr);

    if (rc == 0 && first)
        rc = lh_sync_path(s->run->out_dir, reterr);
    if (rc == 0)
        rc = lh_remove_tree(s->tmp, reterr);
    if (rc == 0)
        rc = lh_mkdir_p(s->tmp, reterr);
    if (rc == 0)
        rc = write_files(s, reterr);
    if (rc < 0)
        return rc;
    lh_fault("ckpt.before_manifest");
    rc = lh_manifest_write(s->tmp, "checkpoint", about, ret_manifest, reterr);
    if (rc < 0)
        return rc;
    lh_fault("ckpt.before_rename");
    rc = put_in_place(s, reterr);
    lh_fault("ckpt.after_rename");
    if (rc == 0) {
        lh_fault("ckpt.before_parent_sync");
        rc = lh_sync_path(s->parent, reterr);
    }
    if (rc < 0)
        lh_manifest_release(ret_manifest);
    return rc;
}

/* Removes what a killed save left and the oldest checkpoints beyond job.checkpoint.keep. Best
 * effort: what cannot be removed now is tried again by the next save. */
static void prune(const struct save *s)
{
    int64_t keep = s->run->job->checkpoint.keep, oldest, n;
    struct dirent *entry;
    char path[1400], victim[300];

    do {
        DIR *d = opendir(s->parent);

        if (!d)
            return;
        oldest = INT64_MAX;
        n = 0;
        while ((entry = readdir(d))) {
            int64_t step = ckpt_step_of(entry->d_name);

            if (lh_starts_with(entry->d_name, "step-") && lh_ends_with(entry->d_name, ".tmp")) {
                (void)snprintf(path, sizeof(path), "%s/%s", s->parent, entry->d_name);
                if (lh_remove_tree(path, NULL) < 0)
                    continue;
            }
            n += step >= 0;
            if (step >= 0 && step < oldest && step != s->state->step) {
                oldest = step;
                (void)snprintf(victim, sizeof(victim), "%s", entry->d_name);
            }
        }
        (void)closedir(d);
        if (keep <= 0 || n <= keep || oldest == INT64_MAX)
            return;
        (void)snprintf(path, sizeof(path), "%s/%s", s->parent, victim);
    } while (lh_remove_tree(path, NULL) == 0);
}
