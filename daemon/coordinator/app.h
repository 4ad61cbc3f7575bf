/* app.h - what the API routes may ask of the coordinator: reads from memory, changes through the core and the store.
 *
 * app.c owns the loop, the core, the store and the HTTP server and wires them; api/ translates between HTTP and these
 * calls. Everything runs on the loop thread. done callbacks come later, once, after the commit that makes the
 * change durable (or with the refusal).
 */
#pragma once
#include "daemon/coordinator/core/core.h"
#include "daemon/coordinator/http/http.h"
#include "proto/base/attr.h"
#include <jansson.h>

struct app;

/* The outcome of a change. status: HTTP status. On success body is the JSON to answer (stolen by the callee). On refusal
 * code and detail say why. replayed: an earlier answer to the same Idempotency-Key. */
struct app_answer {
    int status;
    json_t *body;
    const char *location;
    uint64_t revision;
    bool replayed;
    const char *code, *detail;
    json_t *errors;
};
typedef void app_done_fn(void *arg, const struct app_answer *answer);

const struct core *app_core(const struct app *a);
/* Also jobs that the core has let go: then what is returned lives for a few calls only. Names: those of jobs that the
 * core holds go first. app_next_job: the newest job with a number below, 0: of all; *ret_archived: read from the
 * database, which takes some 0.1 ms. */
const struct core_job *app_find_job(struct app *a, const char *id_or_number_or_name);
const struct core_job *app_next_job(struct app *a, uint64_t below, bool *ret_archived);
const char *app_job_dir(const struct app *a, const char *job, char *buf, size_t cap); /* STATE/jobs/ID */

/* Submits one job or a pipeline (array: all or none). body is the parsed JSON (borrowed), fingerprint the SHA-256 of its
 * bytes; key may be NULL. dry_run: nothing is stored, the answer is placement or the reason. */
void app_submit(struct app *a, const json_t *body, const char *fingerprint, const char *key, const char *principal,
                bool dry_run, app_done_fn *done, void *arg);

/* cancel, hold, release. if_match 0: not given. */
void app_action(struct app *a, const char *job, const char *action, uint64_t if_match, const char *principal,
                app_done_fn *done, void *arg);

/* Calls back when the job has changed beyond `revision`, or after wait_s; at once when it already has. Returns a ticket. */
typedef void app_changed_fn(void *arg);
uint64_t app_wait_job(struct app *a, const char *job, uint64_t revision, unsigned wait_s, app_changed_fn *changed, void *arg);
void app_wait_cancel(struct app *a, uint64_t ticket);

/* Events after seq (at most limit), filtered by job when not NULL: a new array of {seq, time, type, job, attempt, data}
 * read on the store's reader; done comes later. gone: not all after seq are kept (410); the oldest that is. 0: all are. */
typedef void app_events_fn(void *arg, json_t *events, uint64_t gone);
void app_events(struct app *a, uint64_t after_seq, unsigned limit, const char *job, app_events_fn *done, void *arg);

/* Live feed: every committed event (seq > 0) and progress (seq 0), already as JSON text. Returns a ticket. */
typedef void app_feed_fn(void *arg, uint64_t seq, const char *type, const char *job, const char *data);
uint64_t app_feed_open(struct app *a, app_feed_fn *feed, void *arg);
void app_feed_close(struct app *a, uint64_t ticket);
uint64_t app_last_seq(const struct app *a);

/* Numbers for /v1/status, /metrics, /livez, /readyz: a new object (members: proto/spec/openapi.yaml, Status). */
json_t *app_status(struct app *a);
bool app_is_live(const struct app *a);
bool app_is_ready(const struct app *a, const char **ret_why);

/* The node protocol (proto/spec/node-protocol.md): takes q and answers it. */
void app_node_request(struct app *a, struct http_request *q);

/* All other routes: api/api.c. Takes q and answers it. */
void api_request(struct app *a, struct http_request *q);
