/* jobs.c - the verbs that read or change jobs with one request: list, show, explain, cancel, hold, release. */
#include "daemon/cli/cli.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <stdlib.h>
#include <string.h>

static const struct cli_option no_options[] = {{0}};

/* ---- list --------------------------------------------------------------------------------------------------------- */

enum { OPT_STATE, OPT_LIMIT, OPT_ALL };
static const struct cli_option list_options[] = {
    {"state", 0, "STATES", "only these, comma separated; also pending, active, finished"},
    {"limit", 'n', "N", "at most N jobs, newest first (default 50)"},
    {"all", 'a', NULL, "every job"},
    {0},
};
enum { LIST_COLUMNS = 7, CELL_BYTES = 64 };

static void list_row(const json_t *job, char (*cells)[CELL_BYTES])
{
    const json_t *progress = json_object_get(job, "progress");
    const char *reason = lh_json_str(job, "reason", "");
    char ago[32];

    (void)snprintf(cells[0], CELL_BYTES, "%lld", (long long)lh_json_i64(job, "number", 0));
    (void)snprintf(cells[1], CELL_BYTES, "%s", lh_json_str(job, "id", ""));
    (void)snprintf(cells[2], CELL_BYTES, "%s", lh_json_str(job, "name", ""));
    (void)snprintf(cells[3], CELL_BYTES, "%s", lh_json_str(job, "kind", ""));
    (void)snprintf(cells[4], CELL_BYTES, "%s%s%s%s", lh_json_str(job, "state", ""), reason[0] ? " (" : "", reason, reason[0] ? ")" : "");
    if (json_is_integer(json_object_get(progress, "step")))
        (void)snprintf(cells[5], CELL_BYTES, "%lld/%lld", (long long)lh_json_i64(progress, "step", 0),
                       (long long)lh_json_i64(progress, "of", 0));
    else
        (void)snprintf(cells[5], CELL_BYTES, "%s", lh_json_str(progress, "phase", ""));
    (void)snprintf(cells[6], CELL_BYTES, "%s", cli_ago(lh_json_str(job, "submitted_at", NULL), ago));
}

static int print_list(const json_t *jobs)
{
    static const char *const header[LIST_COLUMNS] = {"NUMBER", "ID", "NAME", "KIND", "STATE", "STEP", "SUBMITTED"};
    size_t n = json_array_size(jobs), i;
    char(*cells)[CELL_BYTES] = calloc((n + 1) * LIST_COLUMNS, CELL_BYTES);
    const char **rows = calloc((n + 1) * LIST_COLUMNS, sizeof(*rows));
    json_t *job;

    if (cells && rows) {
        memcpy(rows, header, sizeof(header));
        json_array_foreach (jobs, i, job)
            list_row(job, cells + (i + 1) * LIST_COLUMNS);
        for (i = LIST_COLUMNS; i < (n + 1) * LIST_COLUMNS; i++)
            rows[i] = cells[i];
        cli_print_table(rows, LIST_COLUMNS, (unsigned)n + 1);
    }
    free(cells);
    free(rows);
    return CLI_OK;
}

static int list(struct cli *cli, char **arguments, int n, const char *const *values)
{
    json_t *all = json_array();
    char cursor[512] = "", path[1024];
    int rc = 0;

    (void)arguments;
    (void)n;
    do {
        const char *next;
        struct reply reply;

        (void)snprintf(path, sizeof(path), "/v1/jobs?limit=%s%s%s%s%s", values[OPT_ALL] ? "500" : values[OPT_LIMIT] ? values[OPT_LIMIT] : "50",
                       values[OPT_STATE] ? "&state=" : "", values[OPT_STATE] ? values[OPT_STATE] : "", cursor[0] ? "&cursor=" : "", cursor);
        if ((rc = cli_ask(cli, "GET", path, &reply)) != 0)
            break;
        (void)json_array_extend(all, json_object_get(reply.json, "jobs"));
        next = lh_json_str(reply.json, "next_cursor", "");
        (void)snprintf(cursor, sizeof(cursor), "%s", next);
        reply_release(&reply);
    } while (values[OPT_ALL] && cursor[0]);
    if (rc == 0 && cli->json)
        cli_print_json(all);
    else if (rc == 0)
        rc = print_list(all);
    json_decref(all);
    return rc;
}

/* ---- show --------------------------------------------------------------------------------------------------------- */

static void show_line(const char *name, const char *value)
{
    if (value && value[0])
        printf("%-12s %s\n", name, value);
}

static void show_people(const json_t *job)
{
    const json_t *error = json_object_get(job, "error"), *checkpoints = json_object_get(job, "checkpoints");
    const json_t *spec = json_object_get(job, "spec");
    char state[512], *text;

    (void)snprintf(state, sizeof(state), "%s%s%s", lh_json_str(job, "state", ""), lh_json_str(job, "reason", "")[0] ? " - " : "",
                   lh_json_str(job, "detail", "")[0] ? lh_json_str(job, "detail", "") : lh_json_str(job, "reason", ""));
    show_line("id", lh_json_str(job, "id", ""));
    show_line("name", lh_json_str(job, "name", ""));
    show_line("kind", lh_json_str(job, "kind", ""));
    show_line("state", state);
    show_line("submitted", lh_json_str(job, "submitted_at", ""));
    show_line("started", lh_json_str(job, "started_at", ""));
    show_line("ended", lh_json_str(job, "ended_at", ""));
    if (json_is_object(error))
        printf("%-12s %s %s\n", "error", lh_json_str(error, "pointer", ""), lh_json_str(error, "detail", ""));
    if (json_is_object(checkpoints) && json_object_size(checkpoints) > 0)
        printf("%-12s step %lld, %s, %s\n", "checkpoint", (long long)lh_json_i64(checkpoints, "step", 0), lh_json_str(checkpoints, "state", ""),
               lh_json_str(checkpoints, "uri", ""));
    if (json_is_object(json_object_get(job, "result")) && (text = lh_json_text(json_object_get(job, "result"), 2))) {
        printf("result       %s\n", text);
        free(text);
    }
    if (spec && (text = lh_json_text(spec, 2))) {
        printf("spec         %s\n", text);
        free(text);
    }
}

static int show(struct cli *cli, char **arguments, int n, const char *const *values)
{
    int rc = 0;

    (void)values;
    for (int i = 0; i < n && rc == 0; i++) {
        struct reply reply;
        char path[256];

        (void)snprintf(path, sizeof(path), "/v1/jobs/%s", arguments[i]);
        if ((rc = cli_ask(cli, "GET", path, &reply)) != 0)
            break;
        if (cli->json)
            cli_print_json(reply.json);
        else
            show_people(reply.json);
        reply_release(&reply);
    }
    return rc;
}

static int explain(struct cli *cli, char **arguments, int n, const char *const *values)
{
    struct reply reply;
    char path[256];
    json_t *job;
    size_t i;
    int rc;

    (void)n;
    (void)values;
    (void)snprintf(path, sizeof(path), "/v1/jobs/%s/explain", arguments[0]);
    if ((rc = cli_ask(cli, "GET", path, &reply)) != 0)
        return rc;
    if (cli->json) {
        cli_print_json(reply.json);
        reply_release(&reply);
        return CLI_OK;
    }
    printf("%s%s%s\n%s\n", lh_json_str(reply.json, "state", ""), lh_json_str(reply.json, "reason", "")[0] ? ": " : "",
           lh_json_str(reply.json, "reason", ""), lh_json_str(reply.json, "detail", ""));
    if (lh_json_i64(reply.json, "position", 0) > 0)
        printf("number %lld in the queue\n", (long long)lh_json_i64(reply.json, "position", 0));
    json_array_foreach (json_object_get(reply.json, "blocking"), i, job)
        printf("waits for %s %s, %s\n", lh_json_str(job, "id", ""), lh_json_str(job, "name", ""),
               lh_json_str(job, "state", ""));
    reply_release(&reply);
    return CLI_OK;
}

/* ---- cancel, hold, release ---------------------------------------------------------------------------------------- */

static int act(struct cli *cli, const char *action, char **arguments, int n)
{
    int worst = CLI_OK;

    for (int i = 0; i < n; i++) {
        struct reply reply;
        char path[256];
        int rc;

        (void)snprintf(path, sizeof(path), "/v1/jobs/%s/%s", arguments[i], action);
        if ((rc = cli_ask(cli, "POST", path, &reply)) != 0) {
            worst = rc;
            continue;
        }
        if (cli->json)
            cli_print_json(reply.json);
        else
            printf("%s is %s\n", lh_json_str(reply.json, "id", arguments[i]), lh_json_str(reply.json, "state", ""));
        reply_release(&reply);
    }
    return worst;
}

static int cancel(struct cli *cli, char **arguments, int n, const char *const *values)
{
    (void)values;
    return act(cli, "cancel", arguments, n);
}

static int hold(struct cli *cli, char **arguments, int n, const char *const *values)
{
    (void)values;
    return act(cli, "hold", arguments, n);
}

static int release(struct cli *cli, char **arguments, int n, const char *const *values)
{
    (void)values;
    return act(cli, "release", arguments, n);
}

const struct cli_verb verb_list = {"list", "", "list jobs, newest first", list_options, 0, 0, list};
const struct cli_verb verb_show = {"show", "JOB...", "everything about a job", no_options, 1, -1, show};
const struct cli_verb verb_explain = {"explain", "JOB", "why a job is not running", no_options, 1, 1, explain};
const struct cli_verb verb_cancel = {"cancel", "JOB...", "stop jobs for good", no_options, 1, -1, cancel};
const struct cli_verb verb_hold = {"hold", "JOB...", "keep jobs from starting", no_options, 1, -1, hold};
const struct cli_verb verb_release = {"release", "JOB...", "let held jobs start", no_options, 1, -1, release};
