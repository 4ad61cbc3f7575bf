/* job_plan.c - see job_plan.h. */
#include "worker/kinds/job_plan.h"
#include "worker/kinds/engine.h"
#include "worker/kinds/export.h"
#include "worker/kinds/generate.h"

int job_plan(const struct lh_job *job, const struct engine_place *place, json_t **ret_plan,
             struct lh_err *reterr)
{
    switch (job->kind) {
    case LH_KIND_EXPORT:
        return export_plan(job, place, ret_plan, reterr);
    case LH_KIND_GENERATE:
        return generate_plan(job, place, ret_plan, reterr);
    default:
        return engine_plan(job, place, ret_plan, reterr);
    }
}
