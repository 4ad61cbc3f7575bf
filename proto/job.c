/* job.c - the public face of jobs: parse, load, free, names. The work is in job_parse.c and
 * job_check.c, driven by the table in job_table.c.
 */
#include "proto/job.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "proto/job_parse.h"
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A body of LH_JOB_BODY_MAX that is all micro-batches of one row grows sixteenfold: "[1]," is a
 * list head, an array and a mark. */
#define ARENA_MAX_BYTES ((size_t)32 * LH_JOB_BODY_MAX)

void lh_problem_add(struct lh_problems *p, const char *pointer, const char *code, const char *fmt,
                    ...)
{
    struct lh_problem *problem;
    va_list ap;

    if (p->n == LH_PROBLEMS_MAX)
        return;
    problem = &p->at[p->n++];
    problem->code = code;
    (void)snprintf(problem->pointer, sizeof(problem->pointer), "%s", pointer);
    lh_utf8_trim(problem->pointer);
    va_start(ap, fmt);
    (void)vsnprintf(problem->detail, sizeof(problem->detail), fmt, ap);
    va_end(ap);
    lh_utf8_trim(problem->detail);
}

int lh_job_parse(const json_t *spec, struct lh_job **ret_job, struct lh_problems *problems,
                 struct lh_err *reterr)
{
    LH_CLEANUP(lh_job_freep) struct lh_job *job = calloc(1, sizeof(*job));
    struct lh_problems *found = problems ? problems : calloc(1, sizeof(*found));
    LH_CLEANUP(lh_json_decrefp) json_t *input = job_switch(spec);
    struct job_parser parser = {.job = job, .input = input, .problems = found};
    int rc = 0;

    if (job)
        lh_arena_init(&job->arena, ARENA_MAX_BYTES);
    if (!job || !found || (spec && !input) || !(job->spec = json_object())) {
        rc = lh_err_set(reterr, -ENOMEM, "parse a job");
        goto out;
    }
    found->n = 0;
    if (json_is_object(spec)) {
        job_read(&parser);
        job_check(&parser);
    } else {
        lh_problem_add(found, "", "wrong_type", "a job is a JSON object, as {\"kind\": \"check\"}");
    }
    if (parser.out_of_memory) /* what was found may follow from it */
        rc = lh_err_set(reterr, -ENOMEM, "parse a job");
    else if (found->n > 0)
        rc = lh_err_at(reterr, LH_EJOB, found->at[0].pointer, "%s", found->at[0].detail);
    if (rc == 0) {
        *ret_job = job;
        job = NULL;
    }
out:
    if (found != problems)
        free(found);
    return rc;
}

/* A person who starts the worker by hand sees as many problems as the text holds. */
static int all_problems(const char *path, const struct lh_problems *problems, struct lh_err *reterr)
{
    char text[sizeof(reterr->text)];
    size_t used = 0;

    for (unsigned i = 0; i < problems->n && used < sizeof(text); i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s", i > 0 ? "; " : "",
                                 problems->at[i].detail);
    return lh_err_at(reterr, LH_EJOB, problems->at[0].pointer, "'%s': %s", path, text);
}

int lh_job_load(const char *path, struct lh_job **ret_job, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *spec = NULL;
    struct lh_problems *problems;
    int rc = lh_json_load(path, LH_JOB_BODY_MAX, &spec, reterr);

    if (rc == LH_EINPUT && reterr)
        reterr->code =
            LH_EJOB; /* a job that is no JSON is a bad job, not a bad input file of one */
    if (rc < 0)
        return rc == LH_EINPUT ? LH_EJOB : rc;
    problems = calloc(1, sizeof(*problems));
    if (!problems)
        return lh_err_set(reterr, -ENOMEM, "parse '%s'", path);
    rc = lh_job_parse(spec, ret_job, problems, reterr);
    if (rc == LH_EJOB)
        rc = all_problems(path, problems, reterr);
    free(problems);
    return rc;
}

void lh_job_free(struct lh_job *job)
{
    if (!job)
        return;
    json_decref(job->spec);
    lh_arena_release(&job->arena);
    free(job);
}

const char *lh_kind_name(enum lh_kind kind)
{
    assert((unsigned)kind < kind_names.n);
    return kind_names.at[kind].name;
}

const char *lh_precision_name(enum lh_precision precision)
{
    assert((unsigned)precision < precision_names.n);
    return precision_names.at[precision].name;
}

const char *lh_attention_name(enum lh_attention attention)
{
    assert((unsigned)attention < attention_names.n);
    return attention_names.at[attention].name;
}

const char *lh_rope_name(enum lh_rope rope)
{
    assert((unsigned)rope < rope_names.n);
    return rope_names.at[rope].name;
}

const char *lh_device_name(enum lh_device device)
{
    assert((unsigned)device < device_names.n);
    return device_names.at[device].name;
}
