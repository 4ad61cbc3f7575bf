/* state.h - states of jobs, attempts and nodes, and the tables of their legal transitions.
 *
 * The tables mirror proto/spec/job-states.md; what is not in a table is refused by the caller and logged.
 */
#pragma once
#include <stdbool.h>

enum lh_job_state {
    LH_JOB_HELD, LH_JOB_BLOCKED, LH_JOB_QUEUED, LH_JOB_STARTING, LH_JOB_RUNNING, LH_JOB_STOPPING,
    LH_JOB_SUCCEEDED, LH_JOB_FAILED, LH_JOB_CANCELLED, LH_JOB_TIMED_OUT, /* final from here */
};
enum lh_job_event {
    LH_JOB_EV_HOLD,        /* a user holds it */
    LH_JOB_EV_RELEASE,     /* a user releases it: blocked again until what blocked it is looked at afresh */
    LH_JOB_EV_READY,       /* preflight passed, dependencies met */
    LH_JOB_EV_BLOCK,       /* needs preflight, waits for a job, or infeasible */
    LH_JOB_EV_PLACED,      /* all its slots are claimed */
    LH_JOB_EV_STARTED,     /* every rank has reported */
    LH_JOB_EV_STOP,        /* cancel, time limit or shutdown of an attempt has begun */
    LH_JOB_EV_REQUEUE,     /* the attempt ended and another will follow */
    LH_JOB_EV_SUCCEED, LH_JOB_EV_FAIL, LH_JOB_EV_CANCEL, LH_JOB_EV_TIME_OUT, /* final */
};

enum lh_attempt_state {
    LH_ATTEMPT_ALLOCATED, /* claims committed */
    LH_ATTEMPT_PREPARED,  /* every node has staged its inputs and started its shim */
    LH_ATTEMPT_LAUNCHING, /* the head was told to run mpirun */
    LH_ATTEMPT_RUNNING,   /* every rank has reported */
    LH_ATTEMPT_STOPPING,  /* told to stop */
    LH_ATTEMPT_EXITED,    /* the head's exit record is committed; members may still clean up */
    LH_ATTEMPT_CLEANED,   /* every node has reported its processes gone: claims are freed. Final */
    LH_ATTEMPT_LOST,      /* a node is down past its lease: claims are freed. Final */
};
enum lh_attempt_event {
    LH_ATTEMPT_EV_PREPARED, LH_ATTEMPT_EV_LAUNCH, LH_ATTEMPT_EV_RUNNING, LH_ATTEMPT_EV_STOP,
    LH_ATTEMPT_EV_EXITED, LH_ATTEMPT_EV_CLEANED, LH_ATTEMPT_EV_LOST,
};

enum lh_node_state { LH_NODE_UP, LH_NODE_SUSPECT, LH_NODE_DOWN, LH_NODE_DRAINED };

/* The state that follows, or -1 when the table has no such transition. */
int lh_job_next(enum lh_job_state from, enum lh_job_event event);
int lh_attempt_next(enum lh_attempt_state from, enum lh_attempt_event event);

bool lh_job_is_final(enum lh_job_state state);
bool lh_attempt_is_final(enum lh_attempt_state state);

/* Lower-case names, as in the API and the database; parse returns -1 for an unknown name. */
const char *lh_job_state_name(enum lh_job_state state);
int lh_job_state_parse(const char *name);
const char *lh_attempt_state_name(enum lh_attempt_state state);
int lh_attempt_state_parse(const char *name);
const char *lh_node_state_name(enum lh_node_state state);
int lh_node_state_parse(const char *name);
