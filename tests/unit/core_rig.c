/* core_rig.c - see core_rig.h. */
#include "tests/unit/core_rig.h"
#include "proto/base/buf.h"

#define WALL_MS 1700000000000u

static json_t *table(struct rig *r, const char *name)
{
    json_t *t = json_object_get(r->tables, name);

    if (!t) {
        t = json_object();
        assert_int_equal(json_object_set_new(r->tables, name, t), 0);
    }
    return t;
}

static void keep_row(struct rig *r, const char *name, const json_t *row)
{
    char key[256];
    const char *job = lh_json_str(row, "job", ""),
               *to = strncmp(name, "job", 3) == 0 ? "job" : name;
    json_t *t = table(r, to), *old;

    if (strcmp(to, "job") == 0)
        (void)snprintf(key, sizeof(key), "%s", lh_json_str(row, "id", "?"));
    else if (strcmp(to, "node") == 0)
        (void)snprintf(key, sizeof(key), "%s", lh_json_str(row, "name", "?"));
    else if (strcmp(to, "attempt") == 0)
        (void)snprintf(key, sizeof(key), "%s/%06lld", job,
                       (long long)lh_json_i64(row, "number", -1));
    else if (strcmp(to, "claim") == 0)
        (void)snprintf(key, sizeof(key), "%s/%06lld/%04lld/%04lld", job,
                       (long long)lh_json_i64(row, "attempt", -1),
                       (long long)lh_json_i64(row, "position", -1),
                       (long long)lh_json_i64(row, "slot", -1));
    else
        (void)snprintf(key, sizeof(key), "%s/%06lld/%06lld/%s", job,
                       (long long)lh_json_i64(row, "attempt", -1),
                       (long long)lh_json_i64(row, "step", -2), lh_json_str(row, "output", ""));
    old = json_object_get(t, key);
    if (!old) {
        assert_true(strcmp(name, to) == 0); /* an update of a row that is not there */
        old = json_object();
        assert_int_equal(json_object_set_new(t, key, old), 0);
    }
    assert_int_equal(json_object_update(old, (json_t *)(uintptr_t)row), 0);
}

void rig_init(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    r->config = (struct core_config){.suspect_ms = 15000,
                                     .down_ms = 60000,
                                     .lease_ms = 600000,
                                     .prepare_ms = 300000,
                                     .launch_ms = 120000,
                                     .wall_slack_ms = 60000,
                                     .stop_grace_ms = 10000,
                                     .retry_base_ms = 10000,
                                     .retry_max_ms = 600000,
                                     .stall_ms = 5000,
                                     .idem_keep_ms = 86400000,
                                     .queue_max = 1000,
                                     .store = "file:///store",
                                     .ports = "24000-24999"};
    r->now_ms = 1000;
    r->tables = json_object();
    r->finals = json_object();
    lh_buf_init(&r->trace, 1 << 22);
    r->core = core_new(&r->config, r->now_ms, WALL_MS + r->now_ms);
}

void rig_release(struct rig *r)
{
    core_effects_release(&r->fx);
    core_free(r->core);
    json_decref(r->tables);
    json_decref(r->finals);
    lh_buf_release(&r->trace);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int by_number(const void *a, const void *b)
{
    int64_t x = lh_json_i64(*(json_t *const *)a, "number", 0),
            y = lh_json_i64(*(json_t *const *)b, "number", 0);

    return x < y ? -1 : x > y;
}

static void load_table(struct rig *r, const char *name)
{
    json_t *t = table(r, name), *row;
    size_t n = json_object_size(t), i = 0;
    const char **keys = calloc(n + 1, sizeof(char *));
    json_t **rows = calloc(n + 1, sizeof(json_t *));
    const char *key;
    struct lh_err err;

    json_object_foreach(t, key, row) keys[i++] = key;
    qsort(keys, n, sizeof(char *), by_key);
    for (i = 0; i < n; i++)
        rows[i] = json_object_get(t, keys[i]);
    if (strcmp(name, "job") == 0)
        qsort(rows, n, sizeof(json_t *), by_number);
    for (i = 0; i < n; i++)
        if (core_load(r->core, name, rows[i], &err) < 0)
            fail_msg("load %s: %s", name, err.text);
    free(keys);
    free(rows);
}

void rig_restart(struct rig *r)
{
    static const char *const order[] = {"node", "job", "attempt", "claim", "checkpoint"};
    uint64_t seq = core_last_seq(r->core);

    core_free(r->core);
    r->core = core_new(&r->config, r->now_ms, WALL_MS + r->now_ms);
    for (size_t i = 0; i < LH_ARRAY_LEN(order); i++)
        load_table(r, order[i]);
    core_loaded(r->core, seq, 0);
}

/* A slot is in at most one live claim, counts agree, one live attempt a job, numbers grow, finals
 * stay. */
static void check_invariants(struct rig *r)
{
    unsigned counts[LH_JOB_TIMED_OUT + 1] = {0};
    json_t *taken = json_object();

    for (const struct core_job *j = core_next_job(r->core, 0, false); j;
         j = core_next_job(r->core, j->number, false)) {
        const char *final = json_string_value(json_object_get(r->finals, j->id));
        unsigned live = 0;

        counts[j->state]++;
        if (final)
            assert_string_equal(final, lh_job_state_name(j->state));
        else if (lh_job_is_final(j->state))
            (void)json_object_set_new(r->finals, j->id, json_string(lh_job_state_name(j->state)));
        for (unsigned i = 0; i < j->n_attempts; i++) {
            const struct core_attempt *a = &j->attempts[i];

            live += !lh_attempt_is_final(a->state);
            assert_true(i == 0 || a->number > j->attempts[i - 1].number);
            for (unsigned k = 0; k < a->n_claims; k++)
                for (unsigned s = 0; s < CORE_SLOTS_MAX && !a->claims[k].cleaned; s++) {
                    char key[128];

                    if (!(a->claims[k].slot_mask[s / 64] >> (s % 64) & 1))
                        continue;
                    (void)snprintf(key, sizeof(key), "%s/%u", a->claims[k].node, s);
                    assert_null(json_object_get(taken, key));
                    (void)json_object_set_new(taken, key, json_true());
                }
            if (a->state == LH_ATTEMPT_CLEANED)
                for (unsigned k = 0; k < a->n_claims; k++)
                    assert_true(a->claims[k].cleaned);
        }
        assert_true(live <= 1);
        assert_int_equal(live == 1, j->state == LH_JOB_STARTING || j->state == LH_JOB_RUNNING ||
                                        j->state == LH_JOB_STOPPING);
    }
    for (int s = 0; s <= LH_JOB_TIMED_OUT; s++)
        assert_int_equal(counts[s], core_count_jobs(r->core, (enum lh_job_state)s));
    for (unsigned i = 0, used = 0; i < core_n_nodes(r->core); i++) {
        used += core_node_at(r->core, i)->slots_used;
        if (i + 1 == core_n_nodes(r->core))
            assert_int_equal(used, json_object_size(taken));
    }
    json_decref(taken);
}

static void trace_event(struct rig *r, const struct change_event *e)
{
    const char *reason = lh_json_str(e->data, "reason", lh_json_str(e->data, "stop_reason", ""));
    char attempt[24] = "";

    if (e->attempt)
        (void)snprintf(attempt, sizeof(attempt), "/%llu", (unsigned long long)e->attempt);
    assert_int_equal(lh_buf_printf(&r->trace, "%s %s%s%s%s\n", e->type,
                                   e->job[0] ? e->job : lh_json_str(e->data, "node", ""), attempt,
                                   reason[0] ? " " : "", reason),
                     0);
}

void rig_step(struct rig *r, struct core_event *ev)
{
    uint64_t seq = core_last_seq(r->core);

    ev->now_ms = r->now_ms;
    ev->wall_ms = WALL_MS + r->now_ms;
    ev->random = r->random += 0x9e3779b97f4a7c15u;
    core_effects_release(&r->fx);
    core_step(r->core, ev, &r->fx);
    for (unsigned i = 0; i < r->fx.changes.n_events; i++) {
        const struct change_event *e = &r->fx.changes.events[i];

        assert_int_equal(e->seq, ++seq);
        for (unsigned k = 0; k < e->n_rows; k++)
            keep_row(r, e->rows[k].table, e->rows[k].row);
        trace_event(r, e);
    }
    for (unsigned i = 0; i < r->fx.n_commands; i++) {
        const struct core_command *c = &r->fx.commands[i];

        if (c->body)
            assert_int_equal(lh_buf_printf(&r->trace, "> %s %s %s\n", c->node,
                                           lh_json_str(c->body, "type", "?"),
                                           lh_json_str(c->body, "job", "?")),
                             0);
        if (r->on_command)
            r->on_command(r->arg, c->node, c->body);
    }
    check_invariants(r);
}

void rig_wait(struct rig *r, uint64_t ms)
{
    for (uint64_t end = r->now_ms + ms; r->now_ms < end;) {
        struct core_event ev = {.type = CORE_EV_TICK,
                                .u.tick.committed_seq = core_last_seq(r->core)};

        r->now_ms += LH_MIN(end - r->now_ms, (uint64_t)500);
        for (unsigned i = 0; i < core_n_nodes(r->core);
             i++) /* whoever is not made silent is heard */
            if (core_node_at(r->core, i)->version[0] != 's') {
                struct core_event seen = {.type = CORE_EV_SEEN,
                                          .u.seen.node = core_node_at(r->core, i)->name};

                rig_step(r, &seen);
            }
        rig_step(r, &ev);
    }
}

static struct lh_job *parse(const json_t *spec)
{
    struct lh_job *job = NULL;
    struct lh_err err;

    if (lh_job_parse(spec, &job, NULL, &err) < 0)
        fail_msg("%s: %s", err.pointer, err.text);
    return job;
}

void rig_submit_key(struct rig *r, const char *id, const char *spec, const char *key,
                    const char *fingerprint)
{
    json_t *o = json_of(spec);
    struct core_new_job job = {.job = parse(o)};
    struct core_event ev = {
        .type = CORE_EV_SUBMIT,
        .u.submit = {
            .jobs = &job, .n_jobs = 1, .principal = "me", .key = key, .fingerprint = fingerprint}};

    (void)snprintf(job.id, sizeof(job.id), "%s", id);
    rig_step(r, &ev);
    json_decref(o);
}

void rig_submit(struct rig *r, const char *id, const char *spec)
{
    rig_submit_key(r, id, spec, NULL, NULL);
    assert_int_equal(r->fx.status, 201);
}

void rig_pipeline(struct rig *r, unsigned n, const char *const *ids, const char *specs)
{
    json_t *all = json_of(specs);
    struct core_new_job jobs[8];
    struct core_event ev = {
        .type = CORE_EV_SUBMIT,
        .u.submit = {.jobs = jobs, .n_jobs = n, .pipeline = true, .principal = "me"}};

    assert_int_equal(json_array_size(all), n);
    for (unsigned i = 0; i < n; i++) {
        (void)snprintf(jobs[i].id, sizeof(jobs[i].id), "%s", ids[i]);
        jobs[i].job = parse(json_array_get(all, i));
    }
    rig_step(r, &ev);
    json_decref(all);
}

void rig_action(struct rig *r, const char *id, const char *action)
{
    struct core_event ev = {.type = CORE_EV_ACTION,
                            .u.action = {.job = id, .action = action, .principal = "me"}};

    rig_step(r, &ev);
}

void rig_register(struct rig *r, const char *node, unsigned slots, const char *agent,
                  const char *attempts)
{
    json_t *list = json_of(attempts);
    json_t *body = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:I,s:o}", "name", node,
                             "agent_id", agent, "boot_id", "boot", "version", "1", "hostname", node,
                             "address", "127.0.0.1", "device", "cpu", "slots", (int)slots, "cores",
                             4, "memory_bytes", (json_int_t)1 << 30, "attempts", list);
    struct core_event ev = {.type = CORE_EV_REGISTER, .u.reg.body = body};

    rig_step(r, &ev);
    json_decref(body);
}

void rig_report(struct rig *r, const char *node, const char *report)
{
    json_t *o = json_of(report);
    struct core_event ev = {.type = CORE_EV_REPORT, .u.report = {.node = node, .report = o}};

    rig_step(r, &ev);
    json_decref(o);
}

static void report_attempt(struct rig *r, const char *node, const char *id, const char *type,
                           const char *more)
{
    const struct core_job *j = rig_job(r, id);
    char text[512];

    (void)snprintf(text, sizeof(text), "{'type':'%s','job':'%s','attempt':%llu%s}", type, id,
                   (unsigned long long)j->attempts[j->n_attempts - 1].number, more);
    rig_report(r, node, text);
}

void rig_preflight(struct rig *r, const char *node, const char *id)
{
    char text[256];

    (void)snprintf(text, sizeof(text),
                   "{'type':'preflight','job':'%s','ok':true,'plan':{'bytes':1}}", id);
    rig_report(r, node, text);
}

static unsigned gang_of(const struct rig *r, const char *id, char nodes[8][CORE_NODE_NAME_MAX])
{
    const struct core_job *j = rig_job(r, id);
    const struct core_attempt *a = &j->attempts[j->n_attempts - 1];

    assert_true(a->n_claims <= 8);
    for (unsigned i = 0; i < a->n_claims; i++)
        memcpy(nodes[i], a->claims[i].node, CORE_NODE_NAME_MAX);
    return a->n_claims;
}

void rig_run(struct rig *r, const char *id)
{
    char nodes[8][CORE_NODE_NAME_MAX];
    unsigned n = gang_of(r, id, nodes);

    for (unsigned i = 0; i < n; i++)
        report_attempt(r, nodes[i], id, "prepared", "");
    report_attempt(r, nodes[0], id, "running", "");
}

void rig_exit(struct rig *r, const char *id, const char *outcome, const char *class, int code)
{
    char nodes[8][CORE_NODE_NAME_MAX], more[200];

    (void)gang_of(r, id, nodes);
    (void)snprintf(more, sizeof(more), ",'outcome':'%s','class':'%s','exit':%d,'result':{'x':1}",
                   outcome, class, code);
    report_attempt(r, nodes[0], id, "exited", more);
}

void rig_clean(struct rig *r, const char *id)
{
    char nodes[8][CORE_NODE_NAME_MAX];
    unsigned n = gang_of(r, id, nodes);

    for (unsigned i = 0; i < n; i++)
        report_attempt(r, nodes[i], id, "cleaned", "");
}

const struct core_job *rig_job(const struct rig *r, const char *id)
{
    const struct core_job *j = core_find_job(r->core, id);

    assert_non_null(j);
    return j;
}

void rig_expect_state(const struct rig *r, const char *id, const char *state, const char *reason)
{
    const struct core_job *j = rig_job(r, id);

    assert_string_equal(lh_job_state_name(j->state), state);
    if (reason)
        assert_string_equal(j->reason, reason);
}

void rig_expect(struct rig *r, const char *trace)
{
    assert_string_equal(r->trace.data ? r->trace.data : "", trace);
    lh_buf_consume(&r->trace, r->trace.len);
    if (r->trace.data)
        r->trace.data[0] = '\0';
}
