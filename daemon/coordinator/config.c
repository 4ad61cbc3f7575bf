/* config.c - the defaults of every setting, and where settings come from.
 *
 * A flag --set KEY=VALUE is a document of one line (config_yaml.c), so files and flags take the
 * same keys and give the same errors.
 */
#include "daemon/coordinator/config.h"
#include "daemon/coordinator/config_yaml.h"
#include "proto/base/fs.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void config_init(struct config *c)
{
    memset(c, 0, sizeof(*c));
    c->auth = HTTP_AUTH_LOCAL;
    c->realtime = true;
    c->heartbeat_ms = 5000;
    c->tick_ms = 500;
    c->core = (struct core_config){
        .suspect_ms = 15000,
        .down_ms = 60000,
        .lease_ms = 1800000,
        .prepare_ms = 3600000,
        .launch_ms = 120000,
        .wall_slack_ms = 120000,
        .stop_grace_ms = 10000,
        .retry_base_ms = 10000,
        .retry_max_ms = 600000,
        .stall_ms = 5000,
        .idem_keep_ms = (uint64_t)7 * 24 * 3600 * 1000,
        .queue_max = 1000000,
        .jobs_keep_ms = (uint64_t)7 * 24 * 3600 * 1000,
        .jobs_max = 20000,
    };
    c->events_keep_ms = (uint64_t)30 * 24 * 3600 * 1000;
    c->events_max = 1000000;
    c->reserve_bytes = (uint64_t)64 << 20;
    c->body_max_bytes = LH_JOB_BODY_MAX;
    c->connections_max = 1024;
    c->request_ms = 10000;
    c->idle_ms = 60000;
    c->dry_run_ms = 30000;
    c->dry_runs_max = 32;
}

void config_release(struct config *c)
{
    char **const all[] = {&c->state,      &c->listen,   &c->store,   &c->ports,
                          &c->token_file, &c->tls_cert, &c->tls_key, &c->node_token_file};

    for (size_t i = 0; i < LH_ARRAY_LEN(all); i++) {
        free(*all[i]);
        *all[i] = NULL;
    }
    for (unsigned i = 0; i < c->n_sets; i++)
        free(c->sets[i]);
    free(c->sets);
    c->sets = NULL;
    c->n_sets = 0;
}

int config_load(struct config *c, const char *path, struct lh_err *reterr)
{
    char *text = NULL;
    size_t len = 0;
    int rc = lh_read_file(path, CONFIG_FILE_MAX, &text, &len, reterr);

    if (rc < 0)
        return rc;
    rc = config_yaml(c, text, len, path, reterr);
    free(text);
    return rc;
}

static int remember_set(struct config *c, const char *assignment, struct lh_err *reterr)
{
    char **sets = realloc(c->sets, (c->n_sets + 1) * sizeof(*sets));

    if (sets)
        c->sets = sets;
    if (!sets || !(sets[c->n_sets] = strdup(assignment)))
        return lh_err_set(reterr, -ENOMEM, "take the settings");
    c->n_sets++;
    return 0;
}

int config_set_again(struct config *c, const struct config *from, struct lh_err *reterr)
{
    int rc = 0;

    for (unsigned i = 0; i < from->n_sets && rc == 0; i++)
        rc = config_set(c, from->sets[i], reterr);
    return rc;
}

int config_set(struct config *c, const char *assignment, struct lh_err *reterr)
{
    int rc;
    size_t key = strcspn(assignment, "="), dot = strcspn(assignment, ".=");
    char text[4400], name[4300];
    int n;

    if (assignment[key] != '=' || strpbrk(assignment, "\n\"\\"))
        return lh_err_set(reterr, LH_ESTATE,
                          "--set takes KEY=VALUE, as --set timers.suspect_ms=5000; not '%s'",
                          assignment);
    if (dot < key)
        n = snprintf(text, sizeof(text), "%.*s:\n  %.*s: \"%s\"\n", (int)dot, assignment,
                     (int)(key - dot - 1), assignment + dot + 1, assignment + key + 1);
    else
        n = snprintf(text, sizeof(text), "%.*s: \"%s\"\n", (int)key, assignment,
                     assignment + key + 1);
    (void)snprintf(name, sizeof(name), "--set %.4000s", assignment);
    if (n >= (int)sizeof(text))
        return lh_err_set(reterr, LH_ESTATE, "%.60s...: too long", name);
    rc = config_yaml(c, text, (size_t)n, name, reterr);
    return rc < 0 ? rc : remember_set(c, assignment, reterr);
}
