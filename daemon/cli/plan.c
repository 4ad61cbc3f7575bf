/* plan.c - longhaul plan: what a job would need and where it would run, without submitting it.
 *
 * The coordinator places it (a dry run), and a node opens its model and data for the rest: bytes a
 * rank, FLOPs a step, or the member that is wrong.
 */
#include "daemon/cli/cli.h"
#include "proto/base/json.h"
#include <string.h>

static const struct cli_option options[] = {{0}};

static const char *size_text(double bytes, char *buf)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    unsigned u = 0;

    for (; bytes >= 1024 && u + 1 < LH_ARRAY_LEN(units); u++)
        bytes /= 1024;
    (void)snprintf(buf, 32, u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
    return buf;
}

static const char *flop_text(double flops, char *buf)
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P", "E"};
    unsigned u = 0;

    for (; flops >= 1000 && u + 1 < LH_ARRAY_LEN(units); u++)
        flops /= 1000;
    (void)snprintf(buf, 32, "%.3g %sFLOP", flops, units[u]);
    return buf;
}

/* What `longhaul-worker --plan` said, for people. */
static void print_plan(const json_t *plan)
{
    json_t *parts = json_object_get(plan, "bytes"), *value;
    const char *name, *separator = ": ";
    char text[32];

    if (json_is_number(json_object_get(plan, "bytes_per_rank"))) {
        printf("%-12s %s a rank", "memory",
               size_text(lh_json_num(plan, "bytes_per_rank", 0), text));
        json_object_foreach(parts, name, value) if (json_number_value(value) > 0)
        {
            printf("%s%s %s", separator, name, size_text(json_number_value(value), text));
            separator = ", ";
        }
        putchar('\n');
    }
    if (lh_json_num(plan, "flops_per_step", 0) > 0) {
        printf("%-12s %s a step", "work", flop_text(lh_json_num(plan, "flops_per_step", 0), text));
        if (lh_json_i64(plan, "steps", 0) > 0)
            printf(", %lld steps", (long long)lh_json_i64(plan, "steps", 0));
        putchar('\n');
    }
    if (lh_json_i64(plan, "parameters", 0) > 0)
        printf("%-12s %lld, of which %lld train\n", "parameters",
               (long long)lh_json_i64(plan, "parameters", 0),
               (long long)lh_json_i64(plan, "trainable", 0));
}

static void print_placement(const json_t *dry)
{
    json_t *placement = json_object_get(dry, "placement"), *member;
    size_t i;

    printf("%-12s ", "placement");
    if (json_array_size(placement) == 0)
        printf("none (%s)", lh_json_str(dry, "reason", "unknown"));
    json_array_foreach(placement, i, member)
        printf("%s%lld slot%s on %s", i ? ", " : "", (long long)lh_json_i64(member, "slots", 0),
               lh_json_i64(member, "slots", 0) == 1 ? "" : "s", lh_json_str(member, "node", ""));
    if (json_array_size(placement) > 0)
        printf("; %s",
               lh_json_bool(dry, "now", 0) ? "would start at once" : "would wait for its turn");
    putchar('\n');
}

/* One job of the answer. 0, or CLI_JOB_FAILED when it could not run as it is. */
static int print_one(const json_t *dry, bool many)
{
    const json_t *problem = json_object_get(dry, "problem");
    const char *name = lh_json_str(json_object_get(dry, "spec"), "name", "");

    if (many)
        printf("%-12s %s\n", "job", name);
    print_placement(dry);
    print_plan(json_object_get(dry, "plan"));
    if (lh_json_str(dry, "detail", "")[0])
        printf("%-12s %s\n", "note", lh_json_str(dry, "detail", ""));
    if (!json_is_object(problem))
        return CLI_OK;
    (void)fflush(stdout);
    fprintf(stderr, "longhaul: %s%s%s\n", lh_json_str(problem, "pointer", ""),
            lh_json_str(problem, "pointer", "")[0] ? ": " : "", lh_json_str(problem, "detail", ""));
    return CLI_JOB_FAILED;
}

static int print_answer(const struct cli *cli, const json_t *answer)
{
    json_t *jobs = json_object_get(answer, "jobs"), *one;
    int worst = CLI_OK;
    size_t i;

    if (cli->json)
        cli_print_json(answer);
    if (!jobs)
        return cli->json
                   ? (json_is_object(json_object_get(answer, "problem")) ? CLI_JOB_FAILED : CLI_OK)
                   : print_one(answer, false);
    json_array_foreach(jobs, i, one)
    {
        if (cli->json ? json_is_object(json_object_get(one, "problem"))
                      : print_one(one, true) != CLI_OK)
            worst = CLI_JOB_FAILED;
        if (!cli->json && i + 1 < json_array_size(jobs))
            putchar('\n');
    }
    return worst;
}

static int plan(struct cli *cli, char **arguments, int n, const char *const *values)
{
    struct reply reply;
    json_t *job = NULL;
    struct lh_err err;
    int rc = cli_read_job(arguments[0], &job);

    (void)n;
    (void)values;
    if (rc != 0)
        return rc;
    rc = client_request(cli->client, "POST", "/v1/jobs?dry_run=1", job, NULL, &reply, &err);
    json_decref(job);
    if (rc < 0) {
        fprintf(stderr, "longhaul: %s\n", err.text);
        return CLI_UNAVAILABLE;
    }
    rc = reply.status >= 400 ? cli_refusal(&reply) : print_answer(cli, reply.json);
    reply_release(&reply);
    return rc;
}

const struct cli_verb verb_plan = {
    "plan", "JOB.yaml|JOB.json|-", "what a job would need and where it would run", options, 1, 1,
    plan};
