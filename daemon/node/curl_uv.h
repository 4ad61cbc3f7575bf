/* curl_uv.h - HTTP requests on the libuv loop: libcurl's multi interface behind a small door.
 *
 * For the talk with the coordinator: bodies and answers are small and whole in memory. Transfers of
 * files to a store are s3.c's, on worker threads.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stddef.h>
#include <uv.h>

struct client;      /* one connection pool */
struct client_call; /* one request until it is answered */

struct client_config {
    const char *token;   /* sent as "Authorization: Bearer"; NULL: none */
    const char *ca_file; /* certificates to trust; NULL: the system's */
};
struct client_request {
    const char *method; /* "POST", "PUT", "GET" */
    const char *url;
    const char *content_type; /* NULL: no body */
    const void *body;         /* copied */
    size_t body_len;
    unsigned timeout_ms; /* for the whole request */
    size_t answer_max;
};
struct client_reply {
    int status;       /* 0: no whole answer came; err says why */
    const char *body; /* 0-terminated */
    size_t len;
    struct lh_err err;
};
/* Called once, from the loop, never before client_send has returned. */
typedef void client_done_fn(void *arg, const struct client_reply *reply);

LH_MUST_CHECK int client_new(uv_loop_t *loop, const struct client_config *config,
                             struct client **ret_client, struct lh_err *reterr);
/* Ends all requests without calling back; the loop must run once more for the handles to close. */
void client_free(struct client *c);

LH_MUST_CHECK int client_send(struct client *c, const struct client_request *q,
                              client_done_fn *done, void *arg, struct client_call **ret_call,
                              struct lh_err *reterr);
/* The request is dropped, done is not called. */
void client_cancel(struct client_call *call);
