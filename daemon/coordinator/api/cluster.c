/* cluster.c - nodes, the operator's status, health probes, and what describes the API itself. */
#include "daemon/coordinator/api/api.h"
#include "proto/base/json.h"
#include <string.h>

void api_nodes(struct api_call *c)
{
    const struct core *core = app_core(c->app);
    json_t *list;

    if (!api_only(c, "application/json"))
        return;
    list = json_array();
    for (unsigned i = 0; i < core_n_nodes(core); i++)
        (void)json_array_append_new(list, api_node_json(core_node_at(core, i)));
    http_answer_json(c->q, 200, json_pack("{s:o}", "nodes", list), NULL);
}

void api_node(struct api_call *c)
{
    const struct core_node *n = core_find_node(app_core(c->app), c->segment[2]);

    if (!n)
        http_answer_problem(c->q, 404, "no_such_node", NULL, "there is no node '%s'",
                            c->segment[2]);
    else if (api_only(c, "application/json"))
        http_answer_json(c->q, 200, api_node_json(n), NULL);
}

void api_status(struct api_call *c)
{
    if (api_only(c, "application/json"))
        http_answer_json(c->q, 200, app_status(c->app), NULL);
}

void api_live(struct api_call *c)
{
    if (app_is_live(c->app))
        http_answer_json(c->q, 200, json_pack("{s:s}", "status", "live"), NULL);
    else
        http_answer_problem(c->q, 503, "not_live", NULL,
                            "the loop or the database thread does not move");
}

void api_ready(struct api_call *c)
{
    const char *why = NULL;

    if (app_is_ready(c->app, &why))
        http_answer_json(c->q, 200, json_pack("{s:s}", "status", "ready"), NULL);
    else
        http_answer_problem(c->q, 503, "not_ready", NULL, "%s", why ? why : "not ready yet");
}

void api_root(struct api_call *c)
{
    if (api_only(c, "application/json"))
        http_answer_json(c->q, 200,
                         json_pack("{s:s, s:s, s:{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}}",
                                   "name", "longhauld", "version", LH_VERSION, "links", "jobs",
                                   "/v1/jobs", "events", "/v1/events", "nodes", "/v1/nodes",
                                   "status", "/v1/status", "openapi", "/v1/openapi.json",
                                   "job_schema", "/v1/job-schema.json", "metrics", "/metrics",
                                   "live", "/livez", "ready", "/readyz"),
                         NULL);
}

void api_openapi(struct api_call *c)
{
    if (api_only(c, "application/json"))
        http_answer_bytes(c->q, 200, "application/json", api_openapi_json, api_openapi_json_len,
                          NULL);
}

void api_job_schema(struct api_call *c)
{
    if (api_only(c, "application/json"))
        http_answer_json(c->q, 200, lh_job_schema(), NULL);
}
