/* main.c - longhaul-worker: starts one rank of a job, hands it to its kind, and ends with an exit
 * code that says why.
 *
 * The way of a run: command line, communicator, journal, job, the same job on every rank, back end,
 * digest of the model, kind, `done` event, exit. Everything that may fail on one rank alone is
 * agreed on at the next border; what a rank reports without agreement ends the others through
 * comm->abort, with the same exit code.
 */
#include "kernels/profile.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "worker/ckpt/ckpt.h"
#include "worker/commands.h"
#include "worker/formats/mapping.h"
#include "worker/kinds/prepare.h"
#include "worker/report.h"
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MMAP_BYTES_MIN (256 << 10)

/* What a run owns beside struct run. */
struct session {
    struct run run;
    const struct worker_options *options;
    struct lh_job *job;
    char out_dir[PATH_MAX], resume_dir[1024], cache_dir[1024], events_dir[PATH_MAX + 16];
};

static struct session *the_session; /* for what comes by signal */

static enum worker_exit run_job(const struct worker_options *o, int *argc, char ***argv);
static int session_start(struct session *s, struct lh_err *reterr);
static int session_kind(struct session *s, struct lh_err *reterr);
static enum worker_exit session_end(struct session *s, int rc, const struct lh_err *err);
static void on_lost_input(int rc, const struct lh_err *err);

static enum worker_exit complain(int rc, const struct lh_err *err)
{
    (void)fprintf(stderr, "longhaul-worker: %s%s%s\n", err->pointer, *err->pointer ? ": " : "",
                  err->text);
    return run_exit_code(rc);
}

/* Large blocks come from the system and go back to it when they are freed. Left alone the allocator
 * raises its threshold with each one freed, and what opening a model and its texts takes for a
 * moment (20 MB for a vocabulary of 49152) stays in the heap for good. */
static void memory_returns(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, MMAP_BYTES_MIN);
}

int main(int argc, char **argv)
{
    struct worker_options o;
    struct lh_err err = {0};
    int rc;

    memory_returns();
    rc = worker_options_parse(argc, argv, &o, &err);

    if (rc < 0)
        return complain(rc, &err);
    switch (o.mode) {
    case WORKER_HELP:
        (void)fputs(worker_help(), stdout);
        return EXIT_DONE;
    case WORKER_VERSION:
        (void)printf("longhaul-worker %s\n", LH_VERSION);
        return EXIT_DONE;
    case WORKER_TOKENIZE:
        rc = worker_tokenize(&o, &err);
        if (rc < 0)
            return complain(rc, &err);
        return EXIT_DONE;
    case WORKER_PLAN:
        return worker_preflight(&o);
    case WORKER_RUN:
    case WORKER_PREPARE:
        break;
    }
    return run_job(&o, &argc, &argv);
}

static void on_signal(int sig)
{
    if (sig == SIGUSR1)
        the_session->run.checkpoint_wanted = 1;
    else
        the_session->run.stop_wanted = 1;
}

/* A second Ctrl-C ends the process at once: someone at a terminal means it. */
static void signals_take(struct session *s)
{
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    the_session = s;
    (void)sigaction(SIGUSR1, &act, NULL);
    (void)sigaction(SIGTERM, &act, NULL);
    act.sa_flags = SA_RESTART | (int)SA_RESETHAND;
    (void)sigaction(SIGINT, &act, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    mapping_watch(on_lost_input);
}

static enum worker_exit run_job(const struct worker_options *o, int *argc, char ***argv)
{
    struct session *s = calloc(1, sizeof(*s));
    struct lh_err err = {0};
    enum worker_exit code;
    int rc;

    if (!s)
        return EXIT_TRY_AGAIN;
    s->options = o;
    s->run.result = json_object();
    s->run.start_ms = lh_mono_ms();
    signals_take(s);
    rc = o->mode == WORKER_PREPARE ? comm_self_new(&s->run.comm, &err)
                                   : comm_mpi_new(argc, argv, &s->run.comm, &err);
    if (rc < 0)
        return complain(rc, &err);
    s->run.start_bytes = plan_process_peak();
    rc = session_start(s, &err);
    if (rc == 0)
        rc = session_kind(s, &err);
    code = session_end(s, rc, &err);
    json_decref(s->run.result);
    lh_job_free(s->job);
    free(s);
    return code;
}

/* Makes OUT and the journal of this rank. From here on, errors are in the journal too. */
static int open_journal(struct session *s, struct lh_err *reterr)
{
    const struct worker_options *o = s->options;
    struct run *r = &s->run;
    int rc;

    if (o->mode == WORKER_PREPARE && !o->out_dir)
        return lh_reporter_open(o->events_dir, r->comm->rank, &r->reporter, reterr);
    rc = lh_mkdir_p(o->out_dir, reterr);
    if (rc < 0)
        return rc;
    if (!realpath(o->out_dir, s->out_dir))
        return lh_err_set(reterr, -errno, "--out '%s'", o->out_dir);
    r->out_dir = s->out_dir;
    if (access(s->out_dir, W_OK) < 0)
        return lh_err_set(reterr, -errno, "--out '%s' cannot be written to", o->out_dir);
    (void)snprintf(s->events_dir, sizeof(s->events_dir), "%s/events", s->out_dir);
    if (o->events_dir && *o->events_dir)
        (void)snprintf(s->events_dir, sizeof(s->events_dir), "%s", o->events_dir);
    rc = lh_mkdir_p(s->events_dir, reterr);
    return rc < 0 ? rc : lh_reporter_open(s->events_dir, r->comm->rank, &r->reporter, reterr);
}

/* Where inputs lie may differ between machines; what the job is may not. */
static void job_digest(const struct lh_job *job, char ret_hex[static LH_SHA256_HEX])
{
    LH_CLEANUP(lh_json_decrefp) json_t *spec = json_deep_copy(job->spec);
    char *text;

    json_object_del(json_object_get(spec, "model"), "base");
    json_object_del(json_object_get(spec, "model"), "adapter");
    json_object_del(json_object_get(spec, "data"), "train");
    json_object_del(json_object_get(spec, "eval"), "perplexity");
    text = spec ? lh_json_text(spec, 0) : NULL;
    lh_sha256_hex(text ? text : "", text ? strlen(text) : 0, ret_hex);
    free(text);
}

/* A directory of checkpoints stands for the newest one in it. */
static int find_resume(struct session *s, struct lh_err *reterr)
{
    const char *dir = s->options->resume_dir;
    char manifest[1100];
    int rc = 0;

    if (!dir)
        return 0;
    (void)snprintf(manifest, sizeof(manifest), "%s/%s", dir, LH_MANIFEST_NAME);
    if (!lh_is_dir(dir))
        return lh_err_set(reterr, LH_EINPUT, "--resume '%s' is not a directory", dir);
    if (lh_path_exists(manifest))
        (void)snprintf(s->resume_dir, sizeof(s->resume_dir), "%s", dir);
    else
        rc = ckpt_newest(dir, s->resume_dir, reterr);
    s->run.resume_dir = s->resume_dir;
    return rc;
}

static int open_profile(struct session *s, struct lh_err *reterr)
{
    struct run *r = &s->run;
    enum kn_dtype t = r->job->precision == LH_FP32 ? KN_F32 : KN_BF16;
    double peak = r->job->resources.device == LH_DEVICE_CPU ? kn_cpu_peak(t) : 0;
    int rc = profile_open(s->options->profile, r->comm->rank, &r->profile, reterr);

    return rc < 0 ? rc
                  : profile_stream(r->profile, r->ops, r->threads, t, peak, &r->ops, &r->stream,
                                   reterr);
}

/* The end of the trace, and rank 0's table. A run does not fail because its profile could not be
 * written. */
static void close_profile(struct run *r)
{
    struct lh_err err = {0};

    if (!r->profile)
        return;
    if (profile_finish(r->profile, &err) < 0)
        lh_warn("profile.failed", "error=\"%s\"", err.text);
    if (r->comm->rank == 0)
        profile_print(r->profile, stdout);
}

static int open_backend(struct session *s, struct lh_err *reterr)
{
    struct run *r = &s->run;
    int rc;

    r->threads = worker_threads(r->job, r->comm->local_size);
    if (s->options->profile && r->job->kind == LH_KIND_PREPARE)
        return lh_err_set(reterr, LH_EJOB, "--profile shows ops; kind prepare has none");
    if (r->job->kind == LH_KIND_PREPARE || s->options->mode == WORKER_PREPARE)
        return 0;
    rc = kn_ops_for(lh_device_name(r->job->resources.device), &r->ops, reterr);
    if (rc < 0)
        return rc;
    return s->options->profile ? open_profile(s, reterr)
                               : r->ops->stream_new(r->threads, &r->stream, reterr);
}

/* One rank a machine reads the model's files for their digest; all must have found the same. */
static int digest_model(struct run *r, struct lh_err *reterr)
{
    char found[LH_SHA256_HEX] = "", path[1024];
    struct model_source *source = NULL;
    int rc = 0;

    if (!r->job->model.base || r->job->kind == LH_KIND_PREPARE)
        return 0;
    if (r->comm->local_rank == 0) {
        rc = run_path(r->job->model.base, "/model/base", path, reterr);
        if (rc == 0)
            rc = model_source_open(path, &source, reterr);
        if (rc == 0)
            rc = model_source_digest(source, found, reterr);
        model_source_close(source);
    }
    rc = run_agree(r, rc, reterr);
    if (rc < 0)
        return rc;
    memcpy(r->model_digest, found, sizeof(found));
    rc = r->comm->ops->broadcast(r->comm, r->model_digest, sizeof(r->model_digest), 0, reterr);
    if (rc < 0)
        return rc;
    return run_same(r, "model", *found ? found : r->model_digest, reterr);
}

static int session_start(struct session *s, struct lh_err *reterr)
{
    struct run *r = &s->run;
    char digest[LH_SHA256_HEX] = "", context[48];
    int rc;

    (void)snprintf(context, sizeof(context), "rank=%d", r->comm->rank);
    lh_log_set_context(context);
    rc = run_agree(r, open_journal(s, reterr), reterr);
    if (rc < 0)
        return rc;
    rc = run_agree(r, lh_job_load(s->options->job, &s->job, reterr), reterr);
    if (rc < 0)
        return rc;
    r->job = s->job;
    r->dump_dir = s->options->dump_dir;
    r->cache_dir = worker_cache_dir(s->options, s->cache_dir);
    job_digest(r->job, digest);
    rc = run_same(r, "job", digest, reterr);
    if (rc == 0)
        rc = run_agree(r, find_resume(s, reterr), reterr);
    if (rc == 0)
        rc = run_agree(r, open_backend(s, reterr), reterr);
    if (rc < 0)
        return rc;
    rc = run_agree(r, report_start(r, s->options->mode != WORKER_PREPARE, reterr), reterr);
    return rc < 0 ? rc : digest_model(r, reterr);
}

static int session_kind(struct session *s, struct lh_err *reterr)
{
    struct run *r = &s->run;

    if (s->options->mode == WORKER_PREPARE)
        return prepare_only(r, reterr);
    /* These two have spans of their own: steps, windows. */
    if (r->job->kind != LH_KIND_TRAIN && r->job->kind != LH_KIND_EVAL)
        profile_begin(r->profile, lh_kind_name(r->job->kind));
    switch (r->job->kind) {
    case LH_KIND_PREPARE:
        return kind_prepare(r, reterr);
    case LH_KIND_TRAIN:
        return kind_train(r, reterr);
    case LH_KIND_EVAL:
        return kind_eval(r, reterr);
    case LH_KIND_CHECK:
        return kind_check(r, reterr);
    case LH_KIND_EXPORT:
        return kind_export(r, reterr);
    case LH_KIND_GENERATE:
        return kind_generate(r, reterr);
    }
    return lh_err_set(reterr, LH_EINTERNAL, "kind %d", (int)r->job->kind);
}

/* An input file was cut short, or its disk failed, in the midst of the work: nothing here can be
 * gone on with, but the journal and the other ranks are told. */
static void on_lost_input(int rc, const struct lh_err *err)
{
    struct run *r = &the_session->run;
    enum worker_exit code = run_exit_code(rc);

    (void)complain(rc, err);
    if (r->reporter)
        report_end(r, rc, code, err);
    if (r->comm && r->comm->size > 1)
        r->comm->ops->abort(r->comm, (int)code);
    _exit((int)code);
}

static enum worker_exit session_end(struct session *s, int rc, const struct lh_err *err)
{
    struct run *r = &s->run;
    enum worker_exit code = run_exit_code(rc);
    bool agreed = rc == 0 || rc == r->agreed_code;
    char stop_file[PATH_MAX + 8];

    if (rc == LH_ESTOPPED && r->comm->rank == 0) {
        lh_info("job.stopped", "exit=%d", (int)code);
        (void)snprintf(stop_file, sizeof(stop_file), "%s/stop", r->out_dir);
        (void)unlink(stop_file); /* obeyed; the next attempt must not stop at once */
    } else if (rc < 0 && (r->comm->rank == 0 || !agreed)) {
        (void)complain(rc, err);
    } else if (rc == 0 && r->comm->rank == 0) {
        lh_info("job.done", "exit=0");
    }
    if (r->reporter)
        report_end(r, rc, code, err);
    if (!agreed && r->comm->size > 1)
        r->comm->ops->abort(r->comm, (int)code);
    lh_reporter_close(r->reporter);
    close_profile(r);
    if (r->stream)
        r->ops->stream_free(r->stream);
    profile_free(r->profile);
    r->comm->ops->free(r->comm);
    return code;
}
