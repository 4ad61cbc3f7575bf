/* api.c - the table of routes: who may call what, 404, 405 with Allow, 401 and 403.
 *
 * A path that is known with another method is 405; a path that is unknown is 404 for everyone, so
 * that the table need not be hidden. HEAD is GET whose body the server leaves out.
 */
#include "daemon/coordinator/api/api.h"
#include <stdio.h>
#include <string.h>

struct route {
    const char *method;
    const char *pattern; /* segments; {} takes any */
    enum http_role role;
    api_handler_fn *handler;
};

/* A node's token opens the node protocol only: what it may see of jobs comes in its commands. */
static const struct route routes[] = {
    {"GET", "/", HTTP_ANON, api_root},
    {"GET", "/livez", HTTP_ANON, api_live},
    {"GET", "/readyz", HTTP_ANON, api_ready},
    {"GET", "/metrics", HTTP_VIEWER, api_metrics},
    {"GET", "/v1/openapi.json", HTTP_ANON, api_openapi},
    {"GET", "/v1/job-schema.json", HTTP_ANON, api_job_schema},
    {"GET", "/v1/status", HTTP_VIEWER, api_status},
    {"GET", "/v1/jobs", HTTP_VIEWER, api_jobs_list},
    {"POST", "/v1/jobs", HTTP_SUBMITTER, api_jobs_submit},
    {"GET", "/v1/jobs/{id}", HTTP_VIEWER, api_job_show},
    {"POST", "/v1/jobs/{id}/cancel", HTTP_SUBMITTER, api_job_action},
    {"POST", "/v1/jobs/{id}/hold", HTTP_SUBMITTER, api_job_action},
    {"POST", "/v1/jobs/{id}/release", HTTP_SUBMITTER, api_job_action},
    {"GET", "/v1/jobs/{id}/attempts", HTTP_VIEWER, api_job_attempts},
    {"GET", "/v1/jobs/{id}/events", HTTP_VIEWER, api_job_events},
    {"GET", "/v1/jobs/{id}/logs", HTTP_VIEWER, api_job_logs},
    {"GET", "/v1/jobs/{id}/checkpoints", HTTP_VIEWER, api_job_checkpoints},
    {"GET", "/v1/jobs/{id}/metrics", HTTP_VIEWER, api_job_metrics},
    {"GET", "/v1/jobs/{id}/explain", HTTP_VIEWER, api_job_explain},
    {"GET", "/v1/events", HTTP_VIEWER, api_events},
    {"GET", "/v1/nodes", HTTP_VIEWER, api_nodes},
    {"GET", "/v1/nodes/{name}", HTTP_VIEWER, api_node},
};

static bool matches(const char *pattern, const struct api_call *c)
{
    unsigned n = 0;

    while (*pattern == '/' && pattern[1]) {
        size_t len = strcspn(pattern + 1, "/");
        const char *segment = n < c->n_segments ? c->segment[n] : NULL;

        if (!segment)
            return false;
        if (pattern[1] != '{' &&
            (strlen(segment) != len || strncmp(segment, pattern + 1, len) != 0))
            return false;
        pattern += 1 + len;
        n++;
    }
    return n == c->n_segments;
}

/* false: more segments than any route has, or an empty one in the middle. */
static bool split(struct api_call *c)
{
    const char *path = http_path(c->q);
    char *at = c->path;

    if (strlen(path) >= sizeof(c->path))
        return false;
    memcpy(c->path, path, strlen(path) + 1);
    while (*at == '/' && at[1]) {
        if (c->n_segments == API_SEGMENTS_MAX || at[1] == '/')
            return false;
        *at++ = 0;
        c->segment[c->n_segments++] = at;
        at += strcspn(at, "/");
    }
    return *at == 0; /* "/" itself leaves at on '/' */
}

static bool may(enum http_role has, enum http_role needs)
{
    if (needs == HTTP_ANON || has == HTTP_OPERATOR)
        return true;
    return has != HTTP_NODE && has >= needs;
}

static void answer_unmatched(struct api_call *c)
{
    char allow[64] = "";
    bool get = false;

    for (size_t i = 0; i < LH_ARRAY_LEN(routes); i++)
        if (matches(routes[i].pattern, c)) {
            get = strcmp(routes[i].method, "GET") == 0;
            (void)snprintf(allow + strlen(allow), sizeof(allow) - strlen(allow), "%s%s",
                           allow[0] ? ", " : "", get ? "GET, HEAD" : routes[i].method);
        }
    if (!allow[0]) {
        http_answer_problem(c->q, 404, "not_found", NULL,
                            "there is nothing at '%s'; GET / lists what there is", http_path(c->q));
        return;
    }
    http_set_header(c->q, "Allow", allow);
    http_answer_problem(c->q, 405, "method_not_allowed", NULL, "'%s' takes %s", http_path(c->q),
                        allow);
}

static void answer_forbidden(struct api_call *c)
{
    if (http_role(c->q) == HTTP_ANON)
        http_answer_problem(c->q, 401, "token_needed", NULL,
                            "this needs a token: send it as 'Authorization: Bearer TOKEN'");
    else
        http_answer_problem(c->q, 403, "forbidden", NULL, "the token of '%s' may not do this",
                            http_principal(c->q));
}

static void node_request(struct api_call *c)
{
    static const char *const names[] = {"/v1/node/register", "/v1/node/poll", "/v1/node/reports",
                                        "/v1/node/files"};
    enum http_role role = http_role(c->q);

    http_set_route(c->q, "/v1/node");
    for (size_t i = 0; i < LH_ARRAY_LEN(names); i++)
        if (c->n_segments > 2 && strcmp(c->segment[2], strrchr(names[i], '/') + 1) == 0)
            http_set_route(c->q, names[i]);
    if (role != HTTP_NODE && role != HTTP_OPERATOR)
        answer_forbidden(c);
    else
        app_node_request(c->app, c->q);
}

void api_request(struct app *a, struct http_request *q)
{
    struct api_call c = {.app = a, .q = q};
    const char *method = strcmp(http_method(q), "HEAD") == 0 ? "GET" : http_method(q);
    bool good = strcmp(http_path(q), "/") == 0 || split(&c);

    if (good && c.n_segments >= 2 && strcmp(c.segment[0], "v1") == 0 &&
        strcmp(c.segment[1], "node") == 0) {
        node_request(&c);
        return;
    }
    for (size_t i = 0; good && i < LH_ARRAY_LEN(routes); i++) {
        const struct route *r = &routes[i];

        if (strcmp(r->method, method) != 0 || !matches(r->pattern, &c))
            continue;
        http_set_route(q, r->pattern);
        if (may(http_role(q), r->role))
            r->handler(&c);
        else
            answer_forbidden(&c);
        return;
    }
    if (!good)
        c.n_segments = API_SEGMENTS_MAX + 1;
    answer_unmatched(&c);
}
