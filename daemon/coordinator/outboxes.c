/* outboxes.c - commands on their way to nodes, and the polls that fetch them.
 *
 * Each node has an outbox: commands in order, each with a seq, repeated by every poll until its
 * ack. A poll with nothing to answer is kept open for one heartbeat. The outbox is memory: what a
 * node must still do after a restart follows from the core when the node registers.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMANDS_A_POLL 64 /* with specs of 1 MiB the answer stays within what a node takes */

struct command {
    struct command *next;
    uint64_t seq;
    json_t *body; /* with its seq */
};
struct outbox {
    struct outbox *next;
    struct app *app;
    char node[CORE_NODE_NAME_MAX];
    uint64_t seq;
    struct command *first, **end;
    struct http_request *poll; /* waits for commands, or NULL */
    uint64_t poll_until_ms;
};
struct outboxes {
    struct outbox *first;
};

int outboxes_new(struct app *a, struct outboxes **ret, struct lh_err *reterr)
{
    struct outboxes *o = calloc(1, sizeof(*o));

    (void)a;
    if (!o)
        return lh_err_set(reterr, -ENOMEM, "start");
    *ret = o;
    return 0;
}

static void drop_to(struct outbox *b, uint64_t ack)
{
    while (b->first && b->first->seq <= ack) {
        struct command *c = b->first;

        b->first = c->next;
        json_decref(c->body);
        free(c);
    }
    if (!b->first)
        b->end = &b->first;
}

void outboxes_free(struct outboxes *o)
{
    if (!o)
        return;
    while (o->first) {
        struct outbox *b = o->first;

        o->first = b->next;
        assert(!b->poll);
        drop_to(b, UINT64_MAX);
        free(b);
    }
    free(o);
}

static struct outbox *outbox_of(struct app *a, const char *node)
{
    struct outbox *b;

    for (b = a->outboxes->first; b; b = b->next)
        if (strcmp(b->node, node) == 0)
            return b;
    b = calloc(1, sizeof(*b));
    if (!b)
        abort();
    b->app = a;
    (void)snprintf(b->node, sizeof(b->node), "%s", node);
    b->end = &b->first;
    b->next = a->outboxes->first;
    a->outboxes->first = b;
    return b;
}

void outboxes_deliver(struct app *a, const char *node, json_t *command)
{
    struct outbox *b = outbox_of(a, node);
    struct command *c;

    if (!command) {
        drop_to(b, UINT64_MAX);
        return;
    }
    c = calloc(1, sizeof(*c));
    if (!c)
        abort();
    c->seq = ++b->seq;
    c->body = command;
    (void)json_object_set_new(command, "seq", json_integer((json_int_t)c->seq));
    *b->end = c;
    b->end = &c->next;
}

static void poll_answer(struct outbox *b)
{
    struct http_request *q = b->poll;
    json_t *o = node_answer(b->app), *commands = json_array();
    unsigned n = 0;

    b->poll = NULL;
    if (!b->app->superseded)
        for (const struct command *c = b->first; c && n < COMMANDS_A_POLL; c = c->next, n++)
            (void)json_array_append(commands, c->body);
    (void)json_object_set_new(o, "commands", commands);
    http_answer_json(q, 200, o, NULL);
}

void outboxes_flush(struct app *a)
{
    uint64_t now = lh_mono_ms();

    for (struct outbox *b = a->outboxes->first; b; b = b->next)
        if (b->poll && ((b->first && !a->superseded) || now >= b->poll_until_ms))
            poll_answer(b);
}

void outboxes_close(struct app *a)
{
    for (struct outbox *b = a->outboxes->first; b; b = b->next)
        if (b->poll)
            poll_answer(b);
}

static void poll_on_cancel(void *arg)
{
    struct outbox *b = arg;

    if (b->poll)
        poll_answer(b); /* nobody hears it; the commands stay until an ack */
}

void outboxes_poll(struct app *a, const char *node, struct http_request *q, uint64_t ack,
                   uint64_t wait_ms)
{
    struct outbox *b = outbox_of(a, node);

    drop_to(b, ack);
    if (b->poll) /* the node has given the earlier one up */
        poll_answer(b);
    b->poll = q;
    b->poll_until_ms = lh_mono_ms() + LH_MIN(wait_ms, a->config->heartbeat_ms);
    if (a->stopping || wait_ms == 0 || (b->first && !a->superseded))
        poll_answer(b);
    else
        http_on_cancel(q, poll_on_cancel, b);
}
