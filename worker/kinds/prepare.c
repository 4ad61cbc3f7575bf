/* prepare.c - kind prepare: texts become shards of token ids before any GPU is held.
 *
 * The shards lie in the cache, keyed by content; the job's own output, OUT/shards (and
 * OUT/shards-eval), is made of links to them and appears whole or not at all.
 */
#include "worker/kinds/prepare.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "proto/manifest.h"
#include "worker/data/dataset.h"
#include "worker/kinds/job_data.h"
#include "worker/text/tokenizer.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

struct progress {
    struct run *run;
    const char *phase;
    uint64_t start_ms, documents, bytes;
    uint64_t old_documents, old_bytes; /* of them, what an earlier run had done */
    bool began;
};

/* Shards appear whole or not at all, and finished ones are found again, so a stop request need not
 * wait for anything. */
static void obey_stop(struct run *r)
{
    lh_report(r->reporter, "done",
              json_pack("{s:s, s:i, s:I, s:f}", "outcome", "stopped", "exit", (int)EXIT_STOPPED,
                        "steps", (json_int_t)0, "seconds",
                        (double)(lh_mono_ms() - r->start_ms) * 1e-3));
    r->comm->ops->abort(r->comm, EXIT_STOPPED);
}

static void on_progress(void *arg, uint64_t done_bytes, uint64_t all_bytes, uint64_t documents)
{
    struct progress *p = arg;

    if (p->run->stop_wanted)
        obey_stop(p->run);
    if (all_bytes > 0 && !p->began) {
        p->began = true;
        p->start_ms = lh_mono_ms();
        p->old_documents = documents;
        p->old_bytes = done_bytes;
    }
    p->documents = documents;
    p->bytes = done_bytes;
    run_phase(p->run, p->phase, (int64_t)done_bytes, (int64_t)all_bytes, "bytes");
}

/* Of an epoch at the job's context.length; without one, of the shards. */
static int put_counts(const struct run *r, const char *dir, const json_t *about, json_t *into,
                      struct lh_err *reterr)
{
    struct dataset_counts c = {.samples = lh_json_i64(about, "documents", 0),
                               .tokens = lh_json_i64(about, "tokens", 0),
                               .labels = lh_json_i64(about, "labels", 0)};
    struct dataset *d = NULL;
    int rc = 0;

    if (r->job->context.length > 0)
        rc = dataset_open(r->job, dir, INT64_MAX, &d, reterr);
    if (rc < 0)
        return rc;
    if (d)
        c = dataset_count(d);
    dataset_close(d);
    c.dropped += lh_json_i64(about, "dropped", 0);
    return json_object_update_new(
               into, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "records",
                               (json_int_t)lh_json_i64(about, "records", 0), "samples",
                               (json_int_t)c.samples, "dropped", (json_int_t)c.dropped, "truncated",
                               (json_int_t)c.truncated, "tokens", (json_int_t)c.tokens, "labels",
                               (json_int_t)c.labels)) < 0
               ? lh_err_set(reterr, -ENOMEM, "figures of '%s'", dir)
               : 0;
}

/* The figures of a list that was prepared; p says how much of it just now. */
static int put_figures(const struct run *r, const struct progress *p, enum lh_data_format format,
                       const char *dir, struct lh_err *reterr)
{
    struct lh_manifest manifest;
    json_t *figures;
    int rc = lh_manifest_read(dir, &manifest, reterr);

    if (rc < 0)
        return rc;
    figures = json_pack("{s:s, s:I, s:O, s:I, s:I}", "shards", dir, "bytes",
                        (json_int_t)manifest.bytes, "about", manifest.about, "documents",
                        (json_int_t)lh_json_i64(manifest.about, "documents", 0), "tokens",
                        (json_int_t)lh_json_i64(manifest.about, "tokens", 0));
    if (figures && format == LH_DATA_SFT)
        rc = put_counts(r, dir, manifest.about, figures, reterr);
    if (figures && p->bytes > 0) {
        double seconds = LH_MAX((double)(lh_mono_ms() - p->start_ms) * 1e-3, 1e-3);

        json_object_set_new(figures, "seconds", json_real(seconds));
        json_object_set_new(figures, "documents_per_s",
                            json_real((double)(p->documents - p->old_documents) / seconds));
        json_object_set_new(figures, "bytes_per_s",
                            json_real((double)(p->bytes - p->old_bytes) / seconds));
        json_object_set_new(figures, "resumed_bytes", json_integer((json_int_t)p->old_bytes));
    }
    json_object_set_new(r->result, p->phase, figures);
    lh_manifest_release(&manifest);
    return rc;
}

/* Prepares one list of texts and puts its figures into the result under `name`. */
static int prepare_list(struct run *r, const struct lh_strings *texts, enum lh_data_format format,
                        const struct tokenizer *t, const char *name, char ret_dir[static 1024],
                        struct lh_err *reterr)
{
    struct progress p = {.run = r, .phase = name, .start_ms = lh_mono_ms()};
    int rc = 0;

    if (!job_data_is_shards(texts, ret_dir))
        rc = prepare_shards(texts, format, r->job, t, r->cache_dir, r->threads, on_progress, &p,
                            ret_dir, reterr);
    return rc < 0 ? rc : put_figures(r, &p, format, ret_dir, reterr);
}

static int prepare_all(struct run *r, char *train, char *eval, struct lh_err *reterr)
{
    const struct lh_job *job = r->job;
    bool texts = job->data.train.n > 0 && job->data.format != LH_DATA_TOKENS;
    const struct lh_strings *measured = &job->eval.perplexity;
    bool eval_texts = measured->n > 0 && !job_data_is_tokens(measured);
    struct tokenizer *t = NULL;
    char path[1024];
    int rc = 0;

    if (!texts && !eval_texts)
        return 0; /* tokens need no preparation */
    rc = run_path(job->model.base, "/model/base", path, reterr);
    if (rc == 0)
        rc = run_point(tokenizer_open(path, &t, reterr), "/model/base", reterr);
    if (rc == 0 && texts)
        rc = run_point(
            prepare_list(r, &job->data.train, job->data.format, t, "train", train, reterr),
            "/data/train", reterr);
    if (rc == 0 && eval_texts)
        rc = run_point(prepare_list(r, measured, LH_DATA_TEXT, t, "eval", eval, reterr),
                       "/eval/perplexity", reterr);
    tokenizer_free(t);
    return rc;
}

int prepare_inputs(struct run *r, char *ret_train, char *ret_eval, struct lh_err *reterr)
{
    char train[1024] = "", eval[1024] = "";
    int rc = r->comm->rank == 0 ? prepare_all(r, train, eval, reterr) : 0;

    rc = run_agree(r, rc, reterr);
    if (rc < 0)
        return rc;
    if (ret_train)
        memcpy(ret_train, train, sizeof(train));
    if (ret_eval)
        memcpy(ret_eval, eval, sizeof(eval));
    return 0;
}

int prepare_only(struct run *r, struct lh_err *reterr)
{
    struct held_out *texts = NULL;
    struct dataset *d = NULL;
    char train[1024], eval[1024];
    int rc = prepare_inputs(r, train, eval, reterr);

    if (rc == 0 && r->job->kind == LH_KIND_TRAIN && *train) {
        rc = run_point(dataset_open(r->job, train, INT64_MAX, &d, reterr), "/data/train", reterr);
        dataset_close(d);
    }
    if (rc == 0 && r->job->kind != LH_KIND_PREPARE && *eval) {
        rc = held_out_open(r->job, eval, INT64_MAX, &texts, reterr);
        held_out_close(texts);
    }
    return rc;
}

static int copy_file(const char *from, const char *to, struct lh_err *reterr)
{
    int in = open(from, O_RDONLY | O_CLOEXEC), out = -1, rc = 0;
    ssize_t n = 1;

    if (in < 0)
        return lh_err_set(reterr, -errno, "open '%s'", from);
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (out < 0)
        rc = lh_err_set(reterr, -errno, "create '%s'", to);
    while (rc == 0 && n > 0) {
        n = sendfile(out, in, NULL, 1 << 24);
        if (n < 0 && errno != EINTR)
            rc = lh_err_set(reterr, -errno, "copy '%s' to '%s'", from, to);
    }
    if (rc == 0 && fsync(out) < 0)
        rc = lh_err_set(reterr, -errno, "sync '%s'", to);
    if (out >= 0)
        (void)close(out);
    (void)close(in);
    return rc;
}

/* Links (across file systems: copies) one file of a shard directory; shards never change, so a link
 * is as good. */
static int take_file(const char *from, const char *to, const char *name, struct lh_err *reterr)
{
    char source[1400], target[1400];

    (void)snprintf(source, sizeof(source), "%s/%s", from, name);
    (void)snprintf(target, sizeof(target), "%s/%s", to, name);
    if (link(source, target) == 0)
        return 0;
    return copy_file(source, target, reterr);
}

static int publish(struct run *r, const char *shards, const char *name, struct lh_err *reterr)
{
    char tmp[1100], final[1100];
    struct lh_manifest manifest;
    int rc;

    if (!*shards)
        return 0;
    if (snprintf(final, sizeof(final), "%s/%s", r->out_dir, name) >= 1000)
        return lh_err_set(reterr, -ENAMETOOLONG, "output '%s/%s'", r->out_dir, name);
    (void)snprintf(tmp, sizeof(tmp), "%.1000s.tmp", final);
    rc = lh_manifest_read(shards, &manifest, reterr);
    if (rc < 0)
        return rc;
    rc = lh_remove_tree(tmp, reterr);
    if (rc == 0)
        rc = lh_mkdir_p(tmp, reterr);
    for (unsigned i = 0; rc == 0 && i < manifest.n_files; i++)
        rc = take_file(shards, tmp, manifest.files[i].name, reterr);
    if (rc == 0)
        rc = take_file(shards, tmp, LH_MANIFEST_NAME, reterr);
    if (rc == 0)
        rc = lh_sync_path(tmp, reterr);
    if (rc == 0)
        rc = lh_remove_tree(final, reterr);
    if (rc == 0 && rename(tmp, final) < 0)
        rc = lh_err_set(reterr, -errno, "rename '%s'", tmp);
    if (rc == 0)
        rc = lh_sync_path(r->out_dir, reterr);
    lh_manifest_release(&manifest);
    return rc;
}

int kind_prepare(struct run *r, struct lh_err *reterr)
{
    char train[1024], eval[1024];
    int rc = prepare_inputs(r, train, eval, reterr);

    if (rc < 0)
        return rc;
    if (r->comm->rank == 0) {
        rc = publish(r, train, "shards", reterr);
        if (rc == 0)
            rc = publish(r, eval, "shards-eval", reterr);
    }
    return run_agree(r, rc, reterr);
}
