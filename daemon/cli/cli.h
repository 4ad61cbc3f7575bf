/* cli.h - what every verb of `longhaul` gets, and the exit codes that scripts rely on.
 *
 * Data goes to standard output, messages to standard error. Tables for people, --json for programs.
 */
#pragma once
#include "daemon/cli/client.h"
#include <stdbool.h>
#include <stdio.h>

enum cli_exit {
    CLI_OK = 0,
    CLI_JOB_FAILED = 1,
    CLI_USAGE = 2,
    CLI_CANCELLED = 3,
    CLI_TIMED_OUT = 4,
    CLI_REFUSED = 5,       /* the server understood and refused: 4xx */
    CLI_UNAVAILABLE = 69,  /* no server, or it answered 5xx */
    CLI_NO_PERMISSION = 77,
};

struct cli {
    struct client *client;
    bool json;
    bool tty; /* standard output is a terminal that takes escape sequences */
};

struct cli_option {
    const char *name;  /* "follow": --follow */
    char letter;       /* 'f', or 0 */
    const char *value; /* name of the value in the help, NULL for a flag */
    const char *help;
};

struct cli_verb {
    const char *name, *arguments, *summary;
    const struct cli_option *options; /* ends with a NULL name */
    int min_arguments, max_arguments; /* max -1: any number */
    /* values[i] belongs to options[i]: NULL not given, "" a given flag. Returns an exit code. */
    int (*run)(struct cli *cli, char **arguments, int n, const char *const *values);
};

extern const struct cli_verb verb_submit, verb_plan, verb_list, verb_show, verb_logs, verb_events, verb_wait, verb_cancel,
    verb_hold, verb_release, verb_explain, verb_nodes, verb_status;

/* With these values the verb asks no coordinator, so that none need be found: cli->client is NULL then. */
bool cli_alone(const struct cli_verb *verb, const char *const *values);

/* Reads a job (YAML or JSON) from a file or from standard input ("-"). Returns 0 or an exit code, after a message. */
int cli_read_job(const char *path, json_t **ret_job);

/* Prints what a refusal says (title, detail, each error with its pointer) and returns the exit code for it. */
int cli_refusal(const struct reply *reply);

/* One request without a body; prints what went wrong. Returns 0 with *ret_reply to release, or an exit code. */
int cli_ask(struct cli *cli, const char *method, const char *path, struct reply *ret_reply);

/* Prints a JSON value, indented, with a newline. */
void cli_print_json(const json_t *value);

/* Left-aligned columns: rows of n_columns strings each, the first row is the header. Long cells are cut at 48. */
void cli_print_table(const char *const *cells, unsigned n_columns, unsigned n_rows);

/* "3 min ago", "1.2 h", "--": short forms of an RFC 3339 time and of seconds. buf of at least 32 bytes. */
const char *cli_ago(const char *rfc3339, char *buf);
const char *cli_span(double seconds, char *buf);

/* Draws one line for a job: bar, phase, step, loss, tokens/s, time left; over the line before on a terminal. */
void cli_progress(const struct cli *cli, const json_t *job);
void cli_progress_end(const struct cli *cli);

/* Follows a job to its end (progress drawn when asked), *ret_job is its last form. Returns 0 or an exit code.
 * timeout_s 0: none (CLI_TIMED_OUT with the job alive otherwise). */
int cli_follow(struct cli *cli, const char *id, bool progress, double timeout_s, json_t **ret_job);

/* Exit code of a finished job. */
int cli_outcome(const json_t *job);
