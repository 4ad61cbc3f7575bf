/* engine_plan.c - memory, work and time of what engine.c opens: the plan that `--plan` prints and
 * that a run allocates by. See engine.h.
 */
#include "proto/base/json.h"
#include "worker/kinds/engine.h"
#include "worker/kinds/step_time.h"
#include "worker/model/keep.h"
#include "worker/model/rehearse.h"
#include "worker/model/rope.h"
#include <assert.h>
#include <errno.h>

/* The program, its tables and what its libraries keep, beyond what MPI_Init leaves: 6 MB measured
 * where products are our own, 13 to 16 MB where oneDNN makes them. */
#define PROGRAM_BYTES ((uint64_t)10 << 20)
/* What a process holds when MPI_Init returns, 25 to 35 MB: not planned, but taken off a limit
 * before anything is kept. */
#define START_BYTES ((uint64_t)32 << 20)

/* What loading takes beside the weights: the buffer that they pass through (params_load.c), and
 * what the system reads ahead of their files, 6 to 8 MB measured. */
#define LOADING_BYTES ((uint64_t)24 << 20)

static void count_flops(struct engine *e, const struct lh_job *job)
{
    bool train = e->model.dims.backward;

    e->model.plan.flops_step = llama_flops(&e->model, train ? job->optim.batch_sequences : 1,
                                           job->context.length, train ? engine_group(job) : 0);
}

/* What a rank may plan with, when its machine runs local_ranks of them. Half of what is free:
 * others take memory later, and the page cache that serves the data needs room too. */
static uint64_t memory_budget(const struct lh_job *job, int local_ranks)
{
    uint64_t limit = (uint64_t)job->limits.memory_bytes;

    if (limit == 0)
        limit = plan_machine_free() / 2 / (uint64_t)plan_machine_ranks(local_ranks);
    return limit - LH_MIN(limit, START_BYTES);
}

static int choose_kept(struct engine *e, const struct lh_job *job, uint64_t budget,
                       struct lh_err *reterr)
{
    int rc = keep_choose(&e->model, job->context.length, engine_group(job), budget, reterr);

    if (rc == 0)
        count_flops(e, job);
    return rc;
}

int engine_check(const struct engine *e, const struct lh_job *job, int local_ranks,
                 struct lh_err *reterr)
{
    uint64_t limit = (uint64_t)job->limits.memory_bytes;

    assert(local_ranks > 0);
    if (limit > 0)
        return plan_check(&e->model.plan, limit, "/limits/memory_bytes", reterr);
    return plan_check(&e->model.plan, plan_machine_total() / (uint64_t)local_ranks,
                      "/context/length", reterr);
}

/* What a job of this kind does with its model. */
static struct rehearsal rehearsal_of(const struct engine *e, const struct lh_job *job)
{
    unsigned cache = e->model.dims.cache > 0 ? REHEARSE_CACHE : 0;
    unsigned eval = job->eval.perplexity.n > 0 ? REHEARSE_LOSS : 0;
    struct rehearsal r = {.train_group = engine_group(job), .eval_group = engine_eval_group(job)};

    switch (job->kind) {
    case LH_KIND_EXPORT:
        r.passes = REHEARSE_LOGITS;
        break;
    case LH_KIND_GENERATE:
        r.passes = cache;
        break;
    case LH_KIND_TRAIN:
        r.passes = REHEARSE_TRAIN | eval | cache;
        break;
    default:
        r.passes = REHEARSE_LOSS | cache;
    }
    return r;
}

/* Loading ends before a pass touches anything else, so it counts where a pass takes less. In
 * training it never does: gradients alone, or what is kept, are more in any model that matters. */
static uint64_t loading_bytes(const struct plan *p)
{
    uint64_t loading = LH_MIN(LOADING_BYTES, p->bytes[PLAN_WEIGHTS]);
    uint64_t later = p->bytes[PLAN_CACHE] + p->bytes[PLAN_ACTIVATIONS] + p->bytes[PLAN_WORKSPACE] +
                     p->bytes[PLAN_SCRATCH];

    return loading - LH_MIN(loading, later);
}

int engine_count(struct engine *e, const struct lh_job *job, const struct engine_place *place,
                 struct lh_err *reterr)
{
    struct rehearsal rehearsal = rehearsal_of(e, job);
    const struct kn_ops *ops;
    uint64_t scratch = 0;
    int rc = kn_ops_for(lh_device_name(job->resources.device), &ops, reterr);

    if (rc == 0)
        rc = engine_check(e, job, place->local_ranks, reterr); /* a rehearsal takes memory */
    if (rc == 0)
        rc = rehearse_scratch(&e->model, &rehearsal, ops, place->threads, &scratch, reterr);
    if (rc < 0)
        return rc;
    llama_add_outside(&e->model, PLAN_SCRATCH, scratch);
    llama_add_outside(&e->model, PLAN_COMMUNICATION,
                      comm_bytes(place->ranks, (uint64_t)e->model.params.n_region * sizeof(float)));
    llama_add_outside(&e->model, PLAN_HOST, PROGRAM_BYTES);
    if (!e->model.dims.backward)
        llama_add_outside(&e->model, PLAN_HOST, loading_bytes(&e->model.plan));
    if (job->kind == LH_KIND_TRAIN || job->kind == LH_KIND_EVAL)
        count_flops(e, job);
    return 0;
}

int engine_keep(struct engine *e, struct run *r, struct lh_err *reterr)
{
    int64_t least =
        -(int64_t)LH_MIN(memory_budget(r->job, r->comm->local_size), (uint64_t)INT64_MAX);
    int rc = r->comm->ops->max_i64(r->comm, &least, 1, reterr);

    return rc < 0 ? rc : choose_kept(e, r->job, (uint64_t)-least, reterr);
}

/* What the machine can never hold is the job's fault; what others hold now is not: it may fit
 * later, or on another node. */
int engine_fits(const struct engine *e, const struct run *r, struct lh_err *reterr)
{
    struct lh_err err = {0};
    int rc = engine_check(e, r->job, r->comm->local_size, reterr);

    if (rc < 0 || r->job->limits.memory_bytes > 0)
        return rc;
    rc = plan_check(&e->model.plan, plan_machine_free() / (uint64_t)r->comm->local_size, "", &err);
    return rc < 0 ? lh_err_set(reterr, LH_ETRYAGAIN, "memory is taken by others now: %s", err.text)
                  : 0;
}

int engine_peak(struct run *r, int64_t *ret_bytes, struct lh_err *reterr)
{
    int64_t peak = (int64_t)plan_process_peak() - (int64_t)r->start_bytes;
    int rc = r->comm->ops->max_i64(r->comm, &peak, 1, reterr);

    if (rc == 0)
        *ret_bytes = peak;
    return rc;
}

void engine_report_bytes(struct run *r, uint64_t planned, int64_t peak)
{
    (void)json_object_set_new(r->result, "bytes_per_rank", json_integer((json_int_t)planned));
    (void)json_object_set_new(r->result, "peak_bytes", json_integer((json_int_t)peak));
}

json_t *engine_kept_json(const struct engine *e)
{
    json_t *kept = json_pack("{s:I}", "layers", (json_int_t)e->model.dims.L);

    for (int i = 0; i < WORK_KEEPS; i++)
        (void)json_object_set_new(kept, keep_name((enum work_keep)i),
                                  json_integer((json_int_t)e->model.dims.keep[i]));
    return kept;
}

int engine_plan_json(const struct engine *e, const struct lh_job *job, int local_ranks,
                     json_t **ret_plan, struct lh_err *reterr)
{
    int rc = engine_check(e, job, local_ranks, reterr);
    json_t *plan = rc == 0 ? plan_json(&e->model.plan) : NULL;

    if (rc < 0)
        return rc;
    if (!plan)
        return lh_err_set(reterr, -ENOMEM, "the plan");
    (void)json_object_set_new(plan, "parameters",
                              json_integer((json_int_t)e->model.params.n_total));
    (void)json_object_set_new(plan, "trainable",
                              json_integer((json_int_t)e->model.params.n_trainable));
    (void)json_object_set_new(plan, "rope", rope_json(&e->rope));
    if (e->model.dims.backward)
        (void)json_object_set_new(plan, "kept", engine_kept_json(e));
    *ret_plan = plan;
    return 0;
}

static int tell_time(const struct engine *e, const struct lh_job *job,
                     const struct engine_place *place, json_t *plan, struct lh_err *reterr)
{
    const struct kn_ops *ops;
    struct rates r = {0};
    int rc = kn_ops_for(lh_device_name(job->resources.device), &ops, reterr);

    if (rc == 0)
        rc = rates_measure(&e->model, &e->spec, ops, place->threads,
                           e->model.dims.backward ? engine_group(job) : 0, &r, reterr);
    if (rc < 0 || r.product <= 0)
        return rc;
    (void)json_object_set_new(plan, "step_s", json_real(step_time(&e->model, job, place, &r)));
    (void)json_object_set_new(
        plan, "rates",
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:i}", "product", r.product, "head", r.head,
                  "attention", r.attention, "attention_backward", r.attention_bwd, "bytes", r.rows,
                  "update", r.update, "copy", r.copy, "threads", place->threads));
    return 0;
}

int engine_plan(const struct lh_job *job, const struct engine_place *place, json_t **ret_plan,
                struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *plan = NULL;
    struct engine e = {0};
    int rc = engine_open(job, place->ranks, &e, reterr);

    if (rc == 0)
        rc = engine_count(&e, job, place, reterr);
    if (rc == 0)
        rc = choose_kept(&e, job, memory_budget(job, place->local_ranks), reterr);
    if (rc == 0)
        rc = engine_plan_json(&e, job, 1, &plan, reterr);
    if (rc == 0 && place->measure)
        rc = tell_time(&e, job, place, plan, reterr);
    engine_close(&e);
    if (rc == 0) {
        *ret_plan = plan;
        plan = NULL;
    }
    return rc;
}
