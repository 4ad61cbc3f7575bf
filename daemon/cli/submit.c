/* submit.c - longhaul submit: reads a job (YAML or JSON), posts it once, whatever the network does. */
#include "daemon/cli/cli.h"
#include "daemon/cli/yaml.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "proto/job.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPT_DRY_RUN, OPT_KEY, OPT_WAIT, OPT_QUIET };
static const struct cli_option options[] = {
    {"dry-run", 'n', NULL, "check the job and say where it would run; nothing is stored"},
    {"idempotency-key", 0, "KEY", "submit at most once under this key (default: a random one, so that retries are safe)"},
    {"wait", 'w', NULL, "follow the job to its end; the exit code is its outcome"},
    {"quiet", 'q', NULL, "print the id alone"},
    {0},
};

int cli_read_job(const char *path, json_t **ret_job)
{
    struct lh_err err = {0};
    struct lh_buf text;
    char *file = NULL;
    size_t len = 0;
    int rc = 0;

    lh_buf_init(&text, LH_JOB_BODY_MAX);
    if (strcmp(path, "-") == 0) {
        char chunk[4096];
        size_t n;

        while (rc == 0 && (n = fread(chunk, 1, sizeof(chunk), stdin)) > 0)
            rc = lh_buf_append(&text, chunk, n);
        if (rc < 0)
            (void)lh_err_set(&err, rc, "standard input");
    } else if ((rc = lh_read_file(path, LH_JOB_BODY_MAX, &file, &len, &err)) == 0) {
        rc = lh_buf_append(&text, file, len);
    }
    if (rc == 0) {
        rc = yaml_to_json(text.data ? text.data : "", text.len, ret_job, &err);
        if (rc < 0)
            (void)lh_err_prefix(&err, rc, "%s", path);
    }
    free(file);
    lh_buf_release(&text);
    if (rc < 0)
        fprintf(stderr, "longhaul: %s\n", err.text);
    return rc < 0 ? CLI_USAGE : 0;
}

/* A lost answer is asked for again under the same key: the server stores one job. */
static int post(struct cli *cli, const json_t *job, const char *path, const char *key, struct reply *ret_reply)
{
    char header[256];
    struct lh_err err;
    int rc = -1;

    (void)snprintf(header, sizeof(header), "Idempotency-Key: %s", key);
    for (int tries = 0; tries < 3 && rc < 0; tries++) {
        if (tries > 0)
            (void)sleep(1);
        rc = client_request(cli->client, "POST", path, job, header, ret_reply, &err);
    }
    if (rc < 0)
        fprintf(stderr, "longhaul: %s\n", err.text);
    return rc;
}

static void print_submitted(const struct cli *cli, const json_t *job, bool quiet)
{
    const char *id = lh_json_str(job, "id", "");

    if (cli->json)
        cli_print_json(job);
    else if (quiet)
        puts(id);
    else
        printf("submitted %s (%s), now %s\nfollow it with: longhaul wait %s\n", id, lh_json_str(job, "name", ""),
               lh_json_str(job, "state", ""), id);
}

static int submit(struct cli *cli, char **arguments, int n, const char *const *values)
{
    bool dry = values[OPT_DRY_RUN] != NULL;
    char random_key[33];
    struct reply reply;
    json_t *job = NULL, *one, *last = NULL;
    size_t i;
    int rc = cli_read_job(arguments[0], &job);

    (void)n;
    if (rc != 0)
        return rc;
    lh_random_hex(16, random_key);
    if (post(cli, job, dry ? "/v1/jobs?dry_run=1" : "/v1/jobs", values[OPT_KEY] ? values[OPT_KEY] : random_key, &reply) < 0) {
        json_decref(job);
        return CLI_UNAVAILABLE;
    }
    json_decref(job);
    if (reply.status >= 400) {
        rc = cli_refusal(&reply);
        reply_release(&reply);
        return rc;
    }
    if (dry) {
        cli_print_json(reply.json);
    } else if (json_is_array(json_object_get(reply.json, "jobs"))) {
        json_array_foreach (json_object_get(reply.json, "jobs"), i, one)
            print_submitted(cli, last = one, values[OPT_QUIET] != NULL);
    } else {
        print_submitted(cli, last = reply.json, values[OPT_QUIET] != NULL);
    }
    if (rc == 0 && !dry && values[OPT_WAIT] && last) {
        json_t *done = NULL;

        rc = cli_follow(cli, lh_json_str(last, "id", ""), !cli->json, 0, &done);
        if (rc == 0)
            rc = cli_outcome(done);
        json_decref(done);
    }
    reply_release(&reply);
    return rc;
}

const struct cli_verb verb_submit = {"submit", "JOB.yaml|JOB.json|-", "submit a job (or an array of jobs: a pipeline)",
                                     options, 1, 1, submit};
