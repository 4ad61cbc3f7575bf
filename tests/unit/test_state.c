/* test_state.c - the tables of proto/state.c are those of proto/spec/job-states.md, in both
 * directions. */
#include "proto/state.h"
#include "tests/unit/unit.h"

static const char *const job_events[] = {"hold",    "release", "ready",  "block",
                                         "placed",  "started", "stop",   "requeue",
                                         "succeed", "fail",    "cancel", "time_out"};
static const char *const attempt_events[] = {"prepared", "launch",  "running", "stop",
                                             "exited",   "cleaned", "lost"};
#define N_JOB_STATES ((int)LH_JOB_TIMED_OUT + 1)
#define N_ATTEMPT_STATES ((int)LH_ATTEMPT_LOST + 1)

static int event_of(const char *const *names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

/* Reads the rows of the n-th table headed "| from | event | to |" into next[state][event]. */
static unsigned read_table(int which, int (*parse)(const char *), const char *const *events,
                           int n_events, int next[][12])
{
    char *page = get_file(LH_SOURCE_DIR, "proto/spec/job-states.md"), *save = NULL;
    unsigned rows = 0;
    int table = -1;

    for (char *line = strtok_r(page, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char from[32], event[32], to[32];
        int e;

        if (strcmp(line, "| from | event | to |") == 0) {
            table++;
            continue;
        }
        if (table != which ||
            sscanf(line, "| %31[a-z_] | %31[a-z_] | %31[a-z_] |", from, event, to) != 3)
            continue;
        e = event_of(events, n_events, event);
        if (parse(from) < 0 || parse(to) < 0 || e < 0)
            fail_msg("unknown name in: %s", line);
        assert_int_equal(next[parse(from)][e], -1); /* stands once */
        next[parse(from)][e] = parse(to);
        rows++;
    }
    free(page);
    return rows;
}

static void the_table_of_jobs_is_the_one_of_the_page(void **state)
{
    int next[N_JOB_STATES][12];

    (void)state;
    memset(next, -1, sizeof(next));
    assert_int_equal(read_table(0, lh_job_state_parse, job_events, 12, next), 26);
    for (int s = 0; s < N_JOB_STATES; s++)
        for (int e = 0; e < 12; e++)
            if (lh_job_next((enum lh_job_state)s, (enum lh_job_event)e) != next[s][e])
                fail_msg("%s + %s differs", lh_job_state_name((enum lh_job_state)s), job_events[e]);
}

static void the_table_of_attempts_is_the_one_of_the_page(void **state)
{
    int next[N_ATTEMPT_STATES][12];

    (void)state;
    memset(next, -1, sizeof(next));
    assert_int_equal(read_table(1, lh_attempt_state_parse, attempt_events, 7, next), 20);
    for (int s = 0; s < N_ATTEMPT_STATES; s++)
        for (int e = 0; e < 7; e++)
            if (lh_attempt_next((enum lh_attempt_state)s, (enum lh_attempt_event)e) != next[s][e])
                fail_msg("%s + %s differs", lh_attempt_state_name((enum lh_attempt_state)s),
                         attempt_events[e]);
}

/* STATE-2 */
static void nothing_leaves_a_final_state_and_every_other_state_can_end(void **state)
{
    (void)state;
    for (int s = 0; s < N_JOB_STATES; s++) {
        bool leaves = false;

        for (int e = 0; e < 12; e++)
            leaves |= lh_job_next((enum lh_job_state)s, (enum lh_job_event)e) >= 0;
        assert_int_equal(leaves, !lh_job_is_final((enum lh_job_state)s));
    }
    for (int s = 0; s < N_ATTEMPT_STATES; s++) {
        bool leaves = false;

        for (int e = 0; e < 7; e++)
            leaves |= lh_attempt_next((enum lh_attempt_state)s, (enum lh_attempt_event)e) >= 0;
        assert_int_equal(leaves, !lh_attempt_is_final((enum lh_attempt_state)s));
    }
}

/* STATE-3 */
static void a_hold_is_for_jobs_without_slots_and_a_release_looks_afresh(void **state)
{
    (void)state;
    for (int s = 0; s < N_JOB_STATES; s++)
        assert_int_equal(lh_job_next((enum lh_job_state)s, LH_JOB_EV_HOLD),
                         s == LH_JOB_BLOCKED || s == LH_JOB_QUEUED ? (int)LH_JOB_HELD : -1);
    assert_int_equal(lh_job_next(LH_JOB_HELD, LH_JOB_EV_RELEASE), LH_JOB_BLOCKED);
}

/* STATE-4: with slots, only a stopping job becomes cancelled. */
static void every_job_can_be_cancelled_and_one_with_slots_stops_first(void **state)
{
    (void)state;
    for (int s = 0; s < (int)LH_JOB_SUCCEEDED; s++) {
        bool has_slots = s == LH_JOB_STARTING || s == LH_JOB_RUNNING;

        assert_int_equal(lh_job_next((enum lh_job_state)s, LH_JOB_EV_CANCEL),
                         has_slots ? -1 : (int)LH_JOB_CANCELLED);
        if (has_slots)
            assert_int_equal(lh_job_next((enum lh_job_state)s, LH_JOB_EV_STOP), LH_JOB_STOPPING);
    }
}

/* STATE-5 */
static void an_attempt_that_ends_early_puts_the_job_back_into_the_queue(void **state)
{
    static const enum lh_job_state active[] = {LH_JOB_STARTING, LH_JOB_RUNNING, LH_JOB_STOPPING};

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(active); i++)
        assert_int_equal(lh_job_next(active[i], LH_JOB_EV_REQUEUE), LH_JOB_QUEUED);
    assert_int_equal(lh_job_next(LH_JOB_QUEUED, LH_JOB_EV_REQUEUE), -1);
}

/* STATE-8, STATE-10 */
static void a_live_attempt_can_be_lost_and_can_exit_whatever_was_heard(void **state)
{
    (void)state;
    for (int s = 0; s < (int)LH_ATTEMPT_CLEANED; s++) {
        assert_int_equal(lh_attempt_next((enum lh_attempt_state)s, LH_ATTEMPT_EV_LOST),
                         LH_ATTEMPT_LOST);
        assert_int_equal(lh_attempt_next((enum lh_attempt_state)s, LH_ATTEMPT_EV_EXITED),
                         s == LH_ATTEMPT_EXITED ? -1 : (int)LH_ATTEMPT_EXITED);
    }
    assert_int_equal(lh_attempt_next(LH_ATTEMPT_RUNNING, LH_ATTEMPT_EV_CLEANED), -1);
}

static void names_go_there_and_back(void **state)
{
    (void)state;
    for (int s = 0; s < N_JOB_STATES; s++)
        assert_int_equal(lh_job_state_parse(lh_job_state_name((enum lh_job_state)s)), s);
    for (int s = 0; s < N_ATTEMPT_STATES; s++)
        assert_int_equal(lh_attempt_state_parse(lh_attempt_state_name((enum lh_attempt_state)s)),
                         s);
    for (int s = 0; s <= (int)LH_NODE_DRAINED; s++)
        assert_int_equal(lh_node_state_parse(lh_node_state_name((enum lh_node_state)s)), s);
    assert_int_equal(lh_job_state_parse("pausing"), -1);
    assert_int_equal(lh_attempt_state_parse(""), -1);
    assert_int_equal(lh_node_state_parse("UP"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_table_of_jobs_is_the_one_of_the_page),
        TEST(the_table_of_attempts_is_the_one_of_the_page),
        TEST(nothing_leaves_a_final_state_and_every_other_state_can_end),
        TEST(a_hold_is_for_jobs_without_slots_and_a_release_looks_afresh),
        TEST(every_job_can_be_cancelled_and_one_with_slots_stops_first),
        TEST(an_attempt_that_ends_early_puts_the_job_back_into_the_queue),
        TEST(a_live_attempt_can_be_lost_and_can_exit_whatever_was_heard),
        TEST(names_go_there_and_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
