/* test_core_sim.c - the core against virtual nodes on virtual time, with faults drawn from a seed.
 *
 * Nodes behave as proto/spec/node-protocol.md says: they poll, obey, report until heard, keep what
 * they hold over a restart of their daemon, lose it by a reboot, and end attempts whose lease has
 * run out. The network loses requests and answers; nodes are cut off, rebooted, restarted; the
 * coordinator is restarted from its rows; users cancel, hold and release. core_rig.c checks the
 * tables after each step; here the physical side is checked: no slot runs two attempts, and a
 * cancelled job runs nowhere. In the end the faults stop and every job must come to its end.
 *
 * LONGHAUL_SIM_SEEDS=FIRST-LAST runs others than the default seeds; a failure prints its seed.
 * LONGHAUL_SIM_TRACE=1 prints every event and command.
 */
#include "tests/unit/core_rig.h"

#define NODES 6
#define JOBS 60
#define HELD_MAX 64
#define STEP_MS 500
#define COMMANDS_MAX 256

enum phase { PH_PREPARING, PH_PREPARED, PH_RUNNING, PH_ENDING, PH_EXITED, PH_CLEAN };

struct held {
    char job[CORE_ID_MAX];
    uint64_t attempt;
    bool head, processes, told_prepared, told_running, told_exited, told_cleaned, stopped, launched,
        gone;
    unsigned slots;
    enum phase phase;
    uint64_t until_ms; /* when the phase is over */
    int64_t step;
    char exit[160];
};
struct vnode {
    char name[16], agent[16], boot[16];
    unsigned slots, agents, boots;
    bool registered;
    uint64_t cut_until_ms, heard_ms;
    struct held held[HELD_MAX];
    unsigned n_held;
    json_t *inbox;      /* commands of the coordinator's outbox for this node */
    json_t *preflights; /* array of job ids to answer */
};
struct sim {
    struct rig rig;
    struct vnode nodes[NODES];
    uint64_t seed, random;
    bool faults;
    unsigned submitted;
};

static uint64_t rnd(struct sim *s, uint64_t n)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random % n;
}

static bool chance(struct sim *s, unsigned per_mille)
{
    return rnd(s, 1000) < per_mille;
}

static struct vnode *node_of(struct sim *s, const char *name)
{
    for (int i = 0; i < NODES; i++)
        if (strcmp(s->nodes[i].name, name) == 0)
            return &s->nodes[i];
    return NULL;
}

static void on_command(void *arg, const char *node, const json_t *body)
{
    struct vnode *n = node_of(arg, node);

    if (!body)
        json_array_clear(n->inbox);
    else
        (void)json_array_append(n->inbox, (json_t *)(uintptr_t)body);
}

static struct held *find_held(struct vnode *n, const char *job, uint64_t attempt)
{
    for (unsigned i = 0; i < n->n_held; i++)
        if (strcmp(n->held[i].job, job) == 0 && n->held[i].attempt == attempt && !n->held[i].gone)
            return &n->held[i];
    return NULL;
}

static void end_processes(struct held *h, uint64_t now, uint64_t after_ms)
{
    if (h->phase >= PH_ENDING)
        return;
    h->phase = PH_ENDING;
    h->stopped = true;
    h->until_ms = now + after_ms;
}

/* ---- commands -------------------------------------------------------------------------------- */

static void obey_prepare(struct sim *s, struct vnode *n, const json_t *c, const char *job,
                         uint64_t attempt)
{
    struct held *h = find_held(n, job, attempt);
    const json_t *gang = json_object_get(c, "gang"), *member;
    size_t i;

    if (h) {
        h->told_prepared = false;
        return;
    }
    for (unsigned k = 0; k < n->n_held;
         k++) /* NODE-2: a newer attempt stops the older ones, and refuses to go back */
        if (strcmp(n->held[k].job, job) == 0 && !n->held[k].gone) {
            assert_true(n->held[k].attempt < attempt);
            end_processes(&n->held[k], s->rig.now_ms, 500);
        }
    for (unsigned k = 0; k < n->n_held && !h; k++)
        if (n->held[k].gone)
            h = &n->held[k];
    if (!h) {
        assert_true(n->n_held < HELD_MAX);
        h = &n->held[n->n_held++];
    }
    memset(h, 0, sizeof(*h));
    (void)snprintf(h->job, sizeof(h->job), "%s", job);
    h->attempt = attempt;
    h->head = strcmp(lh_json_str(c, "role", ""), "head") == 0;
    json_array_foreach (gang, i, member)
        if (strcmp(lh_json_str(member, "node", ""), n->name) == 0)
            h->slots = (unsigned)lh_json_i64(member, "slots", 0);
    h->step = lh_json_i64(json_object_get(c, "resume"), "step", 0);
    h->until_ms = s->rig.now_ms + rnd(s, 4000);
}

static void obey(struct sim *s, struct vnode *n, const json_t *c)
{
    const char *type = lh_json_str(c, "type", ""), *job = lh_json_str(c, "job", "");
    uint64_t attempt = (uint64_t)lh_json_i64(c, "attempt", 0);
    struct held *h = find_held(n, job, attempt);
    char report[200];

    if (strcmp(type, "preflight") == 0) {
        (void)json_array_append_new(n->preflights, json_string(job));
    } else if (strcmp(type, "prepare") == 0) {
        obey_prepare(s, n, c, job, attempt);
    } else if (strcmp(type, "stop") == 0) {
        if (h) {
            end_processes(h, s->rig.now_ms, rnd(s, 8000));
            return;
        }
        (void)snprintf(report, sizeof(report), "{'type':'cleaned','job':'%s','attempt':%llu}", job,
                       (unsigned long long)attempt);
        rig_report(&s->rig, n->name, report);
    } else if (strcmp(type, "launch") == 0 && h && h->phase == PH_PREPARED && !h->launched) {
        h->launched = true;
        h->phase = PH_RUNNING;
        h->until_ms = s->rig.now_ms + 500 + rnd(s, 30000);
    } else if (strcmp(type, "forget") == 0 && h && h->phase == PH_CLEAN) {
        h->gone = true;
    }
}

/* ---- the life of a held attempt -------------------------------------------------------------- */

static bool reachable(const struct sim *s, const struct vnode *n)
{
    return s->rig.now_ms >= n->cut_until_ms && n->registered;
}

/* Sends a report; true when the answer came, so that the node takes it as done. */
static bool report(struct sim *s, struct vnode *n, const struct held *h, const char *type,
                   const char *more)
{
    char text[400];

    if (!reachable(s, n) || (s->faults && chance(s, 50))) /* lost on the way there */
        return false;
    (void)snprintf(text, sizeof(text), "{'type':'%s','job':'%s','attempt':%llu%s}", type, h->job,
                   (unsigned long long)h->attempt, more);
    rig_report(&s->rig, n->name, text);
    return !(s->faults && chance(s, 50)); /* or on the way back: it comes again */
}

static void report_exit(struct sim *s, struct vnode *n, struct held *h)
{
    static const char *const bad[] = {"app", "infra", "launch", "storage", "hang"};
    char more[160];

    if (h->exit[0]) /* the same record each time */
        (void)snprintf(more, sizeof(more), "%s", h->exit);
    else if (h->stopped)
        (void)snprintf(more, sizeof(more), ",'outcome':'stopped','class':'','exit':85");
    else if (s->faults && h->attempt % 3 == 1 && chance(s, 300))
        (void)snprintf(more, sizeof(more), ",'outcome':'failed','class':'%s','exit':3",
                       bad[rnd(s, 5)]);
    else
        (void)snprintf(more, sizeof(more),
                       ",'outcome':'ok','class':'','exit':0,'result':{'steps':%lld}",
                       (long long)h->step);
    (void)snprintf(h->exit, sizeof(h->exit), "%s", more);
    if (report(s, n, h, "exited", more)) {
        h->told_exited = true;
        h->phase = PH_EXITED;
    }
}

static void live(struct sim *s, struct vnode *n, struct held *h)
{
    uint64_t now = s->rig.now_ms;
    char more[120];

    switch (h->phase) {
    case PH_PREPARING:
        if (now >= h->until_ms) {
            h->processes = true; /* the shim */
            h->phase = PH_PREPARED;
        }
        break;
    case PH_PREPARED:
        if (!h->told_prepared)
            h->told_prepared = report(s, n, h, "prepared", "");
        break;
    case PH_RUNNING:
        if (!h->told_running)
            h->told_running = report(s, n, h, "running", "");
        if (now < h->until_ms)
            break;
        h->step++;
        (void)snprintf(more, sizeof(more), ",'step':%lld,'state':'done','uri':'u%lld'",
                       (long long)h->step, (long long)h->step);
        if (report(s, n, h, "upload", more)) {
            h->phase = PH_ENDING;
            h->until_ms = now;
        }
        break;
    case PH_ENDING:
        if (now < h->until_ms)
            break;
        h->processes = false;
        if (!h->told_cleaned &&
            chance(s, 500)) /* the exit waits for uploads, the word that all is gone does not */
            h->told_cleaned = report(s, n, h, "cleaned", "");
        if (h->head && h->launched && !h->told_exited)
            report_exit(s, n, h);
        else
            h->phase = PH_EXITED;
        break;
    case PH_EXITED:
        h->told_cleaned = h->told_cleaned || report(s, n, h, "cleaned", "");
        if (h->told_cleaned)
            h->phase = PH_CLEAN;
        break;
    case PH_CLEAN:
        break;
    }
}

static void do_register(struct sim *s, struct vnode *n)
{
    json_t *list = json_array(), *body;
    struct core_event ev = {.type = CORE_EV_REGISTER};
    const json_t *kill;
    size_t i;

    for (unsigned k = 0; k < n->n_held; k++)
        if (!n->held[k].gone)
            (void)json_array_append_new(list, json_pack("{s:s,s:I}", "job", n->held[k].job,
                                                        "attempt", (json_int_t)n->held[k].attempt));
    body = json_pack("{s:s,s:s,s:s,s:s,s:i,s:o}", "name", n->name, "agent_id", n->agent, "boot_id",
                     n->boot, "device", "cpu", "slots", (int)n->slots, "attempts", list);
    ev.u.reg.body = body;
    rig_step(&s->rig, &ev);
    json_decref(body);
    if (s->rig.fx.status != 200)
        return;
    n->registered = true;
    json_array_foreach (json_object_get(s->rig.fx.body, "kill"), i, kill) {
        struct held *h =
            find_held(n, lh_json_str(kill, "job", ""), (uint64_t)lh_json_i64(kill, "attempt", 0));

        if (!h)
            continue;
        end_processes(h, s->rig.now_ms, 500);
    }
    for (unsigned k = 0; k < n->n_held; k++) { /* reports are derived from files: made again */
        struct held *h = &n->held[k];

        h->told_prepared = h->told_running = h->told_cleaned = h->told_exited = false;
        if (h->phase == PH_CLEAN || h->phase == PH_EXITED)
            h->phase = PH_ENDING;
    }
}

static void contact(struct sim *s, struct vnode *n)
{
    struct core_event seen = {.type = CORE_EV_SEEN, .u.seen.node = n->name};
    size_t i;
    json_t *v;

    if (s->rig.now_ms < n->cut_until_ms)
        return;
    if (!core_knows_agent(s->rig.core, n->name, n->agent))
        n->registered = false;
    if (!n->registered) {
        do_register(s, n);
        return;
    }
    rig_step(&s->rig, &seen);
    n->heard_ms = s->rig.now_ms;
    if (!(s->faults &&
          chance(s, 100))) { /* an answer that is lost leaves the commands where they are */
        json_t *commands = n->inbox;

        n->inbox = json_array();
        json_array_foreach (commands, i, v)
            obey(s, n, v);
        json_decref(commands);
    }
    if (json_array_size(n->preflights) > 0 && chance(s, 500)) {
        char text[200];

        (void)snprintf(text, sizeof(text), "{'type':'preflight','job':'%s','ok':true,'plan':{}}",
                       json_string_value(json_array_get(n->preflights, 0)));
        (void)json_array_remove(n->preflights, 0);
        rig_report(&s->rig, n->name, text);
    }
}

static void lease(struct sim *s, struct vnode *n)
{
    if (s->rig.now_ms - n->heard_ms <= s->rig.config.lease_ms)
        return;
    for (unsigned i = 0; i < n->n_held; i++)
        end_processes(&n->held[i], s->rig.now_ms, 5000);
}

/* ---- faults and users ------------------------------------------------------------------------ */

static void reboot(struct vnode *n)
{
    for (unsigned i = 0; i < n->n_held; i++)
        n->held[i].gone = true;
    (void)snprintf(n->boot, sizeof(n->boot), "boot%u", ++n->boots);
    (void)snprintf(n->agent, sizeof(n->agent), "agent%u", ++n->agents);
    json_array_clear(n->preflights);
    n->registered = false;
}

static void break_something(struct sim *s)
{
    struct vnode *n = &s->nodes[rnd(s, NODES)];

    if (chance(s, 8))
        n->cut_until_ms = s->rig.now_ms + rnd(s, chance(s, 300) ? 1200000 : 100000);
    if (chance(s, 2))
        reboot(n);
    if (chance(s, 2)) { /* the daemon alone: what it holds goes on */
        (void)snprintf(n->agent, sizeof(n->agent), "agent%u", ++n->agents);
        json_array_clear(n->preflights);
        n->registered = false;
    }
    if (chance(s, 1)) {
        for (int i = 0; i < NODES; i++)
            json_array_clear(s->nodes[i].inbox);
        rig_restart(&s->rig);
    }
}

static void use(struct sim *s)
{
    char id[32], spec[400], after[80] = "";
    static const char *const actions[] = {"cancel", "hold", "release"};

    if (s->submitted < JOBS && chance(s, 60)) {
        if (s->submitted > 0 && chance(s, 200))
            (void)snprintf(after, sizeof(after), ",'after':[{'job':'j%u','when':'any'}]",
                           (unsigned)rnd(s, s->submitted));
        (void)snprintf(id, sizeof(id), "j%u", s->submitted++);
        (void)snprintf(spec, sizeof(spec),
                       "{'kind':'check','priority':%d,'hold':%s,'resources':{'slots':%u}%s}",
                       (int)rnd(s, 3), chance(s, 100) ? "true" : "false", 1 + (unsigned)rnd(s, 9),
                       after);
        rig_submit(&s->rig, id, spec);
    }
    if (s->submitted > 0 && s->faults && chance(s, 40)) {
        (void)snprintf(id, sizeof(id), "j%u", (unsigned)rnd(s, s->submitted));
        rig_action(&s->rig, id, actions[rnd(s, 3)]);
    }
}

/* ---- the physical side ----------------------------------------------------------------------- */

static void check_world(struct sim *s)
{
    for (int i = 0; i < NODES; i++) {
        struct vnode *n = &s->nodes[i];
        unsigned used = 0;

        for (unsigned k = 0; k < n->n_held; k++) {
            const struct held *h = &n->held[k];

            if (h->gone || !h->processes)
                continue;
            used += h->slots;
            if (rig_job(&s->rig, h->job)->state == LH_JOB_CANCELLED)
                fail_msg("seed %llu: %s/%llu runs on %s after it was cancelled",
                         (unsigned long long)s->seed, h->job, (unsigned long long)h->attempt,
                         n->name);
        }
        if (used > n->slots)
            fail_msg("seed %llu: %u of %u slots of %s in use at %llu ms",
                     (unsigned long long)s->seed, used, n->slots, n->name,
                     (unsigned long long)s->rig.now_ms);
    }
}

static void turn(struct sim *s)
{
    struct core_event tick = {.type = CORE_EV_TICK};

    s->rig.now_ms += STEP_MS;
    if (s->faults)
        break_something(s);
    use(s);
    rig_step(&s->rig, &tick);
    for (int i = 0; i < NODES; i++) {
        struct vnode *n = &s->nodes[i];

        contact(s, n);
        lease(s, n);
        for (unsigned k = 0; k < n->n_held; k++)
            if (!n->held[k].gone)
                live(s, n, &n->held[k]);
    }
    if (getenv("LONGHAUL_SIM_TRACE") && s->rig.trace.len > 0)
        print_message("@%llu\n%s", (unsigned long long)s->rig.now_ms, s->rig.trace.data);
    check_world(s);
    lh_buf_consume(&s->rig.trace, s->rig.trace.len);
}

static bool all_over(const struct sim *s)
{
    unsigned n = 0;

    for (int i = LH_JOB_SUCCEEDED; i <= LH_JOB_TIMED_OUT; i++)
        n += core_count_jobs(s->rig.core, (enum lh_job_state)i);
    return n == JOBS;
}

static void release_held(struct sim *s)
{
    for (unsigned i = 0; i < JOBS; i++) {
        char id[32];

        (void)snprintf(id, sizeof(id), "j%u", i);
        if (rig_job(&s->rig, id)->state == LH_JOB_HELD)
            rig_action(&s->rig, id, "release");
    }
}

static void run_seed(uint64_t seed)
{
    struct sim *s = calloc(1, sizeof(*s));
    unsigned turns = 0, attempts = 0, by_state[LH_JOB_TIMED_OUT + 1];

    s->seed = seed;
    s->random = seed * 0x9e3779b97f4a7c15u + 1;
    rig_init(&s->rig);
    s->rig.random = seed;
    s->rig.on_command = on_command;
    s->rig.arg = s;
    for (int i = 0; i < NODES; i++) {
        struct vnode *n = &s->nodes[i];

        (void)snprintf(n->name, sizeof(n->name), "n%d", i);
        n->slots = 2 + (unsigned)rnd(s, 4);
        n->inbox = json_array();
        n->preflights = json_array();
        reboot(n);
    }
    for (s->faults = true; s->submitted < JOBS || turns < 3000; turns++)
        turn(s);
    s->faults = false;
    for (int i = 0; i < NODES; i++)
        s->nodes[i].cut_until_ms = 0;
    release_held(s);
    for (turns = 0; !all_over(s); turns++) {
        if (turns == 20000)
            fail_msg("seed %llu: jobs do not end", (unsigned long long)seed);
        turn(s);
    }
    for (int i = LH_JOB_SUCCEEDED; i <= LH_JOB_TIMED_OUT; i++)
        by_state[i] = core_count_jobs(s->rig.core, (enum lh_job_state)i);
    for (const struct core_job *j = core_next_job(s->rig.core, 0, true); j;
         j = core_next_job(s->rig.core, j->number, true))
        attempts += j->n_attempts;
    print_message("seed %llu: %u succeeded, %u failed, %u cancelled, %u attempts, %llu events\n",
                  (unsigned long long)seed, by_state[LH_JOB_SUCCEEDED], by_state[LH_JOB_FAILED],
                  by_state[LH_JOB_CANCELLED], attempts,
                  (unsigned long long)core_last_seq(s->rig.core));
    assert_true(by_state[LH_JOB_SUCCEEDED] > 0);
    assert_true(attempts > JOBS / 4); /* the world was not idle */
    for (int i = 0; i < NODES; i++) {
        json_decref(s->nodes[i].inbox);
        json_decref(s->nodes[i].preflights);
    }
    rig_release(&s->rig);
    free(s);
}

static void random_worlds_keep_every_invariant_and_every_job_ends(void **state)
{
    unsigned long long first = 1, last = 30;
    const char *seeds = getenv("LONGHAUL_SIM_SEEDS");

    (void)state;
    if (seeds && sscanf(seeds, "%llu-%llu", &first, &last) != 2)
        fail_msg("LONGHAUL_SIM_SEEDS takes FIRST-LAST, not %s", seeds);
    for (unsigned long long seed = first; seed <= last; seed++)
        run_seed(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(random_worlds_keep_every_invariant_and_every_job_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
