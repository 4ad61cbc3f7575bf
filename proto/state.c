/* state.c - the transition tables of jobs and attempts, and the names of all states.
 *
 * The tables are the ones of proto/spec/job-states.md; tests/unit/test_state.c reads that page and
 * compares. The coordinator's core is the only one that moves states; it calls next() and refuses
 * what gives -1.
 *
 *     held <──hold── blocked ──ready──> queued ──placed──> starting ──started──> running
 *        ──release──>   <──block──────     <────requeue────┴───────┬──────────────┘
 *                                                                stop──> stopping ──> final
 */
#include "proto/state.h"
#include "proto/base/attr.h"
#include <assert.h>
#include <stddef.h>
#include <string.h>

struct transition {
    int from, event, to;
};

/* clang-format off: one line a transition, as on the page */
static const struct transition job_table[] = {
    {LH_JOB_HELD, LH_JOB_EV_RELEASE, LH_JOB_BLOCKED},
    {LH_JOB_HELD, LH_JOB_EV_CANCEL, LH_JOB_CANCELLED},

    {LH_JOB_BLOCKED, LH_JOB_EV_HOLD, LH_JOB_HELD},
    {LH_JOB_BLOCKED, LH_JOB_EV_READY, LH_JOB_QUEUED},
    {LH_JOB_BLOCKED, LH_JOB_EV_FAIL,
     LH_JOB_FAILED}, /* preflight, or a dependency that can never be met */
    {LH_JOB_BLOCKED, LH_JOB_EV_CANCEL, LH_JOB_CANCELLED},

    {LH_JOB_QUEUED, LH_JOB_EV_HOLD, LH_JOB_HELD},
    {LH_JOB_QUEUED, LH_JOB_EV_BLOCK, LH_JOB_BLOCKED},
    {LH_JOB_QUEUED, LH_JOB_EV_PLACED, LH_JOB_STARTING},
    {LH_JOB_QUEUED, LH_JOB_EV_CANCEL, LH_JOB_CANCELLED},

    {LH_JOB_STARTING, LH_JOB_EV_STARTED, LH_JOB_RUNNING},
    {LH_JOB_STARTING, LH_JOB_EV_STOP, LH_JOB_STOPPING},
    {LH_JOB_STARTING, LH_JOB_EV_REQUEUE, LH_JOB_QUEUED},
    {LH_JOB_STARTING, LH_JOB_EV_SUCCEED,
     LH_JOB_SUCCEEDED}, /* over before the last rank's report came in */
    {LH_JOB_STARTING, LH_JOB_EV_FAIL, LH_JOB_FAILED},
    {LH_JOB_STARTING, LH_JOB_EV_TIME_OUT, LH_JOB_TIMED_OUT},

    {LH_JOB_RUNNING, LH_JOB_EV_STOP, LH_JOB_STOPPING},
    {LH_JOB_RUNNING, LH_JOB_EV_REQUEUE, LH_JOB_QUEUED},
    {LH_JOB_RUNNING, LH_JOB_EV_SUCCEED, LH_JOB_SUCCEEDED},
    {LH_JOB_RUNNING, LH_JOB_EV_FAIL, LH_JOB_FAILED},
    {LH_JOB_RUNNING, LH_JOB_EV_TIME_OUT, LH_JOB_TIMED_OUT},

    {LH_JOB_STOPPING, LH_JOB_EV_REQUEUE, LH_JOB_QUEUED},
    {LH_JOB_STOPPING, LH_JOB_EV_SUCCEED,
     LH_JOB_SUCCEEDED}, /* it finished before it heard the stop */
    {LH_JOB_STOPPING, LH_JOB_EV_FAIL, LH_JOB_FAILED},
    {LH_JOB_STOPPING, LH_JOB_EV_CANCEL, LH_JOB_CANCELLED},
    {LH_JOB_STOPPING, LH_JOB_EV_TIME_OUT, LH_JOB_TIMED_OUT},
};

static const struct transition attempt_table[] = {
    {LH_ATTEMPT_ALLOCATED, LH_ATTEMPT_EV_PREPARED, LH_ATTEMPT_PREPARED},
    {LH_ATTEMPT_ALLOCATED, LH_ATTEMPT_EV_STOP, LH_ATTEMPT_STOPPING},
    {LH_ATTEMPT_ALLOCATED, LH_ATTEMPT_EV_EXITED,
     LH_ATTEMPT_EXITED}, /* the head gave up while others staged */
    {LH_ATTEMPT_ALLOCATED, LH_ATTEMPT_EV_LOST, LH_ATTEMPT_LOST},

    {LH_ATTEMPT_PREPARED, LH_ATTEMPT_EV_LAUNCH, LH_ATTEMPT_LAUNCHING},
    {LH_ATTEMPT_PREPARED, LH_ATTEMPT_EV_STOP, LH_ATTEMPT_STOPPING},
    {LH_ATTEMPT_PREPARED, LH_ATTEMPT_EV_EXITED,
     LH_ATTEMPT_EXITED}, /* the head's lease ended before the launch */
    {LH_ATTEMPT_PREPARED, LH_ATTEMPT_EV_LOST, LH_ATTEMPT_LOST},

    {LH_ATTEMPT_LAUNCHING, LH_ATTEMPT_EV_RUNNING, LH_ATTEMPT_RUNNING},
    {LH_ATTEMPT_LAUNCHING, LH_ATTEMPT_EV_STOP, LH_ATTEMPT_STOPPING},
    {LH_ATTEMPT_LAUNCHING, LH_ATTEMPT_EV_EXITED, LH_ATTEMPT_EXITED},
    {LH_ATTEMPT_LAUNCHING, LH_ATTEMPT_EV_LOST, LH_ATTEMPT_LOST},

    {LH_ATTEMPT_RUNNING, LH_ATTEMPT_EV_STOP, LH_ATTEMPT_STOPPING},
    {LH_ATTEMPT_RUNNING, LH_ATTEMPT_EV_EXITED, LH_ATTEMPT_EXITED},
    {LH_ATTEMPT_RUNNING, LH_ATTEMPT_EV_LOST, LH_ATTEMPT_LOST},

    {LH_ATTEMPT_STOPPING, LH_ATTEMPT_EV_EXITED, LH_ATTEMPT_EXITED},
    {LH_ATTEMPT_STOPPING, LH_ATTEMPT_EV_CLEANED,
     LH_ATTEMPT_CLEANED}, /* nothing had been launched */
    {LH_ATTEMPT_STOPPING, LH_ATTEMPT_EV_LOST, LH_ATTEMPT_LOST},

    {LH_ATTEMPT_EXITED, LH_ATTEMPT_EV_CLEANED, LH_ATTEMPT_CLEANED},
    {LH_ATTEMPT_EXITED, LH_ATTEMPT_EV_LOST, LH_ATTEMPT_LOST},
};
/* clang-format on */

static const char *const job_names[] = {
    [LH_JOB_HELD] = "held",           [LH_JOB_BLOCKED] = "blocked",
    [LH_JOB_QUEUED] = "queued",       [LH_JOB_STARTING] = "starting",
    [LH_JOB_RUNNING] = "running",     [LH_JOB_STOPPING] = "stopping",
    [LH_JOB_SUCCEEDED] = "succeeded", [LH_JOB_FAILED] = "failed",
    [LH_JOB_CANCELLED] = "cancelled", [LH_JOB_TIMED_OUT] = "timed_out",
};

static const char *const attempt_names[] = {
    [LH_ATTEMPT_ALLOCATED] = "allocated", [LH_ATTEMPT_PREPARED] = "prepared",
    [LH_ATTEMPT_LAUNCHING] = "launching", [LH_ATTEMPT_RUNNING] = "running",
    [LH_ATTEMPT_STOPPING] = "stopping",   [LH_ATTEMPT_EXITED] = "exited",
    [LH_ATTEMPT_CLEANED] = "cleaned",     [LH_ATTEMPT_LOST] = "lost",
};

static const char *const node_names[] = {
    [LH_NODE_UP] = "up",
    [LH_NODE_SUSPECT] = "suspect",
    [LH_NODE_DOWN] = "down",
    [LH_NODE_DRAINED] = "drained",
};

static int table_next(const struct transition *table, size_t n, int from, int event)
{
    for (size_t i = 0; i < n; i++)
        if (table[i].from == from && table[i].event == event)
            return table[i].to;
    return -1;
}

static int name_parse(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return (int)i;
    return -1;
}

int lh_job_next(enum lh_job_state from, enum lh_job_event event)
{
    return table_next(job_table, LH_ARRAY_LEN(job_table), (int)from, (int)event);
}

int lh_attempt_next(enum lh_attempt_state from, enum lh_attempt_event event)
{
    return table_next(attempt_table, LH_ARRAY_LEN(attempt_table), (int)from, (int)event);
}

bool lh_job_is_final(enum lh_job_state state)
{
    return state >= LH_JOB_SUCCEEDED;
}

bool lh_attempt_is_final(enum lh_attempt_state state)
{
    return state >= LH_ATTEMPT_CLEANED;
}

const char *lh_job_state_name(enum lh_job_state state)
{
    assert((size_t)state < LH_ARRAY_LEN(job_names));
    return job_names[state];
}

int lh_job_state_parse(const char *name)
{
    return name_parse(job_names, LH_ARRAY_LEN(job_names), name);
}

const char *lh_attempt_state_name(enum lh_attempt_state state)
{
    assert((size_t)state < LH_ARRAY_LEN(attempt_names));
    return attempt_names[state];
}

int lh_attempt_state_parse(const char *name)
{
    return name_parse(attempt_names, LH_ARRAY_LEN(attempt_names), name);
}

const char *lh_node_state_name(enum lh_node_state state)
{
    assert((size_t)state < LH_ARRAY_LEN(node_names));
    return node_names[state];
}

int lh_node_state_parse(const char *name)
{
    return name_parse(node_names, LH_ARRAY_LEN(node_names), name);
}
