/* link.h - the line to the coordinator: registering, the long poll that carries commands and
 * heartbeats, the fence. */
#pragma once
#include "daemon/node/fence.h"
#include "daemon/node/node.h"

LH_MUST_CHECK int link_new(struct node *n, struct link **ret_link, struct lh_err *reterr);
void link_free(struct link *l); /* accepts NULL */
void link_start(struct link *l);

bool link_is_up(const struct link *l);        /* registered, and the last exchange went well */
const char *link_store(const struct link *l); /* the coordinator's default upload prefix, "" */
uint64_t link_epoch(const struct link *l);

/* An answer of any request showed that the coordinator does not know us: registers again. */
void link_lost(struct link *l);

/* Sends a POST of {name, agent_id, epoch, ...body} (body stolen) to /v1/node/WHAT. */
LH_MUST_CHECK int link_post(struct link *l, const char *what, json_t *body, unsigned timeout_ms,
                            client_done_fn *done, void *arg, struct lh_err *reterr);

/* The parsed answer when it is 200, JSON and may be obeyed (fence); NULL else, with *reterr. New
 * reference. */
json_t *link_answer(struct link *l, const struct client_reply *reply, struct lh_err *reterr);
