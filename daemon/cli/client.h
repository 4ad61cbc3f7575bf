/* client.h - one connection to the coordinator's API: blocking requests through libcurl. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/buf.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct client;

/* server NULL: $LONGHAUL_SERVER, else the address file of the newest standalone coordinator under the user's state directory.
 * token_file NULL: $LONGHAUL_TOKEN_FILE, else none. LH_EINPUT says how to name a server when none is found. */
LH_MUST_CHECK int client_new(const char *server, const char *token_file, struct client **ret_client, struct lh_err *reterr);
void client_free(struct client *c);
const char *client_server(const struct client *c);

struct reply {
    int status;   /* HTTP status */
    json_t *json; /* owned; NULL when the body is not JSON */
    struct lh_buf body;
    uint64_t offset; /* of X-Longhaul-Offset: where the next bytes of a log begin */
};
void reply_release(struct reply *r);

/* One request. body: JSON (borrowed) or NULL. header: one more header line or NULL. Returns 0 whatever the status is, LH_EREMOTE
 * when no server answers (with its address and what to do). */
LH_MUST_CHECK int client_request(struct client *c, const char *method, const char *path, const json_t *body,
                                 const char *header, struct reply *ret_reply, struct lh_err *reterr);

/* Follows GET path as server-sent events until the server ends or line returns false. *ret_status is the HTTP status. */
typedef bool client_event_fn(void *arg, const char *id, const char *event, const char *data);
LH_MUST_CHECK int client_events(struct client *c, const char *path, const char *last_id, client_event_fn *line, void *arg,
                                int *ret_status, struct lh_err *reterr);
