/* api.h - the API: HTTP requests of users, the CLI and Prometheus, translated to app.h and back.
 *
 * api_request (app.h) is the door; everything here runs on the loop thread. What a route takes and
 * answers is written down in proto/spec/openapi.yaml, and tests/system/test_openapi.py holds the
 * two together.
 */
#pragma once
#include "daemon/coordinator/app.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define API_LIMIT_DEFAULT 50
#define API_LIMIT_MAX 500
#define API_WAIT_MAX_S 60
/* A request looks at so many jobs at most, some 5 ms: a filtered page may then be short, its cursor
 * goes on. */
#define API_SCAN_MAX 20000u
#define API_ARCHIVED_MAX 500u /* of them read from the database, some 50 ms */
#define API_SEGMENTS_MAX 6

/* ---- routes (api.c) ---- */
struct api_call {
    struct app *app;
    struct http_request *q;
    const char *segment[API_SEGMENTS_MAX]; /* of the path; segment[2] of /v1/jobs/ID is ID */
    unsigned n_segments;
    char path[1024]; /* what the segments point into */
};
typedef void api_handler_fn(struct api_call *c);

/* list.c */
void api_jobs_list(struct api_call *c);
/* jobs.c */
void api_jobs_submit(struct api_call *c);
void api_job_show(struct api_call *c);
void api_job_action(struct api_call *c);
void api_job_attempts(struct api_call *c);
void api_job_checkpoints(struct api_call *c);
void api_job_explain(struct api_call *c);
/* files.c */
void api_job_logs(struct api_call *c);
void api_job_metrics(struct api_call *c);
/* events.c */
void api_events(struct api_call *c);
void api_job_events(struct api_call *c);
/* cluster.c */
void api_nodes(struct api_call *c);
void api_node(struct api_call *c);
void api_status(struct api_call *c);
void api_live(struct api_call *c);
void api_ready(struct api_call *c);
void api_root(struct api_call *c);
void api_openapi(struct api_call *c);
void api_job_schema(struct api_call *c);
/* prometheus.c */
void api_metrics(struct api_call *c);

/* The job of segment[2], or NULL after a 404. */
const struct core_job *api_find_job(struct api_call *c);

/* ---- parameters (params.c) ---- */
/* A whole number in [min, max]; otherwise when absent. false: *c is answered with 400. */
LH_MUST_CHECK bool api_param_u64(struct api_call *c, const char *name, uint64_t min, uint64_t max,
                                 uint64_t otherwise, uint64_t *ret_value);
/* 1, true, yes, or empty; 0, false, no; absent is false. false: answered. */
LH_MUST_CHECK bool api_param_bool(struct api_call *c, const char *name, bool *ret_value);
/* 400 bad_parameter with the parameter's name. */
void api_bad_param(struct api_call *c, const char *name, const char *detail);
/* The revision in If-Match or If-None-Match: 0 when absent. false: answered. *ret_any (may be
 * NULL): the value was "*". */
LH_MUST_CHECK bool api_etag(struct api_call *c, const char *header, uint64_t *ret_revision,
                            bool *ret_any);
/* True when the Accept header admits the media type, "type/subtype"; also when there is none. */
bool api_accepts(const struct http_request *q, const char *type);
/* True when the header asks for the media type by its name. */
bool api_accepts_named(const struct http_request *q, const char *type);
/* 406 and false when the answer's only media type is not accepted. */
LH_MUST_CHECK bool api_only(struct api_call *c, const char *type);

/* ---- representations (represent.c): new references ---- */
json_t *api_time(uint64_t wall_ms); /* RFC 3339, or null for 0 */
json_t *api_job_json(const struct app *a, const struct core_job *j, bool progress);
json_t *api_attempt_json(const struct core_attempt *t);
json_t *api_checkpoint_json(const struct core_checkpoint *p);
json_t *api_node_json(const struct core_node *n);
/* An ETag for the Answer: writes "\"REVISION\"" and adds it to q. */
void api_set_etag(struct http_request *q, uint64_t revision);

/* ---- progress (progress.c) ---- */
/* What the newest lines of the attempt's journal say: {phase, done, phase_of, unit, step, of, loss,
 * ...}, or null. */
json_t *api_progress(const struct app *a, const struct core_job *j);
/* PATH of a file of an attempt below STATE/jobs/ID. */
const char *api_attempt_file(const struct app *a, const struct core_job *j, uint64_t attempt,
                             const char *file, char *buf, size_t cap);

/* ---- the served document, made at build time from proto/spec/openapi.yaml (embed_openapi.c) ----
 */
extern const char api_openapi_json[];
extern const unsigned long api_openapi_json_len;
