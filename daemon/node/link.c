/* link.c - see link.h.
 *
 *   DOWN ──register──► REGISTERING ──200──► UP ──poll, poll, ...
 *     ▲ backoff             │ error         │ no answer, 409
 *     └─────────────────────┴───────────────┘
 * Each answered poll renews the lease of every attempt held, for as long as the coordinator said; a
 * coordinator that is silent does not, and the shims act on that by themselves. Commands are
 * acknowledged once taken up, not once done.
 */
#include "daemon/node/link.h"
#include "daemon/node/commands.h"
#include "daemon/node/held.h"
#include "daemon/node/reports.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_MAX (64u << 20) /* a burst of prepare commands with specs of 1 MiB */
#define ANSWER_DEPTH_MAX 80    /* a spec's 64 and what is around it */
#define REGISTER_TIMEOUT_MS 10000
#define BACKOFF_MIN_MS 200
#define BACKOFF_MAX_MS 5000

struct link {
    struct node *node;
    struct fence fence;
    uv_timer_t timer; /* the next try */
    bool up, registering, polling;
    unsigned backoff_ms, failures;
    uint64_t ack, wait_s;
    char store[1024];
    char last_error[256]; /* logged once, not at every try */
};

static void register_send(struct link *l);
static void poll_send(struct link *l);

int link_new(struct node *n, struct link **ret_link, struct lh_err *reterr)
{
    struct link *l = calloc(1, sizeof(*l));
    char path[NODE_PATH_MAX];
    int rc;

    if (!l)
        return lh_err_set(reterr, -ENOMEM, "link");
    rc = fence_load(node_path(n, path, "fence.json"), &l->fence, reterr);
    if (rc < 0) {
        free(l);
        return rc;
    }
    l->node = n;
    l->backoff_ms = BACKOFF_MIN_MS;
    l->wait_s = 5;
    (void)uv_timer_init(n->loop, &l->timer);
    l->timer.data = l;
    *ret_link = l;
    return 0;
}

static void link_on_closed(uv_handle_t *h)
{
    free(h->data);
}

void link_free(struct link *l)
{
    if (l)
        uv_close((uv_handle_t *)&l->timer, link_on_closed);
}

void link_start(struct link *l)
{
    register_send(l);
}

bool link_is_up(const struct link *l)
{
    return l->up;
}

const char *link_store(const struct link *l)
{
    return l->store;
}

uint64_t link_epoch(const struct link *l)
{
    return l->fence.epoch;
}

static void link_on_timer(uv_timer_t *t)
{
    register_send(t->data);
}

/* Full jitter: nodes that lost their coordinator together do not come back together. */
static void try_later(struct link *l, const char *why)
{
    uint32_t random;

    l->up = false;
    if (strncmp(why, l->last_error, sizeof(l->last_error) - 1) != 0) {
        (void)snprintf(l->last_error, sizeof(l->last_error), "%s", why);
        lh_warn("link.down", "coordinator=%s error=\"%s\"", l->node->config.coordinator, why);
    }
    if (uv_random(NULL, NULL, &random, sizeof(random), 0, NULL) < 0)
        random = (uint32_t)lh_mono_ns();
    (void)uv_timer_start(&l->timer, link_on_timer, BACKOFF_MIN_MS / 2 + random % l->backoff_ms, 0);
    l->backoff_ms = LH_MIN(l->backoff_ms * 2, (unsigned)BACKOFF_MAX_MS);
}

void link_lost(struct link *l)
{
    if (l->up && !l->registering) {
        l->up = false;
        (void)uv_timer_start(&l->timer, link_on_timer, 0, 0);
    }
}

int link_post(struct link *l, const char *what, json_t *body, unsigned timeout_ms,
              client_done_fn *done, void *arg, struct lh_err *reterr)
{
    char url[NODE_PATH_MAX];
    struct client_request q = {.method = "POST",
                               .url = url,
                               .content_type = "application/json",
                               .timeout_ms = timeout_ms,
                               .answer_max = ANSWER_MAX};
    char *text = NULL;
    int rc;

    (void)snprintf(url, sizeof(url), "%s/v1/node/%s", l->node->config.coordinator, what);
    if (body) {
        (void)json_object_set_new(body, "name", json_string(l->node->config.name));
        (void)json_object_set_new(body, "agent_id", json_string(l->node->agent_id));
        if (l->fence.cluster[0]) /* a fence means something to the cluster that it is of */
            (void)json_object_set_new(body, "cluster", json_string(l->fence.cluster));
        (void)json_object_set_new(body, "epoch", json_integer((json_int_t)l->fence.epoch));
        text = lh_json_text(body, 0);
    }
    json_decref(body);
    if (!text)
        return lh_err_set(reterr, -ENOMEM, "request to the coordinator");
    q.body = text;
    q.body_len = strlen(text);
    rc = client_send(l->node->client, &q, done, arg, NULL, reterr);
    free(text);
    return rc;
}

json_t *link_answer(struct link *l, const struct client_reply *reply, struct lh_err *reterr)
{
    json_t *o = NULL;
    struct lh_err err = reply->err;
    int rc;

    if (reply->status == 0) {
        if (reterr)
            *reterr = err;
        return NULL;
    }
    rc = lh_json_parse(reply->body, reply->len, ANSWER_DEPTH_MAX, &o, reterr);
    if (rc == 0 && reply->status != 200)
        rc = lh_err_set(reterr, LH_EREMOTE, "the coordinator answered %d %s: %s", reply->status,
                        lh_json_str(o, "code", ""), lh_json_str(o, "detail", ""));
    else if (rc < 0 && reply->status != 200)
        rc = lh_err_set(reterr, LH_EREMOTE, "the coordinator answered %d", reply->status);
    else if (rc == 0 && json_object_get(o, "cluster"))
        rc = fence_admit(&l->fence, lh_json_str(o, "cluster", ""),
                         (uint64_t)lh_json_i64(o, "epoch", 0), reterr);
    if (rc < 0) {
        json_decref(o);
        return NULL;
    }
    return o;
}

/* ---- register --------------------------------------------------------------------------- */

static void register_on_answer(void *arg, const struct client_reply *reply)
{
    struct link *l = arg;
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    struct lh_err err;
    const json_t *kill;
    size_t i;

    l->registering = false;
    o = link_answer(l, reply, &err);
    if (!o) {
        try_later(l, err.text);
        return;
    }
    l->ack = 0;
    l->wait_s = (uint64_t)LH_MAX(lh_json_i64(o, "heartbeat_s", 5), 1);
    (void)snprintf(l->store, sizeof(l->store), "%s", lh_json_str(o, "store", ""));
    l->up = true;
    l->backoff_ms = BACKOFF_MIN_MS;
    l->last_error[0] = '\0';
    lh_info("link.up", "coordinator=%s cluster=%s epoch=%" PRIu64, l->node->config.coordinator,
            l->fence.cluster, l->fence.epoch);
    json_array_foreach(json_object_get(o, "kill"), i, kill) commands_kill(l->node, kill);
    held_tell_all(l->node);
    reports_flush(l->node->reports);
    if (!l->polling)
        poll_send(l);
}

static void register_send(struct link *l)
{
    const struct node *n = l->node;
    struct lh_err err;
    json_t *o;

    if (l->registering || n->stopping)
        return;
    o = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:o}", "protocol", 1, "boot_id",
                  n->inventory.boot_id, "version", LH_VERSION, "hostname", n->inventory.hostname,
                  "address", n->config.address, "device", n->config.device, "slots",
                  (int)n->config.slots, "cores", (int)n->inventory.cores, "memory_bytes",
                  (json_int_t)n->inventory.memory_bytes, "attempts", held_list(n));
    l->registering = true;
    if (link_post(l, "register", o, REGISTER_TIMEOUT_MS, register_on_answer, l, &err) < 0) {
        l->registering = false;
        try_later(l, err.text);
    }
}

/* ---- poll ------------------------------------------------------------------------------- */

static void poll_on_answer(void *arg, const struct client_reply *reply)
{
    struct link *l = arg;
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    uint64_t epoch = l->fence.epoch;
    const json_t *command;
    struct lh_err err;
    size_t i;

    l->polling = false;
    if (l->node->stopping)
        return;
    o = link_answer(l, reply, &err);
    if (!o) {
        try_later(l, err.text);
        return;
    }
    l->backoff_ms = BACKOFF_MIN_MS;
    if (l->fence.epoch != epoch) /* seq starts anew with the epoch */
        l->ack = 0;
    held_renew_leases(l->node);
    json_array_foreach(json_object_get(o, "commands"), i, command)
    {
        uint64_t seq = (uint64_t)lh_json_i64(command, "seq", 0);

        if (seq <= l->ack)
            continue;
        commands_take(l->node, command);
        l->ack = seq;
    }
    reports_flush(l->node->reports);
    if (l->up)
        poll_send(l);
}

static void poll_send(struct link *l)
{
    unsigned wait_s = (unsigned)l->wait_s;
    struct lh_err err;
    json_t *o;

    if (l->node->config.heartbeat_ms)
        wait_s = LH_MIN(wait_s, LH_MAX(l->node->config.heartbeat_ms / 1000u, 1u));
    o = json_pack("{s:I, s:i}", "ack", (json_int_t)l->ack, "wait_s", (int)wait_s);
    l->polling = true;
    if (link_post(l, "poll", o, wait_s * 1000u + REGISTER_TIMEOUT_MS, poll_on_answer, l, &err) <
        0) {
        l->polling = false;
        try_later(l, err.text);
    }
}
