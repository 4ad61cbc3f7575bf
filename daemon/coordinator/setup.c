/* setup.c - what app.c does once, or again on HUP: loading the state, listening, the settings. */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <errno.h>
#include <stdio.h>

static int on_row(void *arg, const char *table, const json_t *row, struct lh_err *reterr)
{
    return core_load(arg, table, row, reterr);
}

int setup_load(struct app *a, struct lh_err *reterr)
{
    struct store_config config = {.dir = a->config->state,
                                  .reserve_bytes = a->config->reserve_bytes,
                                  .idem_keep_ms = a->config->core.idem_keep_ms,
                                  .jobs_keep_ms = a->config->core.jobs_keep_ms,
                                  .jobs_max = a->config->core.jobs_max,
                                  .events_keep_ms = a->config->events_keep_ms,
                                  .events_max = a->config->events_max,
                                  .realtime = a->config->standalone && a->config->realtime};
    struct store_newest newest = {.seq = 0};
    int rc = store_open(&config, &a->store, reterr);

    if (rc < 0)
        return rc;
    app_remove_address(a); /* of a run that was killed; the lock is ours now */
    a->core = core_new(&a->config->core, lh_mono_ms(), lh_now_ms());
    rc = store_load(a->store, on_row, a->core, &newest, reterr);
    if (rc < 0)
        return rc;
    core_loaded(a->core, newest.seq, newest.number);
    a->committed_seq = newest.seq;
    return 0;
}

static void on_request(void *arg, struct http_request *q)
{
    api_request(arg, q);
}

static struct http_config http_config(const struct app *a)
{
    const struct config *c = a->config;

    return (struct http_config){
        .listen = c->listen,
        .auth = c->auth,
        .token_file = c->token_file,
        .tls_cert = c->tls_cert,
        .tls_key = c->tls_key,
        .insecure = c->insecure,
        .body_max = (size_t)c->body_max_bytes,
        .connections_max = c->connections_max,
        .request_ms = c->request_ms,
        .idle_ms = c->idle_ms,
        .listen_fd = a->passed_fd,
    };
}

/* An address that is taken may be free later; a token file or key that cannot be read is
 * configuration. */
static int listen_error(int rc)
{
    return rc == -EADDRINUSE || rc == -EADDRNOTAVAIL ? rc : LH_ESTATE;
}

int setup_listen(struct app *a, struct lh_err *reterr)
{
    const struct http_config http = http_config(a);
    int rc = http_server_new(a->loop, &http, on_request, a, &a->http, reterr);

    return rc < 0 ? listen_error(rc) : 0;
}

/* A first start that cannot listen leaves no state directory behind. Where there is one, whoever
 * holds it is named before a port in use is. */
int setup_try_address(const struct app *a, struct lh_err *reterr)
{
    const struct http_config http = http_config(a);
    char path[4200];
    int rc;

    (void)snprintf(path, sizeof(path), "%s/longhauld.db", a->config->state);
    if (lh_path_exists(path) || lh_starts_with(a->config->listen, "unix:"))
        return 0; /* a socket may lie in the state directory */
    rc = http_server_try(&http, reterr);
    return rc < 0 ? listen_error(rc) : 0;
}

void setup_reload(struct app *a)
{
    struct config fresh;
    struct lh_err err = {.code = 0};
    int rc = 0;

    notify_reloading(true);
    config_init(&fresh);
    if (a->config_path)
        rc = config_load(&fresh, a->config_path, &err);
    if (rc == 0)
        rc = config_set_again(&fresh, a->config, &err);
    if (rc == 0)
        rc = config_check(&fresh, &err);
    if (rc < 0) {
        app_warn(a, "config.refused", "the configuration was not reloaded, the old one stays: %s",
                 err.text);
    } else if (a->config_path) { /* timers and limits of the core; the rest needs a restart */
        fresh.core.store = a->config->store;
        fresh.core.ports = a->config->ports;
        a->config->core = fresh.core;
        a->config->heartbeat_ms = fresh.heartbeat_ms;
        a->config->dry_run_ms = fresh.dry_run_ms;
        a->config->dry_runs_max = fresh.dry_runs_max;
        a->config->events_keep_ms = fresh.events_keep_ms;
        a->config->events_max = fresh.events_max;
        store_retain(a->store, fresh.events_keep_ms, fresh.events_max);
        core_configure(a->core, &a->config->core);
        lh_info("config.reloaded", "file=%s", a->config_path);
    }
    config_release(&fresh);
    notify_reloading(false);
}
