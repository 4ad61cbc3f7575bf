/* watch.c - the verbs that follow: wait, logs, events. Ctrl-C ends the following, never the job. */
#include "daemon/cli/cli.h"
#include "proto/base/json.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ctrl-C while following: the handler may only write and leave. */
static void on_interrupt(int signal_number)
{
    static const char text[] = "\nlonghaul: stopped watching; the job goes on\n";

    (void)signal_number;
    (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
    _exit(130);
}

/* ---- wait --------------------------------------------------------------------------------------------------------- */

enum { OPT_TIMEOUT, OPT_NO_PROGRESS };
static const struct cli_option wait_options[] = {
    {"timeout", 't', "SECONDS", "give up waiting after so long (exit 4); the job goes on"},
    {"no-progress", 0, NULL, "do not draw the progress line"},
    {0},
};

static int wait_for(struct cli *cli, char **arguments, int n, const char *const *values)
{
    double timeout = values[OPT_TIMEOUT] ? strtod(values[OPT_TIMEOUT], NULL) : 0;
    int worst = CLI_OK;

    (void)signal(SIGINT, on_interrupt);
    for (int i = 0; i < n; i++) {
        json_t *job = NULL;
        int rc = cli_follow(cli, arguments[i], !cli->json && !values[OPT_NO_PROGRESS], timeout, &job);

        if (rc == 0) {
            rc = cli_outcome(job);
            if (cli->json)
                cli_print_json(job);
            else
                printf("%s %s%s%s\n", lh_json_str(job, "id", ""), lh_json_str(job, "state", ""),
                       json_object_get(job, "error") ? ": " : "", lh_json_str(json_object_get(job, "error"), "detail", ""));
        }
        worst = rc ? rc : worst;
        json_decref(job);
    }
    return worst;
}

/* ---- logs --------------------------------------------------------------------------------------------------------- */

enum { OPT_FOLLOW, OPT_RANK, OPT_ATTEMPT };
static const struct cli_option logs_options[] = {
    {"follow", 'f', NULL, "go on until the job ends"},
    {"rank", 'r', "N", "of this rank (default 0)"},
    {"attempt", 0, "N", "of this attempt (default: the newest)"},
    {0},
};

static bool job_is_final(struct cli *cli, const char *id)
{
    struct reply reply;
    char path[256];
    bool final = false;

    (void)snprintf(path, sizeof(path), "/v1/jobs/%s", id);
    if (client_request(cli->client, "GET", path, NULL, NULL, &reply, NULL) < 0)
        return false;
    final = reply.status == 200 && json_is_string(json_object_get(reply.json, "ended_at"));
    reply_release(&reply);
    return final;
}

static int logs(struct cli *cli, char **arguments, int n, const char *const *values)
{
    uint64_t offset = 0;
    struct lh_err err;

    (void)n;
    (void)signal(SIGINT, on_interrupt);
    for (;;) {
        /* Asked before the read: what a final job has written is then all there. */
        bool last = !values[OPT_FOLLOW] || job_is_final(cli, arguments[0]);
        struct reply reply;
        char path[512];

        (void)snprintf(path, sizeof(path), "/v1/jobs/%s/logs?rank=%s&offset=%llu%s%s", arguments[0], values[OPT_RANK] ? values[OPT_RANK] : "0",
                       (unsigned long long)offset, values[OPT_ATTEMPT] ? "&attempt=" : "", values[OPT_ATTEMPT] ? values[OPT_ATTEMPT] : "");
        if (client_request(cli->client, "GET", path, NULL, NULL, &reply, &err) < 0) {
            fprintf(stderr, "longhaul: %s\n", err.text);
            return CLI_UNAVAILABLE;
        }
        if (reply.status >= 400 && !(reply.status == 404 && values[OPT_FOLLOW] && !last)) {
            int rc = cli_refusal(&reply);

            reply_release(&reply);
            return rc;
        }
        if (reply.status == 200) {
            (void)fwrite(reply.body.data ? reply.body.data : "", 1, reply.body.len, stdout);
            (void)fflush(stdout);
            offset = reply.offset;
        }
        if (reply.status != 200 || reply.body.len == 0) {
            if (last) {
                reply_release(&reply);
                return CLI_OK;
            }
            (void)usleep(300000);
        }
        reply_release(&reply);
    }
}

/* ---- events ------------------------------------------------------------------------------------------------------- */

enum { OPT_EVENTS_FOLLOW, OPT_AFTER };
static const struct cli_option events_options[] = {
    {"follow", 'f', NULL, "go on with what happens now, progress included"},
    {"after", 0, "SEQ", "only events after this number"},
    {0},
};

static bool print_event(void *arg, const char *id, const char *event, const char *data)
{
    const struct cli *cli = arg;

    if (cli->json)
        puts(data);
    else
        printf("%-8s %-18s %s\n", id[0] ? id : "-", event, data);
    (void)fflush(stdout);
    return true;
}

static void print_events(const struct cli *cli, const json_t *list)
{
    const json_t *e;
    size_t i;

    json_array_foreach (list, i, e) {
        char *data = lh_json_text(cli->json ? e : json_object_get(e, "data"), 0);

        if (cli->json)
            puts(data ? data : "");
        else
            printf("%-8lld %s  %-18s %-20s %s\n", (long long)lh_json_i64(e, "seq", 0), lh_json_str(e, "time", ""),
                   lh_json_str(e, "type", ""), lh_json_str(e, "job", ""), data ? data : "");
        free(data);
    }
}

static int events(struct cli *cli, char **arguments, int n, const char *const *values)
{
    const char *after = values[OPT_AFTER] ? values[OPT_AFTER] : "0";
    struct reply reply;
    struct lh_err err;
    char path[512];
    int rc, status;

    if (n > 0)
        (void)snprintf(path, sizeof(path), "/v1/jobs/%s/events?after=%s", arguments[0], after);
    else
        (void)snprintf(path, sizeof(path), "/v1/events?after=%s", after);
    if (!values[OPT_EVENTS_FOLLOW]) {
        rc = client_request(cli->client, "GET", path, NULL, "Accept: application/json", &reply, &err);
        if (rc == 0 && reply.status >= 400)
            rc = cli_refusal(&reply);
        else if (rc == 0)
            print_events(cli, json_object_get(reply.json, "events"));
        if (rc >= 0) {
            reply_release(&reply);
            return rc;
        }
        fprintf(stderr, "longhaul: %s\n", err.text);
        return CLI_UNAVAILABLE;
    }
    (void)signal(SIGINT, on_interrupt);
    (void)snprintf(path, sizeof(path), "/v1/events%s%s", n > 0 ? "?job=" : "", n > 0 ? arguments[0] : "");
    rc = client_events(cli->client, path, values[OPT_AFTER], print_event, cli, &status, &err);
    if (rc < 0)
        fprintf(stderr, "longhaul: %s\n", err.text);
    return rc < 0 ? CLI_UNAVAILABLE : status >= 400 ? CLI_REFUSED : CLI_OK;
}

const struct cli_verb verb_wait = {"wait", "JOB...", "wait until jobs end, with a progress line; exits with their outcome",
                                   wait_options, 1, -1, wait_for};
const struct cli_verb verb_logs = {"logs", "JOB", "what a rank has printed", logs_options, 1, 1, logs};
const struct cli_verb verb_events = {"events", "[JOB]", "what happened, or what happens (-f)", events_options, 0, 1, events};
