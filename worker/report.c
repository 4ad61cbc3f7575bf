/* report.c - the first and the last lines of a rank's journal; see report.h. */
#include "worker/report.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "worker/ckpt/ckpt.h"
#include "worker/kinds/engine.h"
#include "worker/kinds/job_plan.h"
#include <errno.h>
#include <unistd.h>

/* What `--plan` would say, in rank 0's first line; a job that does not fit is found here, before
 * any weight is read. */
static int add_plan(struct run *r, json_t *line, struct lh_err *reterr)
{
    const struct lh_job *job = r->job;
    struct engine_place place = engine_place_of(r);
    json_t *plan = NULL;
    int rc;

    if (r->comm->rank != 0 || job->kind == LH_KIND_CHECK || job->kind == LH_KIND_PREPARE)
        return 0;
    rc = job_plan(job, &place, &plan, reterr);
    if (rc < 0)
        return rc;
    json_object_set(line, "parameters", json_object_get(plan, "parameters"));
    json_object_set(line, "trainable", json_object_get(plan, "trainable"));
    json_object_set_new(line, "plan", plan);
    return 0;
}

int report_start(struct run *r, bool with_plan, struct lh_err *reterr)
{
    const struct lh_job *job = r->job;
    const char *device = lh_device_name(job->resources.device);
    LH_CLEANUP(lh_json_decrefp) json_t *machine = ckpt_machine_json();
    json_t *line;
    char host[65] = "";
    int64_t resume_step = 0;
    int rc = r->resume_dir ? ckpt_step(r->resume_dir, &resume_step, reterr) : 0;

    (void)gethostname(host, sizeof(host) - 1);
    line = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:s, s:i, s:I, s:I}", "version",
                     LH_VERSION, "kind", lh_kind_name(job->kind), "host", host, "pid",
                     (int)getpid(), "local_rank", r->comm->local_rank, "ranks", r->comm->size,
                     "slots", (json_int_t)job->resources.slots, "device", device, "threads",
                     r->threads, "resume_step", (json_int_t)resume_step, "steps",
                     (json_int_t)(job->kind == LH_KIND_TRAIN ? job->optim.steps : 0));
    if (!line)
        return lh_err_set(reterr, -ENOMEM, "report of the start");
    json_object_del(machine, "compiler");
    json_object_del(machine, "longhaul");
    json_object_update(line, machine);
    if (rc == 0 && with_plan)
        rc = add_plan(r, line, reterr);
    lh_report(r->reporter, "start", line);
    lh_report_beat(r->reporter);
    if (r->comm->rank == 0)
        lh_info("job.start", "name=\"%s\" kind=%s ranks=%d threads=%d device=%s out=%s", job->name,
                lh_kind_name(job->kind), r->comm->size, r->threads, device,
                r->out_dir ? r->out_dir : "-");
    return rc;
}

void report_end(struct run *r, int rc, enum worker_exit code, const struct lh_err *err)
{
    const char *outcome = rc == 0 ? "done" : rc == LH_ESTOPPED ? "stopped" : "failed";
    json_t *done =
        json_pack("{s:s, s:i, s:I, s:f}", "outcome", outcome, "exit", (int)code, "steps",
                  (json_int_t)r->steps, "seconds", (double)(lh_mono_ms() - r->start_ms) * 1e-3);

    if (rc < 0 && rc != LH_ESTOPPED)
        lh_report(r->reporter, "error",
                  json_pack("{s:s, s:s, s:s, s:i}", "code", run_error_name(rc), "pointer",
                            err->pointer, "text", err->text, "exit", (int)code));
    if (r->comm->rank == 0 && json_object_size(r->result) > 0)
        json_object_set(done, "result", r->result);
    lh_report(r->reporter, "done", done);
}
