/* test_core.c - scenarios of the coordinator's core: events in, the exact trace of events and
 * commands out. */
#include "tests/unit/core_rig.h"

#define CHECK "{'kind':'check'}"

static void start_one(struct rig *r, const char *id, const char *spec)
{
    rig_submit(r, id, spec);
    rig_preflight(r, "n1", id);
    rig_run(r, id);
    rig_expect_state(r, id, "running", "");
}

static void a_job_goes_from_submit_to_success(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 2, "a1", "[]");
    rig_expect(&r, "node.registered n1\n");
    rig_submit(&r, "ja", CHECK);
    rig_expect(&r, "job.submitted ja preflight\n"
                   "> n1 preflight ja\n");
    rig_preflight(&r, "n1", "ja");
    rig_expect(&r, "job.queued ja order\n"
                   "attempt.allocated ja/1\n"
                   "job.starting ja starting\n"
                   "> n1 prepare ja\n");
    rig_run(&r, "ja");
    rig_expect(&r, "claim.prepared ja/1\n"
                   "attempt.prepared ja/1\n"
                   "attempt.launching ja/1\n"
                   "> n1 launch ja\n"
                   "attempt.running ja/1\n"
                   "job.running ja\n");
    rig_exit(&r, "ja", "ok", "", 0);
    rig_expect(&r, "attempt.exited ja/1\n");
    assert_int_equal(core_node_at(r.core, 0)->slots_used,
                     1); /* not before the node says that all is gone */
    rig_clean(&r, "ja");
    rig_expect(&r, "claim.cleaned ja/1\n"
                   "attempt.cleaned ja/1\n"
                   "job.succeeded ja\n"
                   "> n1 forget ja\n");
    assert_int_equal(core_node_at(r.core, 0)->slots_used, 0);
    assert_int_equal(lh_json_i64(rig_job(&r, "ja")->result, "x", 0), 1);
    rig_release(&r);
}

static void the_head_of_the_queue_blocks_the_rest(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 2, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_submit(&r, "jb", "{'kind':'check','resources':{'slots':2}}");
    rig_submit(&r, "jc", CHECK);
    rig_preflight(&r, "n1", "jb");
    rig_preflight(&r, "n1", "jc");
    rig_expect_state(&r, "jb", "queued", "order");
    rig_expect_state(&r, "jc", "queued", "order"); /* would fit, but jb is first */
    rig_exit(&r, "ja", "ok", "", 0);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "jb", "starting", NULL);
    rig_expect_state(&r, "jc", "queued", NULL);
    rig_release(&r);
}

static void a_higher_priority_goes_first_and_ties_go_by_number(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_submit(&r, "jb", CHECK);
    rig_submit(&r, "jc", "{'kind':'check','priority':5}");
    rig_submit(&r, "jd", "{'kind':'check','priority':5}");
    for (const char *const *id = (const char *const[]){"jb", "jc", "jd", NULL}; *id; id++)
        rig_preflight(&r, "n1", *id);
    rig_exit(&r, "ja", "ok", "", 0);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "jc", "starting", NULL);
    rig_expect_state(&r, "jd", "queued", NULL);
    rig_release(&r);
}

static void a_gang_takes_the_fewest_nodes_and_all_or_none(void **state)
{
    struct rig r;
    const struct core_attempt *a;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 2, "a1", "[]");
    rig_register(&r, "n2", 4, "a2", "[]");
    rig_register(&r, "n3", 3, "a3", "[]");
    rig_submit(&r, "ja", "{'kind':'check','resources':{'slots':3}}");
    rig_preflight(&r, "n3", "ja");
    a = &rig_job(&r, "ja")->attempts[0];
    assert_int_equal(a->n_claims, 1);
    assert_string_equal(a->claims[0].node, "n3"); /* fits exactly, n2's hole stays whole */
    rig_submit(&r, "jb", "{'kind':'check','resources':{'slots':6}}");
    rig_preflight(&r, "n2", "jb");
    rig_expect_state(&r, "jb", "blocked", "preflight"); /* every node of the gang must answer */
    rig_preflight(&r, "n1", "jb");
    a = &rig_job(&r, "jb")->attempts[0];
    assert_int_equal(a->n_claims, 2);
    assert_string_equal(a->claims[0].node, "n2");
    assert_int_equal(a->claims[0].slots, 4);
    assert_int_equal(a->claims[1].slots, 2);
    rig_submit(&r, "jc", CHECK);
    rig_preflight(&r, "n1", "jc");
    rig_expect_state(&r, "jc", "queued", NULL); /* nothing is free */
    rig_release(&r);
}

static void what_never_fits_is_infeasible_and_not_at_the_head(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_submit(&r, "ja", CHECK);
    rig_expect_state(&r, "ja", "blocked", "no_nodes");
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_expect_state(&r, "ja", "blocked", "preflight");
    rig_submit(&r, "jb", "{'kind':'check','resources':{'slots':2}}");
    rig_expect_state(&r, "jb", "blocked", "infeasible");
    rig_submit(&r, "jc", CHECK);
    rig_expect_state(&r, "jc", "blocked", "preflight");
    rig_register(&r, "n2", 1, "a2", "[]");
    rig_expect_state(&r, "jb", "blocked", "preflight"); /* a node came: it is looked at afresh */
    rig_release(&r);
}

/* JOB-11. */
static void a_failed_preflight_ends_the_job_without_an_attempt(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_submit(&r, "ja", CHECK);
    rig_report(&r, "n1",
               "{'type':'preflight','job':'ja','ok':false,'problem':{'code':'bad_input','pointer':'"
               "/model/base',"
               "'detail':'no such file'}}");
    rig_expect_state(&r, "ja", "failed", "preflight");
    assert_int_equal(rig_job(&r, "ja")->n_attempts, 0);
    assert_string_equal(lh_json_str(rig_job(&r, "ja")->error, "pointer", ""), "/model/base");
    rig_release(&r);
}

static void a_preflight_that_storage_failed_is_tried_again(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_submit(&r, "ja", CHECK);
    rig_expect(&r, "node.registered n1\njob.submitted ja preflight\n> n1 preflight ja\n");
    rig_report(&r, "n1",
               "{'type':'preflight','job':'ja','ok':false,'problem':{'code':'io','class':'storage',"
               "'detail':'503'}}");
    rig_expect_state(&r, "ja", "blocked", "preflight");
    rig_expect(&r, "job.blocked ja preflight\njob.blocked ja preflight\n");
    rig_wait(&r, 21000);
    rig_expect(&r, "> n1 preflight ja\n");
    rig_release(&r);
}

static void jobs_wait_for_what_they_come_after(void **state)
{
    static const char *const ids[] = {"ja", "jb", "jc"};
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 2, "a1", "[]");
    rig_pipeline(&r, 3, ids,
                 "[{'kind':'check','name':'first'},{'kind':'check','after':[{'job':'first'}]},"
                 "{'kind':'check','after':[{'job':'first','when':'not_ok'}]}]");
    assert_int_equal(r.fx.status, 201);
    rig_expect_state(&r, "jb", "blocked", "after");
    rig_preflight(&r, "n1", "ja");
    rig_run(&r, "ja");
    rig_exit(&r, "ja", "ok", "", 0);
    rig_expect_state(&r, "jb", "blocked", "after");
    rig_clean(&r, "ja");
    rig_expect_state(&r, "jb", "blocked", "preflight");
    rig_expect_state(&r, "jc", "failed", "after"); /* can never be met */
    assert_string_equal(lh_json_str(rig_job(&r, "jc")->error, "code", ""), "dependency");
    rig_release(&r);
}

static void a_pipeline_with_an_unknown_job_is_refused_whole(void **state)
{
    static const char *const ids[] = {"ja", "jb"};
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_pipeline(&r, 2, ids, "[{'kind':'check'},{'kind':'check','after':[{'job':'nobody'}]}]");
    assert_int_equal(r.fx.status, 422);
    assert_string_equal(lh_json_str(json_array_get(r.fx.errors, 0), "pointer", ""),
                        "/1/after/0/job");
    assert_null(core_find_job(r.core, "ja"));
    rig_expect(&r, "");
    rig_release(&r);
}

static void outputs_of_earlier_jobs_are_resolved_into_inputs(void **state)
{
    struct rig r;
    const json_t *inputs;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", "{'kind':'check','name':'prep'}");
    rig_submit(&r, "jb",
               "{'kind':'eval','model':{'base':'/m','adapter':'job:prep/"
               "checkpoint'},'context':{'length':64},"
               "'eval':{'perplexity':['/t']}}");
    rig_expect_state(&r, "jb", "blocked", "after");
    rig_report(&r, "n1",
               "{'type':'checkpoint','job':'ja','attempt':1,'step':4,'bytes':9,'path':'/local'}");
    rig_report(&r, "n1",
               "{'type':'upload','job':'ja','attempt':1,'step':4,'state':'done','uri':'s3://b/k',"
               "'manifest_sha256':'aa'}");
    rig_exit(&r, "ja", "ok", "", 0);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "jb", "blocked", "preflight");
    inputs = json_object_get(r.fx.commands[r.fx.n_commands - 1].body, "inputs");
    assert_string_equal(lh_json_str(json_object_get(inputs, "job:prep/checkpoint"), "uri", ""),
                        "s3://b/k");
    rig_release(&r);
}

static void an_output_that_was_not_left_fails_the_next_job(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", "{'kind':'check','name':'prep'}");
    rig_submit(&r, "jb",
               "{'kind':'eval','model':{'base':'job:prep/export'},'context':{'length':64},"
               "'eval':{'perplexity':['/t']}}");
    rig_exit(&r, "ja", "ok", "", 0);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "jb", "failed", "preflight");
    assert_string_equal(lh_json_str(rig_job(&r, "jb")->error, "pointer", ""), "/model/base");
    rig_release(&r);
}

static void a_cancelled_job_says_so_only_when_its_ranks_are_gone(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_register(&r, "n2", 1, "a2", "[]");
    rig_submit(&r, "ja", "{'kind':'check','resources':{'slots':2}}");
    rig_preflight(&r, "n1", "ja");
    rig_preflight(&r, "n2", "ja");
    rig_run(&r, "ja");
    rig_wait(&r, 0);
    lh_buf_consume(&r.trace, r.trace.len);
    rig_action(&r, "ja", "cancel");
    rig_expect(
        &r, "job.stopping ja cancel\nattempt.stopping ja/1 cancel\n> n1 stop ja\n> n2 stop ja\n");
    rig_exit(&r, "ja", "stopped", "", 85);
    rig_expect(&r, "attempt.exited ja/1 cancel\n> n2 stop ja\n");
    rig_report(&r, "n1", "{'type':'cleaned','job':'ja','attempt':1}");
    rig_expect_state(&r, "ja", "stopping", NULL);
    rig_report(&r, "n2", "{'type':'cleaned','job':'ja','attempt':1}");
    rig_expect_state(&r, "ja", "cancelled", "user");
    rig_action(&r, "ja", "cancel"); /* again: nothing to do, and fine */
    assert_int_equal(r.fx.status, 200);
    rig_action(&r, "ja", "release");
    assert_int_equal(r.fx.status, 409);
    rig_release(&r);
}

/* Rank and exit code of every rank in the attempt's exit record, as "0:85 1:-". */
static void expect_ranks(const struct rig *r, const char *id, const char *expected)
{
    const json_t *ranks = json_object_get(rig_job(r, id)->attempts[0].exit, "ranks"), *rank;
    char text[200] = "";
    size_t i, n = 0;

    json_array_foreach(ranks, i, rank) n +=
        (size_t)snprintf(text + n, sizeof(text) - n, "%s%d:%d", i ? " " : "",
                         (int)lh_json_i64(rank, "rank", -1), (int)lh_json_i64(rank, "exit", -1));
    assert_string_equal(text, expected);
}

static void each_node_tells_how_its_own_ranks_ended(void **state)
{
    static const char cleaned[] = "{'type':'cleaned','job':'ja','attempt':1,"
                                  "'ranks':[{'rank':1,'node':'n2','exit':85,'signal':0,'ms':9},{'"
                                  "rank':7,'node':'n2','ms':1}]}";
    static const char exited[] =
        "{'type':'exited','job':'ja','attempt':1,'outcome':'stopped','class':'','exit':85,"
        "'ranks':[{'rank':0,'node':'n1','exit':85,'signal':0,'ms':9},{'rank':1,'node':'n2'}]}";

    (void)state;
    for (int member_first = 0; member_first < 2; member_first++) {
        struct rig r;

        rig_init(&r);
        rig_register(&r, "n1", 1, "a1", "[]");
        rig_register(&r, "n2", 1, "a2", "[]");
        rig_submit(&r, "ja", "{'kind':'check','resources':{'slots':2}}");
        rig_preflight(&r, "n1", "ja");
        rig_preflight(&r, "n2", "ja");
        rig_run(&r, "ja");
        rig_action(&r, "ja", "cancel");
        rig_report(&r, member_first ? "n2" : "n1", member_first ? cleaned : exited);
        expect_ranks(&r, "ja", member_first ? "1:85" : "0:85 1:-1");
        rig_report(&r, member_first ? "n1" : "n2", member_first ? exited : cleaned);
        expect_ranks(&r, "ja", "0:85 1:85");
        rig_report(&r, "n1", "{'type':'cleaned','job':'ja','attempt':1,'ranks':[]}");
        rig_expect_state(&r, "ja", "cancelled", "user");
        rig_release(&r);
    }
}

static void cancelling_before_the_launch_waits_for_the_shims_too(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_submit(&r, "ja", CHECK);
    rig_preflight(&r, "n1", "ja");
    rig_action(&r, "ja", "cancel");
    rig_expect_state(&r, "ja", "stopping", "cancel");
    rig_report(&r, "n1", "{'type':'prepared','job':'ja','attempt':1}"); /* was under way */
    rig_expect_state(&r, "ja", "stopping", NULL);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "cancelled", NULL);
    rig_release(&r);
}

static void a_job_that_ends_well_before_it_hears_the_cancel_has_succeeded(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_action(&r, "ja", "cancel");
    rig_exit(&r, "ja", "ok", "", 0);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "succeeded", NULL);
    rig_release(&r);
}

static void an_exit_record_may_come_after_the_processes_are_gone(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_action(&r, "ja", "cancel");
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "stopping", NULL); /* uploads are being settled */
    assert_int_equal(core_find_node(r.core, "n1")->slots_used, 0);
    rig_restart(&r);
    rig_register(&r, "n1", 1, "a2", "[{'job':'ja','attempt':1,'role':'head','state':'exited'}]");
    rig_expect_state(&r, "ja", "stopping", NULL);
    rig_exit(&r, "ja", "stopped", "", 85);
    rig_expect_state(&r, "ja", "cancelled", NULL);
    assert_string_equal(rig_job(&r, "ja")->attempts[0].outcome, "stopped");
    start_one(&r, "jb", CHECK);
    rig_clean(&r, "jb");
    rig_expect_state(&r, "jb", "running", NULL);
    rig_register(&r, "n1", 1, "a3", "[]"); /* the record is lost with the disk */
    rig_expect_state(&r, "jb", "queued", "retry_wait");
    rig_release(&r);
}

/* STATE-1. */
static void hold_and_release(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_submit(&r, "ja", "{'kind':'check','hold':true}");
    rig_expect(&r, "node.registered n1\njob.submitted ja user\n");
    rig_action(&r, "ja", "release");
    rig_expect_state(&r, "ja", "blocked", "preflight");
    rig_action(&r, "ja", "hold"); /* while its preflight is under way */
    rig_expect_state(&r, "ja", "held", "user");
    rig_preflight(&r, "n1", "ja"); /* stale */
    rig_expect_state(&r, "ja", "held", "user");
    rig_action(&r, "ja", "release");
    rig_preflight(&r, "n1", "ja");
    rig_expect_state(&r, "ja", "starting", NULL);
    rig_action(&r, "ja", "hold");
    assert_int_equal(r.fx.status, 409);
    rig_release(&r);
}

static void app_failures_use_their_own_budget(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", "{'kind':'check','retry':{'app':1,'infra':5}}");
    rig_exit(&r, "ja", "failed", "app", 3);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "queued", "retry_wait");
    rig_wait(&r, 20500); /* backoff of the first retry is at most 10 s */
    rig_run(&r, "ja");
    rig_exit(&r, "ja", "failed", "infra", 75);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "queued", "retry_wait"); /* infra does not count against app */
    rig_wait(&r, 20500);
    rig_run(&r, "ja");
    rig_exit(&r, "ja", "failed", "app", 3);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "failed", "retries_used_up");
    assert_int_equal(rig_job(&r, "ja")->n_attempts, 3);
    rig_release(&r);
}

static void a_verdict_of_the_program_is_not_retried(void **state)
{
    static const int codes[] = {64, 65, 86};
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    for (size_t i = 0; i < LH_ARRAY_LEN(codes); i++) {
        const char *id = (const char *[]){"ja", "jb", "jc"}[i];

        start_one(&r, id, CHECK);
        rig_exit(&r, id, "failed", "app", codes[i]);
        rig_clean(&r, id);
        rig_expect_state(&r, id, "failed", "verdict");
    }
    rig_release(&r);
}

/* CKPT-17: what was reported counts, no store is asked. */
static void a_retry_waits_longer_each_time_and_resumes_from_the_newest_checkpoint(void **state)
{
    struct rig r;
    uint64_t longest = 0;
    const json_t *body, *resume;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_report(&r, "n1",
               "{'type':'upload','job':'ja','attempt':1,'step':2,'state':'done','uri':'u2','"
               "manifest_sha256':'m2'}");
    rig_report(&r, "n1",
               "{'type':'upload','job':'ja','attempt':1,'step':4,'state':'uploading','uri':'u4'}");
    for (int i = 0; i < 4; i++) {
        uint64_t limit = (uint64_t)10000 << i;
        const struct core_job *j;

        rig_exit(&r, "ja", "failed", "infra", 75);
        rig_clean(&r, "ja");
        j = rig_job(&r, "ja");
        assert_true(j->not_before_ms <= 1700000000000u + r.now_ms + limit);
        longest = LH_MAX(longest, j->not_before_ms - 1700000000000u - r.now_ms);
        while (rig_job(&r, "ja")->state == LH_JOB_QUEUED)
            rig_wait(&r, 500);
        body = r.fx.commands[r.fx.n_commands - 1].body;
        resume = json_object_get(body, "resume");
        assert_string_equal(lh_json_str(body, "type", ""), "prepare");
        assert_string_equal(lh_json_str(resume, "uri", ""), "u2"); /* step 4 is not done */
        rig_run(&r, "ja");
    }
    assert_true(longest > 10000);
    rig_release(&r);
}

static void training_without_a_higher_checkpoint_stops_after_three_attempts(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_submit(
        &r, "ja",
        "{'kind':'train','model':{'base':'/m'},'context':{'length':64},'data':{'train':['/d']},"
        "'optim':{'lr':1e-4,'steps':10}}");
    rig_preflight(&r, "n1", "ja");
    for (int i = 0; i < 4; i++) {
        while (rig_job(&r, "ja")->state == LH_JOB_QUEUED)
            rig_wait(&r, 500);
        rig_run(&r, "ja");
        if (i == 0)
            rig_report(
                &r, "n1",
                "{'type':'upload','job':'ja','attempt':1,'step':5,'state':'done','uri':'u'}");
        rig_exit(&r, "ja", "failed", "infra", 75);
        rig_clean(&r, "ja");
    }
    rig_expect_state(&r, "ja", "failed", "no_progress");
    assert_int_equal(rig_job(&r, "ja")->n_attempts, 4);
    rig_release(&r);
}

static void silence(struct rig *r, const char *node)
{
    /* rig_wait takes a version that begins with s for silent. */
    ((struct core_node *)(uintptr_t)core_find_node(r->core, node))->version[0] = 's';
}

/* STATE-11. */
static void a_lost_node_starts_another_attempt_but_keeps_its_slots_until_the_lease(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_register(&r, "n2", 1, "a2", "[]");
    silence(&r, "n1");
    rig_wait(&r, 15000);
    assert_int_equal(core_find_node(r.core, "n1")->state, LH_NODE_SUSPECT);
    rig_expect_state(&r, "ja", "running", NULL); /* suspect frees nothing */
    rig_wait(&r, 45000);
    assert_int_equal(core_find_node(r.core, "n1")->state, LH_NODE_DOWN);
    assert_int_equal(rig_job(&r, "ja")->attempts[0].state, LH_ATTEMPT_LOST);
    assert_string_equal(rig_job(&r, "ja")->attempts[0].class, "infra");
    assert_int_equal(core_find_node(r.core, "n1")->slots_used, 1);
    rig_wait(&r, 11000);
    rig_expect_state(&r, "ja", "starting", NULL);
    assert_string_equal(rig_job(&r, "ja")->attempts[1].claims[0].node, "n2");
    rig_wait(&r, 600000 + 600000 / 50 + 10000 + 60000);
    assert_int_equal(core_find_node(r.core, "n1")->slots_used, 0); /* it has ended itself by now */
    rig_release(&r);
}

/* STATE-11. */
static void a_lost_node_that_comes_back_is_told_to_kill_what_it_still_runs(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    silence(&r, "n1");
    rig_wait(&r, 60000);
    rig_register(&r, "n1", 1, "a9", "[{'job':'ja','attempt':1,'role':'head','state':'running'}]");
    assert_int_equal(json_array_size(json_object_get(r.fx.body, "kill")), 1);
    assert_int_equal(core_find_node(r.core, "n1")->slots_used, 1);
    rig_report(&r, "n1", "{'type':'cleaned','job':'ja','attempt':1}");
    rig_wait(&r, 11000);
    rig_expect_state(&r, "ja", "starting", NULL);
    assert_int_equal(rig_job(&r, "ja")->attempts[1].number, 2);
    rig_release(&r);
}

static void survivors_of_a_lost_gang_are_stopped_before_the_next_attempt(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_register(&r, "n2", 1, "a2", "[]");
    rig_submit(&r, "ja", "{'kind':'check','resources':{'slots':2}}");
    rig_preflight(&r, "n1", "ja");
    rig_preflight(&r, "n2", "ja");
    rig_run(&r, "ja");
    silence(&r, "n2");
    rig_wait(&r, 60000);
    rig_expect_state(&r, "ja", "running", NULL);
    assert_int_equal(rig_job(&r, "ja")->attempts[0].state, LH_ATTEMPT_STOPPING);
    rig_exit(&r, "ja", "failed", "app", 1); /* its peer is gone: no fault of the program */
    rig_report(&r, "n1", "{'type':'cleaned','job':'ja','attempt':1}");
    assert_int_equal(rig_job(&r, "ja")->attempts[0].state, LH_ATTEMPT_LOST);
    assert_string_equal(rig_job(&r, "ja")->attempts[0].class, "infra");
    rig_wait(&r, 11000);
    rig_expect_state(&r, "ja", "blocked", "nodes_down"); /* two slots are not up any more */
    rig_register(&r, "n2", 1, "a3", "[]");               /* it rebooted: nothing is left there */
    rig_expect_state(&r, "ja", "starting", NULL);
    rig_release(&r);
}

static void a_cancelled_job_on_a_dead_node_waits_for_the_lease(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_action(&r, "ja", "cancel");
    silence(&r, "n1");
    rig_wait(&r, 120000);
    rig_expect_state(&r, "ja", "stopping", "cancel");
    rig_wait(&r, 600000);
    rig_expect_state(&r, "ja", "cancelled", NULL);
    rig_release(&r);
}

static void a_pause_of_the_coordinator_blames_no_node(void **state)
{
    struct rig r;
    struct core_event tick = {.type = CORE_EV_TICK};

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_wait(&r, 1000);
    r.now_ms += 300000; /* stopped for five minutes */
    rig_step(&r, &tick);
    assert_int_equal(core_find_node(r.core, "n1")->state, LH_NODE_UP);
    rig_release(&r);
}

static void a_launch_that_does_not_come_up_in_time_is_ended(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_submit(&r, "ja", CHECK);
    rig_preflight(&r, "n1", "ja");
    rig_report(&r, "n1", "{'type':'prepared','job':'ja','attempt':1}");
    rig_wait(&r, 120500);
    assert_int_equal(rig_job(&r, "ja")->attempts[0].state, LH_ATTEMPT_STOPPING);
    rig_exit(&r, "ja", "stopped", "", 1);
    rig_clean(&r, "ja");
    assert_string_equal(rig_job(&r, "ja")->attempts[0].class, "launch");
    rig_expect_state(&r, "ja", "queued", "retry_wait");
    rig_release(&r);
}

static void a_job_over_its_time_limit_is_timed_out(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", "{'kind':'check','limits':{'wall_s':30}}");
    rig_exit(&r, "ja", "timed_out", "", 85); /* the shim's own limit */
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "timed_out", "time_limit");
    start_one(&r, "jb", "{'kind':'check','limits':{'wall_s':30}}");
    rig_wait(&r, 89000);
    rig_expect_state(&r, "jb", "running", ""); /* SHIM-5: its shim is stopping it, with a grace */
    rig_wait(&r, 2000);                        /* a shim that does not keep it */
    rig_expect_state(&r, "jb", "stopping", "time_limit");
    rig_exit(&r, "jb", "stopped", "", 85);
    rig_clean(&r, "jb");
    rig_expect_state(&r, "jb", "timed_out", "time_limit");
    rig_release(&r);
}

static void a_node_that_cannot_prepare_fails_the_attempt_by_its_class(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_submit(&r, "ja", CHECK);
    rig_preflight(&r, "n1", "ja");
    rig_report(
        &r, "n1",
        "{'type':'prepare_failed','job':'ja','attempt':1,'class':'storage','problem':{'code':'io',"
        "'detail':'no space'}}");
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "queued", "retry_wait");
    assert_string_equal(rig_job(&r, "ja")->attempts[0].class, "storage");
    assert_non_null(strstr(rig_job(&r, "ja")->detail, "no space"));
    rig_release(&r);
}

static void a_relay_goes_to_the_member_that_the_head_asks_for(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_register(&r, "n2", 1, "a2", "[]");
    rig_submit(&r, "ja", "{'kind':'check','resources':{'slots':2}}");
    rig_preflight(&r, "n1", "ja");
    rig_preflight(&r, "n2", "ja");
    for (const char *const *n = (const char *const[]){"n1", "n2", NULL}; *n; n++)
        rig_report(&r, *n, "{'type':'prepared','job':'ja','attempt':1}");
    lh_buf_consume(&r.trace, r.trace.len);
    rig_report(&r, "n1",
               "{'type':'orted_wanted','job':'ja','attempt':1,'node':'n2','command':'orted x'}");
    rig_expect(&r, "attempt.orted ja/1\n> n2 orted ja\n");
    rig_report(&r, "n1",
               "{'type':'orted_wanted','job':'ja','attempt':1,'node':'n2','command':'orted x'}");
    rig_report(&r, "n2",
               "{'type':'orted_wanted','job':'ja','attempt':1,'node':'n1','command':'orted x'}");
    rig_report(&r, "n1",
               "{'type':'orted_wanted','job':'ja','attempt':1,'node':'n9','command':'orted x'}");
    rig_expect(&r, ""); /* repeated; not the head; not of the gang */
    rig_restart(&r);
    rig_register(&r, "n2", 1, "a3",
                 "[{'job':'ja','attempt':1,'role':'member','state':'prepared'}]");
    rig_expect(&r, "node.registered n2\n> n2 orted ja\n");
    rig_release(&r);
}

/* STATE-9. */
static void reports_of_an_older_attempt_change_nothing(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_exit(&r, "ja", "failed", "infra", 75);
    rig_clean(&r, "ja");
    rig_wait(&r, 10500);
    lh_buf_consume(&r.trace, r.trace.len);
    rig_report(&r, "n1", "{'type':'exited','job':'ja','attempt':1,'outcome':'ok','exit':0}");
    rig_report(&r, "n1", "{'type':'running','job':'ja','attempt':1}");
    rig_report(&r, "n1", "{'type':'prepared','job':'ja','attempt':7}");
    rig_report(&r, "n1", "{'type':'nonsense','job':'ja','attempt':2}");
    rig_report(&r, "n1", "{'type':'exited'}");
    rig_expect(&r, "");
    rig_expect_state(&r, "ja", "starting", NULL);
    rig_release(&r);
}

static void an_upload_may_be_reported_after_its_attempt(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_report(&r, "n1",
               "{'type':'checkpoint','job':'ja','attempt':1,'step':3,'bytes':10,'path':'/p'}");
    rig_report(&r, "n1",
               "{'type':'upload','job':'ja','attempt':1,'step':3,'state':'failed','error':'403'}");
    rig_report(
        &r, "n1",
        "{'type':'upload','job':'ja','attempt':1,'step':3,'state':'uploading'}"); /* backwards */
    assert_string_equal(rig_job(&r, "ja")->checkpoints[0].state, "failed");
    rig_exit(&r, "ja", "ok", "", 0);
    rig_clean(&r, "ja");
    rig_report(&r, "n1",
               "{'type':'upload','job':'ja','attempt':1,'step':3,'state':'done','uri':'u'}");
    assert_string_equal(rig_job(&r, "ja")->checkpoints[0].state, "done");
    assert_int_equal(rig_job(&r, "ja")->n_checkpoints, 1);
    assert_int_equal(core_count_uploads(r.core, "done", NULL), 1);
    rig_release(&r);
}

static void an_idempotency_key_gives_the_same_job_again(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_submit_key(&r, "ja", CHECK, "k", "f1");
    assert_int_equal(r.fx.status, 201);
    assert_non_null(r.fx.changes.idem);
    rig_submit_key(&r, "jb", CHECK, "k", "f1");
    assert_int_equal(r.fx.status, 201);
    assert_true(r.fx.replayed);
    assert_string_equal(json_string_value(json_array_get(r.fx.body, 0)), "ja");
    assert_null(core_find_job(r.core, "jb"));
    rig_submit_key(&r, "jb", CHECK, "k", "f2");
    assert_int_equal(r.fx.status, 422);
    rig_submit_key(&r, "jb", CHECK, "k2", "f2");
    assert_int_equal(r.fx.status, 201);
    rig_release(&r);
}

static void the_queue_has_a_limit(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    r.config.queue_max = 1;
    core_configure(r.core, &r.config);
    rig_submit(&r, "ja", CHECK);
    rig_submit_key(&r, "jb", CHECK, NULL, NULL);
    assert_int_equal(r.fx.status, 429);
    rig_action(&r, "ja", "cancel");
    rig_submit(&r, "jc", CHECK);
    rig_release(&r);
}

static void a_restart_keeps_a_running_attempt_and_tells_a_prepared_one_again(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 3, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_submit(&r, "jb", CHECK);
    rig_preflight(&r, "n1", "jb");
    rig_submit(&r, "jc", CHECK);
    rig_restart(&r);
    lh_buf_consume(&r.trace, r.trace.len);
    rig_expect_state(&r, "ja", "running", NULL);
    rig_expect_state(&r, "jb", "starting", NULL);
    assert_int_equal(core_find_node(r.core, "n1")->slots_used, 2);
    assert_false(core_knows_agent(r.core, "n1", "a1"));
    rig_wait(&r, 500);
    rig_expect(&r, "");
    rig_register(&r, "n1", 3, "a1", "[{'job':'ja','attempt':1,'role':'head','state':'running'}]");
    rig_expect(&r, "node.registered n1\n> n1 prepare jb\n> n1 preflight jc\n");
    rig_exit(&r, "ja", "ok", "", 0);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "succeeded", NULL);
    rig_release(&r);
}

static void an_attempt_that_a_restarted_node_lacks_is_tried_again(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_register(&r, "n1", 1, "a2", "[]");
    rig_expect_state(&r, "ja", "queued", "retry_wait");
    assert_string_equal(rig_job(&r, "ja")->attempts[0].outcome, "failed");
    assert_string_equal(rig_job(&r, "ja")->attempts[0].class, "infra");
    rig_release(&r);
}

static void a_second_machine_may_not_take_a_living_nodes_name(void **state)
{
    struct rig r;
    json_t *body =
        json_of("{'name':'n1','agent_id':'x','boot_id':'other','slots':1,'attempts':[]}");
    struct core_event ev = {.type = CORE_EV_REGISTER, .u.reg.body = body};

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    rig_step(&r, &ev);
    assert_int_equal(r.fx.status, 409);
    assert_string_equal(r.fx.code, "name_taken");
    silence(&r, "n1");
    rig_wait(&r, 16000);
    rig_step(&r, &ev); /* the first one is not heard of any more */
    assert_int_equal(r.fx.status, 200);
    json_decref(body);
    rig_release(&r);
}

static void what_a_node_holds_of_unknown_or_ended_attempts_is_killed_or_forgotten(void **state)
{
    struct rig r;
    const json_t *kill;

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_exit(&r, "ja", "ok", "", 0);
    rig_clean(&r, "ja");
    lh_buf_consume(&r.trace, r.trace.len);
    rig_register(&r, "n1", 1, "a2", "[{'job':'ja','attempt':1},{'job':'jz','attempt':4}]");
    kill = json_object_get(r.fx.body, "kill");
    assert_int_equal(json_array_size(kill), 1);
    assert_string_equal(lh_json_str(json_array_get(kill, 0), "job", ""), "jz");
    rig_expect(&r, "node.registered n1\n> n1 forget ja\n");
    rig_release(&r);
}

static void explain_says_what_a_queued_job_waits_for(void **state)
{
    const struct core_job *unmet[9];
    struct rig r;
    char reason[64], detail[320];

    (void)state;
    rig_init(&r);
    rig_register(&r, "n1", 1, "a1", "[]");
    start_one(&r, "ja", CHECK);
    rig_submit(&r, "jb", CHECK);
    rig_submit(&r, "jc", CHECK);
    rig_preflight(&r, "n1", "jb");
    rig_preflight(&r, "n1", "jc");
    core_explain(r.core, rig_job(&r, "jb"), 1700000000000u + r.now_ms, reason, detail);
    assert_string_equal(reason, "resources");
    core_explain(r.core, rig_job(&r, "jc"), 1700000000000u + r.now_ms, reason, detail);
    assert_string_equal(reason, "order");
    assert_non_null(strstr(detail, "jb"));
    assert_int_equal(core_queue_position(r.core, rig_job(&r, "ja")), 0); /* it runs */
    assert_int_equal(core_queue_position(r.core, rig_job(&r, "jb")), 1);
    assert_int_equal(core_queue_position(r.core, rig_job(&r, "jc")), 2);
    rig_submit(&r, "jd", "{'kind':'check','priority':5}");
    rig_preflight(&r, "n1", "jd");
    assert_int_equal(core_queue_position(r.core, rig_job(&r, "jc")), 3);
    rig_submit(&r, "je",
               "{'kind':'eval','model':{'base':'job:jb/export'},'context':{'length':64},'eval':{"
               "'perplexity':['file:///d']},'after':[{'job':'jc'},{'job':'jb','when':'any'}]}");
    assert_int_equal(core_unmet(r.core, rig_job(&r, "je"), 9, unmet), 2); /* each once */
    assert_string_equal(unmet[0]->id, "jc");
    assert_string_equal(unmet[1]->id, "jb");
    assert_int_equal(core_unmet(r.core, rig_job(&r, "je"), 1, unmet), 1);
    rig_release(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_job_goes_from_submit_to_success),
        TEST(the_head_of_the_queue_blocks_the_rest),
        TEST(a_higher_priority_goes_first_and_ties_go_by_number),
        TEST(a_gang_takes_the_fewest_nodes_and_all_or_none),
        TEST(what_never_fits_is_infeasible_and_not_at_the_head),
        TEST(a_failed_preflight_ends_the_job_without_an_attempt),
        TEST(a_preflight_that_storage_failed_is_tried_again),
        TEST(jobs_wait_for_what_they_come_after),
        TEST(a_pipeline_with_an_unknown_job_is_refused_whole),
        TEST(outputs_of_earlier_jobs_are_resolved_into_inputs),
        TEST(an_output_that_was_not_left_fails_the_next_job),
        TEST(a_cancelled_job_says_so_only_when_its_ranks_are_gone),
        TEST(each_node_tells_how_its_own_ranks_ended),
        TEST(cancelling_before_the_launch_waits_for_the_shims_too),
        TEST(a_job_that_ends_well_before_it_hears_the_cancel_has_succeeded),
        TEST(an_exit_record_may_come_after_the_processes_are_gone),
        TEST(hold_and_release),
        TEST(app_failures_use_their_own_budget),
        TEST(a_verdict_of_the_program_is_not_retried),
        TEST(a_retry_waits_longer_each_time_and_resumes_from_the_newest_checkpoint),
        TEST(training_without_a_higher_checkpoint_stops_after_three_attempts),
        TEST(a_lost_node_starts_another_attempt_but_keeps_its_slots_until_the_lease),
        TEST(a_lost_node_that_comes_back_is_told_to_kill_what_it_still_runs),
        TEST(survivors_of_a_lost_gang_are_stopped_before_the_next_attempt),
        TEST(a_cancelled_job_on_a_dead_node_waits_for_the_lease),
        TEST(a_pause_of_the_coordinator_blames_no_node),
        TEST(a_launch_that_does_not_come_up_in_time_is_ended),
        TEST(a_job_over_its_time_limit_is_timed_out),
        TEST(a_node_that_cannot_prepare_fails_the_attempt_by_its_class),
        TEST(a_relay_goes_to_the_member_that_the_head_asks_for),
        TEST(reports_of_an_older_attempt_change_nothing),
        TEST(an_upload_may_be_reported_after_its_attempt),
        TEST(an_idempotency_key_gives_the_same_job_again),
        TEST(the_queue_has_a_limit),
        TEST(a_restart_keeps_a_running_attempt_and_tells_a_prepared_one_again),
        TEST(an_attempt_that_a_restarted_node_lacks_is_tried_again),
        TEST(a_second_machine_may_not_take_a_living_nodes_name),
        TEST(what_a_node_holds_of_unknown_or_ended_attempts_is_killed_or_forgotten),
        TEST(explain_says_what_a_queued_job_waits_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
