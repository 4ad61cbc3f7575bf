/* config_yaml.c - longhauld.yaml through libcyaml: which keys there are, what they may hold, and
 * errors that name the line.
 *
 * A document is read into a struct of pointers, NULL where a key is absent, and laid over what is
 * there.
 */
#include "daemon/coordinator/config_yaml.h"
#include "daemon/coordinator/config.h"
#include "proto/base/str.h"
#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct yaml_timers {
    uint64_t *heartbeat_ms, *tick_ms, *suspect_ms, *down_ms, *lease_ms, *prepare_ms, *launch_ms,
        *wall_slack_ms, *stop_grace_ms, *retry_base_ms, *retry_max_ms, *stall_ms, *request_ms,
        *idle_ms, *dry_run_ms;
};
struct yaml_limits {
    uint64_t *queue_max, *connections_max, *body_bytes, *reserve_mib, *idempotency_hours, *dry_runs;
};
struct yaml_retention {
    uint64_t *events_hours, *events_max, *jobs_hours, *jobs_max;
};
struct yaml_config {
    char *state, *listen, *store, *ports, *token_file, *tls_cert, *tls_key, *node_token_file;
    enum http_auth *auth;
    bool *standalone, *insecure, *realtime;
    uint64_t *slots;
    struct yaml_timers *timers;
    struct yaml_limits *limits;
    struct yaml_retention *retention;
};

#define OPT (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)
static const cyaml_schema_field_t timer_fields[] = {
    CYAML_FIELD_UINT_PTR("heartbeat_ms", OPT, struct yaml_timers, heartbeat_ms),
    CYAML_FIELD_UINT_PTR("tick_ms", OPT, struct yaml_timers, tick_ms),
    CYAML_FIELD_UINT_PTR("suspect_ms", OPT, struct yaml_timers, suspect_ms),
    CYAML_FIELD_UINT_PTR("down_ms", OPT, struct yaml_timers, down_ms),
    CYAML_FIELD_UINT_PTR("lease_ms", OPT, struct yaml_timers, lease_ms),
    CYAML_FIELD_UINT_PTR("prepare_ms", OPT, struct yaml_timers, prepare_ms),
    CYAML_FIELD_UINT_PTR("launch_ms", OPT, struct yaml_timers, launch_ms),
    CYAML_FIELD_UINT_PTR("wall_slack_ms", OPT, struct yaml_timers, wall_slack_ms),
    CYAML_FIELD_UINT_PTR("stop_grace_ms", OPT, struct yaml_timers, stop_grace_ms),
    CYAML_FIELD_UINT_PTR("retry_base_ms", OPT, struct yaml_timers, retry_base_ms),
    CYAML_FIELD_UINT_PTR("retry_max_ms", OPT, struct yaml_timers, retry_max_ms),
    CYAML_FIELD_UINT_PTR("stall_ms", OPT, struct yaml_timers, stall_ms),
    CYAML_FIELD_UINT_PTR("request_ms", OPT, struct yaml_timers, request_ms),
    CYAML_FIELD_UINT_PTR("idle_ms", OPT, struct yaml_timers, idle_ms),
    CYAML_FIELD_UINT_PTR("dry_run_ms", OPT, struct yaml_timers, dry_run_ms),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t limit_fields[] = {
    CYAML_FIELD_UINT_PTR("queue_max", OPT, struct yaml_limits, queue_max),
    CYAML_FIELD_UINT_PTR("connections_max", OPT, struct yaml_limits, connections_max),
    CYAML_FIELD_UINT_PTR("body_bytes", OPT, struct yaml_limits, body_bytes),
    CYAML_FIELD_UINT_PTR("reserve_mib", OPT, struct yaml_limits, reserve_mib),
    CYAML_FIELD_UINT_PTR("idempotency_hours", OPT, struct yaml_limits, idempotency_hours),
    CYAML_FIELD_UINT_PTR("dry_runs", OPT, struct yaml_limits, dry_runs),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t retention_fields[] = {
    CYAML_FIELD_UINT_PTR("events_hours", OPT, struct yaml_retention, events_hours),
    CYAML_FIELD_UINT_PTR("events_max", OPT, struct yaml_retention, events_max),
    CYAML_FIELD_UINT_PTR("jobs_hours", OPT, struct yaml_retention, jobs_hours),
    CYAML_FIELD_UINT_PTR("jobs_max", OPT, struct yaml_retention, jobs_max),
    CYAML_FIELD_END,
};
static const cyaml_strval_t auth_names[] = {{"local", HTTP_AUTH_LOCAL}, {"token", HTTP_AUTH_TOKEN}};
#define TEXT(key) CYAML_FIELD_STRING_PTR(#key, OPT, struct yaml_config, key, 0, 4096)
static const cyaml_schema_field_t config_fields[] = {
    TEXT(state),
    TEXT(listen),
    TEXT(store),
    TEXT(ports),
    TEXT(token_file),
    TEXT(node_token_file),
    TEXT(tls_cert),
    TEXT(tls_key),
    CYAML_FIELD_ENUM_PTR("auth", OPT | CYAML_FLAG_STRICT, struct yaml_config, auth, auth_names,
                         LH_ARRAY_LEN(auth_names)),
    CYAML_FIELD_BOOL_PTR("standalone", OPT, struct yaml_config, standalone),
    CYAML_FIELD_BOOL_PTR("insecure", OPT, struct yaml_config, insecure),
    CYAML_FIELD_BOOL_PTR("realtime", OPT, struct yaml_config, realtime),
    CYAML_FIELD_UINT_PTR("slots", OPT, struct yaml_config, slots),
    CYAML_FIELD_MAPPING_PTR("timers", OPT, struct yaml_config, timers, timer_fields),
    CYAML_FIELD_MAPPING_PTR("limits", OPT, struct yaml_config, limits, limit_fields),
    CYAML_FIELD_MAPPING_PTR("retention", OPT, struct yaml_config, retention, retention_fields),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t config_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct yaml_config, config_fields),
};

/* ---- laying one document over the settings --------------------------------------------------- */

static int take_text(char **to, char *const *from)
{
    char *copy;

    if (!*from)
        return 0;
    copy = strdup(*from);
    if (!copy)
        return -ENOMEM;
    free(*to);
    *to = copy;
    return 0;
}

static int take_number(uint64_t *to, const uint64_t *from, uint64_t min, uint64_t max,
                       const char *key, struct lh_err *reterr)
{
    if (!from)
        return 0;
    if (*from < min || *from > max) /* as signed: libcyaml lets -4 through as a large number */
        return lh_err_set(reterr, LH_ESTATE, "%s is %lld; give %llu to %llu", key, (long long)*from,
                          (unsigned long long)min, (unsigned long long)max);
    *to = *from;
    return 0;
}

static int take_small(unsigned *to, const uint64_t *from, unsigned min, unsigned max,
                      const char *key, struct lh_err *reterr)
{
    uint64_t v = *to;
    int rc = take_number(&v, from, min, max, key, reterr);

    *to = (unsigned)v;
    return rc;
}

#define HOUR_MS ((uint64_t)3600 * 1000)
#define DAY_MS (24 * HOUR_MS)

static int take_timers(struct config *c, const struct yaml_timers *t, struct lh_err *reterr)
{
    struct core_config *k = &c->core;
    const struct {
        uint64_t *to;
        const uint64_t *from;
        uint64_t min, max;
        const char *key;
    } all[] = {
        {&c->heartbeat_ms, t->heartbeat_ms, 10, 600000, "timers.heartbeat_ms"},
        {&c->tick_ms, t->tick_ms, 10, 1000, "timers.tick_ms"},
        {&k->suspect_ms, t->suspect_ms, 10, DAY_MS, "timers.suspect_ms"},
        {&k->down_ms, t->down_ms, 10, DAY_MS, "timers.down_ms"},
        {&k->lease_ms, t->lease_ms, 100, 30 * DAY_MS, "timers.lease_ms"},
        {&k->prepare_ms, t->prepare_ms, 100, 30 * DAY_MS, "timers.prepare_ms"},
        {&k->launch_ms, t->launch_ms, 100, DAY_MS, "timers.launch_ms"},
        {&k->wall_slack_ms, t->wall_slack_ms, 0, DAY_MS, "timers.wall_slack_ms"},
        {&k->stop_grace_ms, t->stop_grace_ms, 0, DAY_MS, "timers.stop_grace_ms"},
        {&k->retry_base_ms, t->retry_base_ms, 0, DAY_MS, "timers.retry_base_ms"},
        {&k->retry_max_ms, t->retry_max_ms, 0, DAY_MS, "timers.retry_max_ms"},
        {&k->stall_ms, t->stall_ms, 100, DAY_MS, "timers.stall_ms"},
        {&c->dry_run_ms, t->dry_run_ms, 100, 3600000, "timers.dry_run_ms"},
    };
    int rc = 0;

    for (size_t i = 0; i < LH_ARRAY_LEN(all) && rc == 0; i++)
        rc = take_number(all[i].to, all[i].from, all[i].min, all[i].max, all[i].key, reterr);
    if (rc == 0)
        rc = take_small(&c->request_ms, t->request_ms, 100, 600000, "timers.request_ms", reterr);
    if (rc == 0)
        rc = take_small(&c->idle_ms, t->idle_ms, 100, 86400000, "timers.idle_ms", reterr);
    return rc;
}

static int take_limits(struct config *c, const struct yaml_limits *l, struct lh_err *reterr)
{
    uint64_t mib = c->reserve_bytes >> 20, hours = c->core.idem_keep_ms / 3600000;
    int rc = take_small(&c->core.queue_max, l->queue_max, 1, 10000000, "limits.queue_max", reterr);

    if (rc == 0)
        rc = take_small(&c->connections_max, l->connections_max, 8, 65536, "limits.connections_max",
                        reterr);
    if (rc == 0)
        rc = take_number(&c->body_max_bytes, l->body_bytes, 4096, LH_JOB_BODY_MAX,
                         "limits.body_bytes", reterr);
    if (rc == 0)
        rc = take_number(&mib, l->reserve_mib, 0, 1 << 20, "limits.reserve_mib", reterr);
    if (rc == 0)
        rc =
            take_number(&hours, l->idempotency_hours, 24, 8760, "limits.idempotency_hours", reterr);
    if (rc == 0)
        rc = take_small(&c->dry_runs_max, l->dry_runs, 1, 10000, "limits.dry_runs", reterr);
    c->reserve_bytes = mib << 20;
    c->core.idem_keep_ms = hours * 3600000;
    return rc;
}

static int take_retention(struct config *c, const struct yaml_retention *r, struct lh_err *reterr)
{
    uint64_t events = c->events_keep_ms / HOUR_MS, jobs = c->core.jobs_keep_ms / HOUR_MS;
    int rc = take_number(&events, r->events_hours, 1, 876000, "retention.events_hours", reterr);

    if (rc == 0)
        rc = take_number(&c->events_max, r->events_max, 10, 1000000000, "retention.events_max",
                         reterr);
    if (rc == 0)
        rc = take_number(&jobs, r->jobs_hours, 1, 876000, "retention.jobs_hours", reterr);
    if (rc == 0)
        rc = take_small(&c->core.jobs_max, r->jobs_max, 1, 10000000, "retention.jobs_max", reterr);
    c->events_keep_ms = events * HOUR_MS;
    c->core.jobs_keep_ms = jobs * HOUR_MS;
    return rc;
}

static int overlay(struct config *c, const struct yaml_config *y, struct lh_err *reterr)
{
    int rc = 0;

    if (take_text(&c->state, &y->state) < 0 || take_text(&c->listen, &y->listen) < 0 ||
        take_text(&c->store, &y->store) < 0 || take_text(&c->ports, &y->ports) < 0 ||
        take_text(&c->token_file, &y->token_file) < 0 ||
        take_text(&c->tls_cert, &y->tls_cert) < 0 || take_text(&c->tls_key, &y->tls_key) < 0 ||
        take_text(&c->node_token_file, &y->node_token_file) < 0)
        return lh_err_set(reterr, -ENOMEM, "take the settings");
    if (y->auth) {
        c->auth = *y->auth;
        c->auth_given = true;
    }
    if (y->standalone)
        c->standalone = *y->standalone;
    if (y->insecure)
        c->insecure = *y->insecure;
    if (y->realtime)
        c->realtime = *y->realtime;
    rc = take_small(&c->slots, y->slots, 1, CORE_SLOTS_MAX, "slots", reterr);
    if (rc == 0 && y->timers)
        rc = take_timers(c, y->timers, reterr);
    if (rc == 0 && y->limits)
        rc = take_limits(c, y->limits, reterr);
    if (rc == 0 && y->retention)
        rc = take_retention(c, y->retention, reterr);
    return rc;
}

/* ---- libcyaml -------------------------------------------------------------------------------- */

struct yaml_errors {
    char first[256], where[128];
};

/* The first error says what; the first line of the backtrace says where. */
static void on_log(cyaml_log_t level, void *arg, const char *fmt, va_list args)
{
    struct yaml_errors *errors = arg;
    char text[256], *at;

    if (level < CYAML_LOG_ERROR)
        return;
    (void)vsnprintf(text, sizeof(text), fmt, args);
    text[strcspn(text, "\n")] = '\0';
    at = lh_starts_with(text, "Load: ") ? text + 6 : text;
    at += strspn(at, " ");
    if (!errors->first[0])
        (void)snprintf(errors->first, sizeof(errors->first), "%s", at);
    else if (!errors->where[0] && strstr(at, "line: "))
        (void)snprintf(errors->where, sizeof(errors->where), "%.100s", at);
}

/* The line on which a key stands, 1 and up; 0: not found. */
static unsigned line_of(const char *text, size_t len, const char *key)
{
    unsigned line = 1;
    const char *end = text + len;

    while (text < end) {
        const char *next = memchr(text, '\n', (size_t)(end - text));
        const char *at = text;

        while (at < end && *at == ' ')
            at++;
        if ((size_t)(end - at) > strlen(key) && strncmp(at, key, strlen(key)) == 0 &&
            strchr(": ", at[strlen(key)]))
            return line;
        if (!next)
            break;
        text = next + 1;
        line++;
    }
    return 0;
}

static const char *nearest_key(const char *key)
{
    static const cyaml_schema_field_t *const tables[] = {config_fields, timer_fields, limit_fields,
                                                         retention_fields};
    const char *names[64];
    size_t n = 0;

    for (size_t t = 0; t < LH_ARRAY_LEN(tables); t++)
        for (const cyaml_schema_field_t *f = tables[t]; f->key && n < LH_ARRAY_LEN(names); f++)
            names[n++] = f->key;
    return lh_nearest(key, names, n);
}

/* libcyaml's texts, but an unknown key with its own line and the key that was probably meant. */
static int parse_error(const char *text, size_t len, const char *name,
                       const struct yaml_errors *errors, cyaml_err_t code, struct lh_err *reterr)
{
    static const char unknown[] = "Unexpected key: ";
    const char *what = errors->first[0] ? errors->first : cyaml_strerror(code);

    if (lh_starts_with(what, unknown)) {
        const char *key = what + sizeof(unknown) - 1, *near = nearest_key(key);
        unsigned line = line_of(text, len, key);

        if (near)
            return lh_err_set(reterr, LH_ESTATE,
                              "%s: line %u: unknown key '%s'; did you mean '%s'?", name, line, key,
                              near);
        return lh_err_set(reterr, LH_ESTATE, "%s: line %u: unknown key '%s'", name, line, key);
    }
    return lh_err_set(reterr, LH_ESTATE, "%s: %s%s%s", name, what, errors->where[0] ? ", " : "",
                      errors->where);
}

int config_yaml(struct config *c, const char *text, size_t len, const char *name,
                struct lh_err *reterr)
{
    struct yaml_errors errors = {.first = ""};
    const cyaml_config_t cyaml = {
        .log_fn = on_log, .log_ctx = &errors, .log_level = CYAML_LOG_ERROR, .mem_fn = cyaml_mem};
    struct yaml_config *y = NULL;
    cyaml_err_t err = cyaml_load_data((const uint8_t *)text, len, &cyaml, &config_schema,
                                      (cyaml_data_t **)&y, NULL);
    int rc;

    if (err != CYAML_OK)
        return parse_error(text, len, name, &errors, err, reterr);
    if (!y) /* an empty document */
        return 0;
    rc = overlay(c, y, reterr);
    (void)cyaml_free(&cyaml, &config_schema, y, 0);
    return rc < 0 ? lh_err_prefix(reterr, rc, "%s", name) : 0;
}
