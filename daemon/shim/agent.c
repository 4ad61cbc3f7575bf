/* agent.c - what mpirun runs in place of ssh: leaves the orted command for another node in
 * DIR/relay and is done.
 *
 * The node daemon of the head reports the file, the coordinator hands the command to the other
 * node, whose shim runs it. mpirun takes exit status 0 as "the daemon is on its way" and waits for
 * it to call back.
 */
#include "daemon/shim/attempt.h"
#include "daemon/shim/roles.h"
#include "proto/base/buf.h"
#include "proto/base/json.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMAND_MAX (64u << 10)
#define CANNOT_REACH 255 /* as ssh says it */

static int save(const struct attempt *a, const char *host, const char *command,
                struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    const char *node = attempt_node_at(a, host);
    char path[128];

    if (!node)
        return lh_err_set(reterr, LH_EINPUT, "no node of the gang has the address '%s'", host);
    o = json_pack("{s:s, s:s, s:s}", "node", node, "address", host, "command", command);
    (void)snprintf(path, sizeof(path), "relay/%s.json", node);
    return o ? lh_json_save(path, o, reterr) : lh_err_set(reterr, -ENOMEM, "relay to '%s'", node);
}

int agent_run(int argc, char **argv)
{
    const char *dir = getenv("LONGHAUL_ATTEMPT_DIR");
    struct lh_buf command;
    struct attempt a = {0};
    struct lh_err err;
    int rc = 0;

    if (argc < 2) {
        (void)fprintf(stderr, "longhaul-shim: --agent wants HOST COMMAND...\n");
        return 2;
    }
    lh_buf_init(&command, COMMAND_MAX);
    for (int i = 1; rc == 0 && i < argc; i++)
        rc = lh_buf_printf(&command, "%s%s", i > 1 ? " " : "", argv[i]);
    if (rc < 0)
        rc = lh_err_set(&err, rc, "the command for '%s' is too long", argv[0]);
    else if (!dir || chdir(dir) < 0)
        rc = lh_err_set(&err, -ENOENT, "LONGHAUL_ATTEMPT_DIR '%s'", dir ? dir : "");
    else
        rc = attempt_load(&a, &err);
    if (rc == 0)
        rc = save(&a, argv[0], command.data, &err);
    attempt_release(&a);
    lh_buf_release(&command);
    if (rc < 0)
        (void)fprintf(stderr, "longhaul-shim: %s\n", err.text);
    return rc < 0 ? CANNOT_REACH : 0;
}
