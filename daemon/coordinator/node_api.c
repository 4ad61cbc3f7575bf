/* node_api.c - /v1/node/: nodes register, poll for commands and report
 * (proto/spec/node-protocol.md). What polls answer is in outboxes.c.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPORTS_MAX 1000  /* of one request */
#define BODY_DEPTH_MAX 96 /* a plan or a result of 64 levels, and what is around it */

json_t *node_answer(const struct app *a)
{
    return json_pack("{s:s,s:I}", "cluster", store_cluster(a->store), "epoch",
                     (json_int_t)store_epoch(a->store));
}

struct node_call {
    struct app *app;
    struct http_request *q;
    char node[CORE_NODE_NAME_MAX]; /* that registers */
    unsigned left;                 /* reports that are not committed yet */
    json_t *done;                  /* their ids */
};

static struct node_call *node_call_new(struct app *a, struct http_request *q)
{
    struct node_call *k = calloc(1, sizeof(*k));

    if (!k)
        abort();
    k->app = a;
    k->q = q;
    return k;
}

static bool good_node_name(const char *name)
{
    size_t n = strlen(name);

    return n > 0 && n < CORE_NODE_NAME_MAX && name[0] != '.' && name[0] != '-' &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

static void bad_member(struct http_request *q, const char *pointer, const char *what)
{
    json_t *errors =
        json_pack("[{s:s,s:s,s:s}]", "pointer", pointer, "code", "bad_value", "detail", what);

    http_answer_problem(q, 422, "bad_request", errors, "%s: %s", pointer, what);
}

/* The members that every request has. Answers and returns false when one is wrong, or the fence
 * says no. */
static bool take_identity(struct app *a, struct http_request *q, const json_t *body)
{
    int64_t epoch = lh_json_i64(body, "epoch", -1);
    const char *cluster = lh_json_str(body, "cluster", "");

    if (!json_is_object(body) || !good_node_name(lh_json_str(body, "name", ""))) {
        bad_member(q, "/name", "a node's name is 1 to 63 letters, digits, '.', '_' or '-'");
        return false;
    }
    if (!lh_json_str(body, "agent_id", "")[0] || strlen(lh_json_str(body, "agent_id", "")) > 39) {
        bad_member(q, "/agent_id", "is missing or too long");
        return false;
    }
    if (epoch < 0) {
        bad_member(q, "/epoch", "is missing or negative");
        return false;
    }
    if ((uint64_t)epoch <= store_epoch(a->store) ||
        (cluster[0] && strcmp(cluster, store_cluster(a->store)) != 0))
        return true; /* a fence of another cluster is the node's to raise */
    /* Only a node that names this cluster proves that a newer coordinator of it has run. */
    if (cluster[0] && !a->superseded) {
        a->superseded = true;
        app_warn(
            a, "app.superseded",
            "node %s has obeyed epoch %lld of this cluster, this is %llu: nothing is dispatched",
            lh_json_str(body, "name", ""), (long long)epoch,
            (unsigned long long)store_epoch(a->store));
    }
    http_answer_problem(q, 409, "stale_epoch", NULL,
                        "this coordinator is at epoch %llu, the node has obeyed %lld",
                        (unsigned long long)store_epoch(a->store), (long long)epoch);
    return false;
}

static bool take_agent(struct app *a, struct http_request *q, const json_t *body)
{
    if (core_knows_agent(a->core, lh_json_str(body, "name", ""), lh_json_str(body, "agent_id", "")))
        return true;
    http_answer_problem(q, 409, "not_registered", NULL,
                        "this coordinator does not know this agent; register");
    return false;
}

/* ---- register -------------------------------------------------------------------------------- */

static bool text_fits(const json_t *body, const char *key, size_t max)
{
    return strlen(lh_json_str(body, key, "")) <= max;
}

static bool check_register(struct http_request *q, const json_t *body)
{
    const char *device = lh_json_str(body, "device", "");
    int64_t slots = lh_json_i64(body, "slots", 0), memory = lh_json_i64(body, "memory_bytes", 0);

    if (lh_json_i64(body, "protocol", 0) != 1) {
        http_answer_problem(q, 422, "protocol", NULL,
                            "this coordinator speaks version 1 of the node protocol");
        return false;
    }
    if (slots < 1 || slots > CORE_SLOTS_MAX)
        bad_member(q, "/slots", "is 1 to 256");
    else if (strcmp(device, "cpu") != 0 && strcmp(device, "cuda") != 0 &&
             strcmp(device, "cuda-emu") != 0)
        bad_member(q, "/device", "is cpu, cuda or cuda-emu");
    else if (!lh_json_str(body, "boot_id", "")[0] || !text_fits(body, "boot_id", 39))
        bad_member(q, "/boot_id", "is missing or too long");
    else if (!text_fits(body, "version", 23) || !text_fits(body, "hostname", 71) ||
             !text_fits(body, "address", 63))
        bad_member(q, "/version", "version, hostname or address is too long");
    else if (memory < 0 || lh_json_i64(body, "cores", 0) < 0)
        bad_member(q, "/memory_bytes", "cores and memory_bytes are not negative");
    else if (!json_is_array(json_object_get(body, "attempts")))
        bad_member(q, "/attempts", "is an array");
    else
        return true;
    return false;
}

static void register_on_commit(void *arg, struct core_effects *fx)
{
    struct node_call *k = arg;
    struct app *a = k->app;
    json_t *o;

    if (fx->status != 200) {
        http_answer_problem(k->q, fx->status, fx->code, NULL, "%s", fx->detail);
        free(k);
        return;
    }
    dry_run_registered(a, k->node);
    o = node_answer(a);
    /* Whole seconds; a shorter heartbeat is kept by answering polls that soon. */
    (void)json_object_set_new(o, "heartbeat_s",
                              json_integer((json_int_t)((a->config->heartbeat_ms + 999) / 1000)));
    (void)json_object_set_new(o, "lease_s",
                              json_integer((json_int_t)(a->config->core.lease_ms / 1000)));
    (void)json_object_set_new(o, "store", json_string(a->config->store));
    (void)json_object_set(o, "kill", json_object_get(fx->body, "kill"));
    http_answer_json(k->q, 200, o, NULL);
    free(k);
}

static void do_register(struct app *a, struct http_request *q, const json_t *body)
{
    struct core_event ev = {.type = CORE_EV_REGISTER, .u.reg.body = body};
    struct node_call *k;

    if (!check_register(q, body))
        return;
    k = node_call_new(a, q);
    (void)snprintf(k->node, sizeof(k->node), "%s", lh_json_str(body, "name", ""));
    app_step(a, &ev, register_on_commit, k);
}

/* ---- poll ------------------------------------------------------------------------------------ */

static void do_poll(struct app *a, struct http_request *q, const json_t *body)
{
    const char *name = lh_json_str(body, "name", "");
    struct core_event ev = {.type = CORE_EV_SEEN, .u.seen.node = name};
    int64_t wait_s = lh_json_i64(body, "wait_s", 0), ack = lh_json_i64(body, "ack", 0);

    if (!take_agent(a, q, body))
        return;
    app_step(a, &ev, NULL, NULL);
    outboxes_poll(a, name, q, ack > 0 ? (uint64_t)ack : 0,
                  wait_s > 0 ? (uint64_t)LH_MIN(wait_s, (int64_t)3600) * 1000 : 0);
}

/* ---- reports --------------------------------------------------------------------------------- */

static void report_on_commit(void *arg, struct core_effects *fx)
{
    struct node_call *k = arg;

    (void)fx;
    assert(k->left > 0);
    if (--k->left > 0)
        return;
    http_answer_json(k->q, 200, json_pack("{s:o}", "done", k->done), NULL);
    free(k);
}

static void do_reports(struct app *a, struct http_request *q, const json_t *body)
{
    const json_t *reports = json_object_get(body, "reports");
    struct node_call *k;
    size_t i;
    json_t *r;

    if (!take_agent(a, q, body))
        return;
    if (!json_is_array(reports) || json_array_size(reports) > REPORTS_MAX) {
        bad_member(q, "/reports", "is an array of at most 1000");
        return;
    }
    k = node_call_new(a, q);
    k->done = json_array();
    k->left = (unsigned)json_array_size(reports);
    if (k->left == 0) {
        http_answer_json(q, 200, json_pack("{s:o}", "done", k->done), NULL);
        free(k);
        return;
    }
    json_array_foreach(reports, i, r)(void) json_array_append(k->done, json_object_get(r, "id"));
    json_array_foreach(reports, i, r)
    {
        if (strcmp(lh_json_str(r, "type", ""), "preflight") == 0)
            dry_run_report(a, lh_json_str(body, "name", ""), r); /* the core knows none of them */
    }
    json_array_foreach(reports, i, r)
    {
        struct core_event ev = {.type = CORE_EV_REPORT,
                                .u.report = {.node = lh_json_str(body, "name", ""), .report = r}};

        app_step(a, &ev, report_on_commit, k);
    }
}

/* What cannot be written now is not taken: the node says it again. */
static bool writable(struct app *a, struct http_request *q)
{
    enum store_mode mode = store_mode(a->store);

    if (mode == STORE_OK || mode == STORE_LOW)
        return true;
    http_answer_problem(q, 503, "storage", NULL,
                        "the coordinator's disk takes no writes now; say it again later");
    return false;
}

void app_node_request(struct app *a, struct http_request *q)
{
    LH_CLEANUP(lh_json_decrefp) json_t *body = NULL;
    const char *path = http_path(q), *method = http_method(q), *bytes;
    struct lh_err err;
    size_t len = 0;

    if (lh_starts_with(path, "/v1/node/files/")) {
        if (strcmp(method, "PUT") == 0)
            node_file_put(a, q);
        else
            http_answer_problem(q, 405, "method_not_allowed", NULL, "files take PUT");
        return;
    }
    if (strcmp(method, "POST") != 0) {
        http_answer_problem(q, 405, "method_not_allowed", NULL, "this takes POST");
        return;
    }
    bytes = http_body(q, &len);
    if (lh_json_parse(bytes ? bytes : "", len, BODY_DEPTH_MAX, &body, &err) < 0) {
        http_answer_problem(q, 400, "bad_json", NULL, "the body is %s", err.text);
        return;
    }
    if (!take_identity(a, q, body))
        return;
    if (strcmp(path, "/v1/node/poll") == 0) {
        do_poll(a, q, body);
    } else if (strcmp(path, "/v1/node/register") == 0) {
        if (writable(a, q))
            do_register(a, q, body);
    } else if (strcmp(path, "/v1/node/reports") == 0) {
        if (writable(a, q))
            do_reports(a, q, body);
    } else {
        http_answer_problem(q, 404, "not_found", NULL,
                            "nodes have register, poll, reports and files");
    }
}
