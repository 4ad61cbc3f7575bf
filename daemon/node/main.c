/* main.c - longhaul-node: the daemon of one machine. Reads options, wires the parts, runs the loop.
 *
 * It listens on no port. Ending it (or killing it) leaves shims and their ranks alone: the next one
 * adopts them.
 */
#include "daemon/node/evict.h"
#include "daemon/node/held.h"
#include "daemon/node/link.h"
#include "daemon/node/node.h"
#include "daemon/node/notify.h"
#include "daemon/node/options.h"
#include "daemon/node/prepare.h"
#include "daemon/node/reports.h"
#include "proto/base/fs.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define TICK_MS 100 /* a look at a few files; what is new is told this much later */
#define EXIT_USAGE 64
#define EXIT_CONFIG                                                                                \
    78 /* systemd does not start it again: somebody has to change something first                  \
        */

static void on_tick(uv_timer_t *t)
{
    struct node *n = t->data;

    held_tick_all(n);
    preflight_tick(n);
    evict_tick(n);
}

static void on_watchdog(uv_timer_t *t)
{
    (void)t; /* the loop turns: that is what the watchdog is to know */
    notify("WATCHDOG=1");
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct node *n = s->data;

    lh_info("node.stop", "signal=%d", signum);
    notify("STOPPING=1");
    n->stopping = true;
    uv_stop(n->loop);
}

/* One daemon for each state directory; the lock goes with the process. */
static int take_state(const struct node *n, struct lh_err *reterr)
{
    char path[NODE_PATH_MAX];
    int fd, rc = lh_mkdir_p(n->config.state, reterr);

    if (rc < 0)
        return rc;
    fd = open(node_path(n, path, "node.lock"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return lh_err_set(reterr, -errno, "--state '%s' cannot be written to", n->config.state);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return lh_err_set(reterr, -EBUSY, "another longhaul-node runs with --state '%s'",
                          n->config.state);
    (void)!lh_remove_tree(node_path(n, path, "preflight"), NULL); /* of a daemon that was killed */
    (void)!lh_remove_tree(node_path(n, path, "cache/tmp"), NULL);
    return 0;
}

static int wire(struct node *n, const struct options *o, struct lh_err *reterr)
{
    struct client_config client = {.token = o->token[0] ? o->token : NULL,
                                   .ca_file = n->config.ca_file};
    int rc = take_state(n, reterr);

    if (rc < 0)
        return rc;
    inventory_read(&n->inventory);
    if (n->config.slots == 0)
        n->config.slots = LH_MIN(n->inventory.cores, (unsigned)NODE_SLOTS_MAX);
    lh_random_hex(16, n->agent_id);
    (void)pthread_mutex_init(&n->cache_lock, NULL);
    n->preflights = json_object();
    n->reports = reports_new(n);
    if (!n->preflights || !n->reports)
        return lh_err_set(reterr, -ENOMEM, "start");
    rc = client_new(n->loop, &client, &n->client, reterr);
    if (rc == 0)
        rc = link_new(n, &n->link, reterr);
    if (rc == 0)
        rc = held_load_all(n, reterr);
    return rc;
}

static void run(struct node *n)
{
    static const int signals[] = {SIGTERM, SIGINT};
    uv_signal_t handles[2];
    uv_timer_t watchdog;
    uint64_t watchdog_ms = notify_watchdog_ms();

    (void)signal(SIGPIPE, SIG_IGN);
    for (unsigned i = 0; i < 2; i++) {
        (void)uv_signal_init(n->loop, &handles[i]);
        handles[i].data = n;
        (void)uv_signal_start(&handles[i], on_signal, signals[i]);
    }
    (void)uv_timer_init(n->loop, &n->tick);
    n->tick.data = n;
    (void)uv_timer_start(&n->tick, on_tick, 0, TICK_MS);
    (void)uv_timer_init(n->loop, &watchdog);
    if (watchdog_ms)
        (void)uv_timer_start(&watchdog, on_watchdog, 0, watchdog_ms / 3);
    link_start(n->link);
    notify("READY=1");
    (void)uv_run(n->loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv)
{
    struct node n = {0};
    struct options o;
    struct lh_err err;
    int rc = options_parse(argc, argv, &o, &err);

    if (rc > 0)
        return 0;
    if (rc < 0) {
        (void)fprintf(stderr, "longhaul-node: %s\n", err.text);
        return EXIT_USAGE;
    }
    /* Stages and uploads wait for disks and networks on these threads; the default of four would be
     * two gangs' worth. */
    (void)setenv("UV_THREADPOOL_SIZE", "16", 0);
    n.loop = uv_default_loop();
    n.config = o.config;
    rc = wire(&n, &o, &err);
    if (rc < 0) {
        (void)fprintf(stderr, "longhaul-node: %s\n", err.text);
        return EXIT_CONFIG;
    }
    lh_info("node.start", "name=%s coordinator=%s state=%s slots=%u cores=%u", n.config.name,
            n.config.coordinator, n.config.state, n.config.slots, n.inventory.cores);
    run(&n);
    return 0; /* threads may still work for entries: the end of the process frees it all */
}
