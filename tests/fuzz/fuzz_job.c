/* fuzz_job.c - any bytes as a job: refused with reasons, or taken with an echo that parses to
 * itself. */
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "proto/job.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>

static void check_problems(const struct lh_problems *problems)
{
    FUZZ_ASSERT(problems->n > 0);
    for (unsigned i = 0; i < problems->n; i++) {
        const struct lh_problem *p = &problems->at[i];

        FUZZ_ASSERT(p->code && p->code[0] && p->detail[0]);
        FUZZ_ASSERT(p->pointer[0] == '\0' || p->pointer[0] == '/');
        FUZZ_ASSERT(lh_utf8_valid(p->pointer, strlen(p->pointer)));
        FUZZ_ASSERT(lh_utf8_valid(p->detail, strlen(p->detail)));
    }
}

static void check_echo(const struct lh_job *job)
{
    char *first = lh_json_text(job->spec, 0), *second;
    struct lh_job *again = NULL;
    struct lh_err err = {0};
    json_t *spec = NULL;

    FUZZ_ASSERT(first && lh_json_parse(first, strlen(first), LH_JOB_DEPTH_MAX, &spec, &err) == 0);
    FUZZ_ASSERT(lh_job_parse(spec, &again, NULL, &err) == 0);
    second = lh_json_text(again->spec, 0);
    FUZZ_ASSERT(second && strcmp(first, second) == 0);
    free(first);
    free(second);
    json_decref(spec);
    lh_job_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lh_problems problems;
    struct lh_job *job = NULL;
    struct lh_err err = {0};
    json_t *spec = NULL;
    int rc;

    if (size > LH_JOB_BODY_MAX ||
        lh_json_parse((const char *)data, size, LH_JOB_DEPTH_MAX, &spec, &err) < 0)
        return 0;
    rc = lh_job_parse(spec, &job, &problems, &err);
    json_decref(spec);
    if (rc == 0)
        check_echo(job);
    else
        check_problems(&problems);
    lh_job_free(job);
    return 0;
}
