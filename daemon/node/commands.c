/* commands.c - see commands.h. */
#include "daemon/node/commands.h"
#include "daemon/node/held.h"
#include "daemon/node/prepare.h"
#include "daemon/node/reports.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include <inttypes.h>
#include <string.h>

#define GRACE_MS 10000 /* of a stop that names none */

typedef void attempt_fn(struct held *h, const json_t *command);

static void do_launch(struct held *h, const json_t *command)
{
    (void)command;
    held_launch(h);
}

static void do_orted(struct held *h, const json_t *command)
{
    held_orted(h, lh_json_str(command, "command", ""));
}

static void do_checkpoint(struct held *h, const json_t *command)
{
    (void)command;
    held_checkpoint(h);
}

static void do_stop(struct held *h, const json_t *command)
{
    double grace_s = lh_json_num(command, "grace_s", GRACE_MS / 1000.0);

    held_stop(h, lh_json_str(command, "reason", "requested"),
              (uint64_t)(LH_MAX(grace_s, 0) * 1000));
}

static void do_forget(struct held *h, const json_t *command)
{
    (void)command;
    held_forget(h);
}

static const struct {
    const char *type;
    attempt_fn *act;
} table[] = {
    {"launch", do_launch}, {"orted", do_orted},   {"checkpoint", do_checkpoint},
    {"stop", do_stop},     {"forget", do_forget},
};

/* A stop for what was never here: the coordinator waits for the word that nothing is left. */
static void tell_absent(struct node *n, const char *job, uint64_t attempt, const char *type)
{
    struct held absent = {.node = n, .number = attempt};

    if (strcmp(type, "stop") != 0)
        return;
    (void)snprintf(absent.job, sizeof(absent.job), "%s", job);
    reports_attempt(n->reports, &absent, "cleaned", "", json_pack("{s:[]}", "ranks"));
}

void commands_take(struct node *n, const json_t *command)
{
    const char *type = lh_json_str(command, "type", ""), *job = lh_json_str(command, "job", "");
    uint64_t attempt = (uint64_t)lh_json_i64(command, "attempt", 0);
    struct held *h;

    lh_debug("command", "type=%s job=%s attempt=%" PRIu64, type, job, attempt);
    if (strcmp(type, "preflight") == 0) {
        preflight_start(n, command);
        return;
    }
    if (strcmp(type, "prepare") == 0) {
        held_prepare(n, command);
        return;
    }
    for (size_t i = 0; i < LH_ARRAY_LEN(table); i++) {
        if (strcmp(type, table[i].type) != 0)
            continue;
        h = held_find(n, job, attempt);
        if (h)
            table[i].act(h, command);
        else
            tell_absent(n, job, attempt, type);
        return;
    }
    lh_warn("command.unknown", "type=%s job=%s", type, job);
}

void commands_kill(struct node *n, const json_t *which)
{
    struct held *h =
        held_find(n, lh_json_str(which, "job", ""), (uint64_t)lh_json_i64(which, "attempt", 0));

    if (!h)
        return;
    held_stop(h, "unwanted", 0);
    held_forget(h);
}
