/* test_retire.c - when jobs that have ended leave the core, and how they come back (STATE-14). */
#include "proto/base/json.h"
#include "tests/unit/core_rig.h"

#define HOUR_MS ((uint64_t)3600 * 1000)

static void begin(struct rig *r, uint64_t keep_ms, unsigned max)
{
    rig_init(r);
    r->config.jobs_keep_ms = keep_ms;
    r->config.jobs_max = max;
    core_configure(r->core, &r->config);
    rig_register(r, "n1", 2, "a1", "[]");
}

static void cancelled(struct rig *r, const char *id, const char *spec)
{
    rig_submit(r, id, spec);
    rig_action(r, id, "cancel");
}

static void a_job_leaves_when_it_ended_long_ago_or_too_many_ended_since(void **state)
{
    struct rig r;

    (void)state;
    begin(&r, HOUR_MS, 2);
    cancelled(&r, "ja", "{'kind':'check','name':'one'}");
    cancelled(&r, "jb", "{'kind':'check','name':'two'}");
    rig_submit(&r, "jc", "{'kind':'check','name':'three','hold':true}");
    rig_wait(&r, 1000);
    assert_non_null(rig_job(&r, "ja"));
    cancelled(&r, "jd", "{'kind':'check'}");
    rig_wait(&r, 1000); /* three have ended: the one that did first goes */
    assert_null(core_find_job(r.core, "ja"));
    assert_null(core_find_job(r.core, "one"));
    assert_null(core_find_job(r.core, "1"));
    assert_string_equal(core_find_job(r.core, "2")->id, "jb");
    assert_string_equal(core_find_job(r.core, "three")->id, "jc");
    assert_int_equal(core_count_jobs(r.core, LH_JOB_CANCELLED), 2);
    rig_wait(&r, HOUR_MS + 1000);
    assert_int_equal(core_count_jobs(r.core, LH_JOB_CANCELLED), 0);
    assert_string_equal(core_next_job(r.core, 0, false)->id, "jc"); /* it waits, however long */
    rig_submit(&r, "je", "{'kind':'check'}");
    assert_int_equal(rig_job(&r, "je")->number,
                     5); /* numbers of those that left are not used again */
    rig_release(&r);
}

static void a_job_stays_while_another_comes_after_it(void **state)
{
    struct rig r;

    (void)state;
    begin(&r, 1000, 0);
    rig_submit(&r, "ja", "{'kind':'check','hold':true}");
    rig_submit(&r, "jb", "{'kind':'check','after':[{'job':'ja','when':'any'}],'hold':true}");
    rig_action(&r, "ja", "cancel");
    rig_wait(&r, 5000);
    assert_non_null(core_find_job(r.core, "ja"));
    rig_restart(&r); /* what needs whom is counted again */
    rig_register(&r, "n1", 2, "a1", "[]");
    rig_wait(&r, 5000);
    assert_non_null(core_find_job(r.core, "ja"));
    rig_action(&r, "jb", "release");
    rig_expect_state(&r, "jb", "blocked", "preflight"); /* it found out how ja ended */
    rig_action(&r, "jb", "cancel");
    rig_wait(&r, 5000);
    assert_null(core_find_job(r.core, "ja"));
    assert_null(core_find_job(r.core, "jb"));
    rig_release(&r);
}

static void a_job_stays_while_an_upload_of_it_is_under_way(void **state)
{
    struct rig r;

    (void)state;
    begin(&r, 1000, 0);
    rig_submit(&r, "ja", "{'kind':'check','resources':{'slots':1}}");
    rig_preflight(&r, "n1", "ja");
    rig_run(&r, "ja");
    rig_report(
        &r, "n1",
        "{'type':'checkpoint','job':'ja','attempt':1,'output':'shards','bytes':7,'path':'p'}");
    rig_exit(&r, "ja", "ok", "", 0);
    rig_clean(&r, "ja");
    rig_expect_state(&r, "ja", "succeeded", "");
    rig_wait(&r, 5000);
    assert_non_null(core_find_job(r.core, "ja"));
    assert_int_equal(core_count_uploads(r.core, "written", NULL), 1);
    rig_report(&r, "n1",
               "{'type':'upload','job':'ja','attempt':1,'output':'shards','state':'done','uri':"
               "'file:///s','bytes':7}");
    rig_wait(&r, 1000);
    assert_null(core_find_job(r.core, "ja"));
    assert_int_equal(core_count_uploads(r.core, "done", NULL), 0);
    rig_release(&r);
}

static void a_job_stays_until_its_end_is_on_disk(void **state)
{
    struct core_event tick = {.type = CORE_EV_TICK};
    struct rig r;

    (void)state;
    begin(&r, 1000, 0);
    cancelled(&r, "ja", "{'kind':'check'}");
    tick.u.tick.committed_seq = core_last_seq(r.core) - 1;
    r.now_ms += 5000;
    rig_step(&r, &tick);
    assert_non_null(core_find_job(r.core, "ja"));
    tick.u.tick.committed_seq++;
    rig_step(&r, &tick);
    assert_null(core_find_job(r.core, "ja"));
    rig_release(&r);
}

static void name_it(void *arg, const char *name)
{
    json_array_append_new(arg, json_string(name));
}

static void a_job_that_left_is_recalled_for_one_that_names_it(void **state)
{
    struct rig r;
    json_t *names = json_array(), *rows;
    struct lh_job *job = NULL;
    struct lh_err err = {.code = 0};
    json_t *spec = json_pack("{s:s,s:[{s:s,s:s},{s:s,s:s}]}", "kind", "check", "after", "job",
                             "same", "when", "any", "job", "jc", "when", "any");

    (void)state;
    begin(&r, HOUR_MS, 1);
    cancelled(&r, "ja", "{'kind':'check','name':'same'}");
    rig_submit(&r, "jb", "{'kind':'check','name':'other','hold':true}");
    cancelled(&r, "jc", "{'kind':'check'}");
    rig_wait(&r, 1000);
    assert_null(core_find_job(r.core, "ja"));
    assert_int_equal(lh_job_parse(spec, &job, NULL, &err), 0);
    core_unknown_names(r.core, job, name_it, names);
    assert_int_equal(json_array_size(names), 1); /* jc is here */
    assert_string_equal(json_string_value(json_array_get(names, 0)), "same");

    rows = json_pack("[[s,O]]", "job", json_object_get(json_object_get(r.tables, "job"), "ja"));
    assert_int_equal(core_recall(r.core, rows, &err), 0);
    assert_string_equal(core_find_job(r.core, "same")->id, "ja");
    assert_int_equal(core_find_job(r.core, "1")->number, 1);
    assert_string_equal(core_next_job(r.core, 0, false)->id, "ja"); /* in its old place */
    assert_string_equal(core_next_job(r.core, 1, false)->id, "jb");
    rig_submit(&r, "jd", "{'kind':'check','after':[{'job':'same','when':'any'}],'hold':true}");
    rig_wait(&r, 1000);
    assert_non_null(core_find_job(r.core, "ja")); /* needed now, though one too many */
    assert_int_equal(core_recall(r.core, rows, &err), LH_ESTATE); /* it is here already */
    lh_job_free(job);
    json_decref(spec);
    json_decref(names);
    json_decref(rows);
    rig_release(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_job_leaves_when_it_ended_long_ago_or_too_many_ended_since),
        TEST(a_job_stays_while_another_comes_after_it),
        TEST(a_job_stays_while_an_upload_of_it_is_under_way),
        TEST(a_job_stays_until_its_end_is_on_disk),
        TEST(a_job_that_left_is_recalled_for_one_that_names_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
