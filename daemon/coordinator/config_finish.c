/* config_finish.c - settings that follow from others, and whether all of them fit together. */
#include "daemon/coordinator/config.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int default_text(char **to, char *made)
{
    if (!made)
        return -ENOMEM;
    *to = made;
    return 0;
}

static int absolute_state(struct config *c, struct lh_err *reterr)
{
    char *cwd, *path;

    if (c->state[0] == '/')
        return 0;
    cwd = getcwd(NULL, 0);
    if (!cwd || asprintf(&path, "%s/%s", cwd, c->state) < 0) {
        free(cwd);
        return lh_err_set(reterr, -ENOMEM, "--state");
    }
    free(cwd);
    free(c->state);
    c->state = path;
    return 0;
}

static int check_ports(const char *ports, struct lh_err *reterr)
{
    int low, high, used = 0;

    if (sscanf(ports, "%d-%d%n", &low, &high, &used) == 2 && ports[used] == '\0' && low >= 1024 &&
        high <= 65535 && high - low >= 15)
        return 0;
    return lh_err_set(reterr, LH_ESTATE,
                      "ports is '%s'; give LOW-HIGH with at least 16 ports from 1024 to 65535",
                      ports);
}

int config_check(const struct config *c, struct lh_err *reterr)
{
    if (c->core.down_ms < c->core.suspect_ms)
        return lh_err_set(reterr, LH_ESTATE, "timers.down_ms must not be below timers.suspect_ms");
    if (c->core.suspect_ms < c->heartbeat_ms)
        return lh_err_set(reterr, LH_ESTATE,
                          "timers.suspect_ms must not be below timers.heartbeat_ms");
    return 0;
}

int config_finish(struct config *c, struct lh_err *reterr)
{
    int rc = 0;
    char *store = NULL;

    if (!c->state)
        return lh_err_set(reterr, LH_ESTATE,
                          "no state directory; give --state DIR (or state: in the configuration)");
    rc = absolute_state(c, reterr);
    if (rc < 0)
        return rc;
    if (!c->listen)
        rc = default_text(&c->listen, strdup("127.0.0.1:7420"));
    if (rc == 0 && !c->ports)
        rc = default_text(&c->ports, strdup("24000-24999"));
    if (rc == 0 && !c->store)
        rc = default_text(&c->store,
                          asprintf(&store, "file://%s/store", c->state) < 0 ? NULL : store);
    if (rc < 0)
        return lh_err_set(reterr, rc, "take the settings");
    if (!c->auth_given)
        c->auth = c->token_file ? HTTP_AUTH_TOKEN : HTTP_AUTH_LOCAL;
    if (c->auth == HTTP_AUTH_TOKEN && !c->token_file)
        return lh_err_set(reterr, LH_ESTATE, "auth: token needs a token_file (or --token-file)");
    if (!c->tls_cert != !c->tls_key)
        return lh_err_set(reterr, LH_ESTATE, "tls_cert and tls_key go together; one is missing");
    rc = config_check(c, reterr);
    if (rc < 0)
        return rc;
    c->core.store = c->store;
    c->core.ports = c->ports;
    return check_ports(c->ports, reterr);
}
