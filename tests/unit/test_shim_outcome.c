/* What an end means, from records alone: the table of SHIM-7. */
#include "daemon/shim/outcome.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Two ranks; ended_ms 0: still running when the records were read. mpirun ended at 1000. */
static struct outcome decide(struct rank_record r0, struct rank_record r1, int launcher_exit,
                             int launcher_signal, enum stop_cause cause, int worker_exit)
{
    struct rank_record ranks[2] = {r0, r1};
    struct outcome_facts f = {.cause = cause,
                              .launched = true,
                              .launcher_exit = launcher_exit,
                              .launcher_signal = launcher_signal,
                              .launcher_ended_ms = 1000,
                              .ranks = ranks,
                              .n_ranks = 2,
                              .worker_exit = worker_exit};

    ranks[0].rank = 0;
    ranks[1].rank = 1;
    for (unsigned i = 0; i < 2; i++)
        ranks[i].ended = ranks[i].ended_ms > 0;
    return outcome_decide(&f);
}

static struct rank_record ended(int exit, int signal, uint64_t at)
{
    return (struct rank_record){.started = true, .exit = exit, .signal = signal, .ended_ms = at};
}

#define expect(o, want_outcome, want_class, want_exit, want_signal, want_rank)                     \
    do {                                                                                           \
        struct outcome got = (o);                                                                  \
        assert_string_equal(got.outcome, want_outcome);                                            \
        assert_string_equal(got.class, want_class);                                                \
        assert_int_equal(got.exit, want_exit);                                                     \
        assert_int_equal(got.signal, want_signal);                                                 \
        assert_int_equal(got.rank, want_rank);                                                     \
    } while (0)

static void success_is_what_mpirun_calls_so_even_when_a_stop_came_late(void **state)
{
    (void)state;
    expect(decide(ended(0, 0, 900), ended(0, 0, 950), 0, 0, STOP_NONE, 0), "ok", "", 0, 0, -1);
    expect(decide(ended(0, 0, 900), ended(0, 0, 950), 0, 0, STOP_REQUEST, 0), "ok", "", 0, 0, -1);
}

static void the_rank_that_failed_first_explains_the_rest(void **state)
{
    (void)state;
    expect(decide(ended(75, 0, 900), ended(-1, SIGKILL, 800), 137, 0, STOP_NONE, -1), "failed",
           "app", -1, SIGKILL, 1);
    expect(decide(ended(-1, SIGTERM, 900), ended(65, 0, 800), 65, 0, STOP_NONE, -1), "failed",
           "app", 65, 0, 1);
    expect(decide(ended(-1, SIGSEGV, 800), ended(-1, SIGTERM, 900), 139, 0, STOP_NONE, -1),
           "failed", "app", -1, SIGSEGV, 0);
    expect(decide(ended(75, 0, 800), ended(-1, SIGTERM, 900), 75, 0, STOP_NONE, -1), "failed",
           "infra", 75, 0, 0);
}

static void what_the_worker_told_comes_before_what_its_process_did(void **state)
{
    (void)state;
    expect(decide(ended(-1, SIGTERM, 900), ended(-1, SIGTERM, 901), 1, 0, STOP_NONE, 86), "failed",
           "app", 86, 0, 0);
}

static void mpirun_is_asked_when_local_ranks_died_of_another_nodes_failure(void **state)
{
    (void)state;
    expect(decide(ended(-1, SIGTERM, 900), ended(-1, SIGTERM, 900), 137, 0, STOP_NONE, -1),
           "failed", "app", -1, 9, -1);
    expect(decide(ended(-1, SIGTERM, 900), ended(-1, SIGKILL, 901), 65, 0, STOP_NONE, -1), "failed",
           "app", 65, 0, -1);
    expect(decide(ended(-1, SIGTERM, 900), ended(-1, SIGTERM, 900), 3, 0, STOP_NONE, -1), "failed",
           "app", 3, 0, -1);
}

static void lost_daemons_and_a_lost_mpirun_are_infrastructure(void **state)
{
    (void)state;
    expect(decide(ended(-1, SIGTERM, 900), ended(-1, SIGTERM, 900), 205, 0, STOP_NONE, -1),
           "failed", "infra", 205, 0, -1);
    /* The ranks were ended after mpirun, and by us. */
    expect(decide(ended(-1, SIGKILL, 1200), ended(-1, SIGKILL, 1200), -1, SIGKILL, STOP_NONE, -1),
           "failed", "infra", -1, SIGKILL, -1);
}

static void without_any_rank_it_is_the_launch_that_failed(void **state)
{
    struct rank_record none = {0};

    (void)state;
    expect(decide(none, none, 1, 0, STOP_NONE, -1), "failed", "launch", 1, 0, -1);
}

static void a_stop_says_what_it_was_for(void **state)
{
    (void)state;
    expect(decide(ended(85, 0, 900), ended(-1, SIGTERM, 950), 85, 0, STOP_REQUEST, 85), "stopped",
           "", 85, 0, 0);
    expect(decide(ended(85, 0, 900), ended(85, 0, 950), 85, 0, STOP_WALL, 85), "timed_out", "", 85,
           0, 0);
    expect(decide(ended(85, 0, 900), ended(85, 0, 950), 85, 0, STOP_LEASE, 85), "stopped", "infra",
           85, 0, 0);
    expect(decide(ended(-1, SIGKILL, 900), ended(-1, SIGKILL, 950), 137, 0, STOP_HANG, -1),
           "failed", "hang", -1, 0, -1);
    expect(decide(ended(85, 0, 900), ended(85, 0, 950), 85, 0, STOP_NONE, 85), "stopped", "", 85, 0,
           0);
}

/* Parents of ranks tell mpirun 0 for a rank that stopped on request. */
static void mpiruns_success_is_no_success_of_ranks_that_stopped(void **state)
{
    struct rank_record stopped = ended(85, 0, 900);

    (void)state;
    expect(decide(stopped, stopped, 0, 0, STOP_REQUEST, 85), "stopped", "", 85, 0, 0);
    expect(decide(stopped, stopped, 0, 0, STOP_WALL, -1), "timed_out", "", 85, 0, 0);
    expect(decide(stopped, stopped, 0, 0, STOP_NONE, 85), "stopped", "", 85, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(success_is_what_mpirun_calls_so_even_when_a_stop_came_late),
        cmocka_unit_test(the_rank_that_failed_first_explains_the_rest),
        cmocka_unit_test(what_the_worker_told_comes_before_what_its_process_did),
        cmocka_unit_test(mpirun_is_asked_when_local_ranks_died_of_another_nodes_failure),
        cmocka_unit_test(lost_daemons_and_a_lost_mpirun_are_infrastructure),
        cmocka_unit_test(without_any_rank_it_is_the_launch_that_failed),
        cmocka_unit_test(a_stop_says_what_it_was_for),
        cmocka_unit_test(mpiruns_success_is_no_success_of_ranks_that_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
