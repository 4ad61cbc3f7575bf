/* plan.c - longhaul plan: what a job would need and where it would run, without submitting it.
 *
 * The coordinator places it (a dry run), and a node opens its model and data for the rest: bytes a
 * rank, FLOPs and seconds a step, or the member that is wrong. With --local this machine does that,
 * without a coordinator.
 */
#include "daemon/cli/plan.h"
#include "proto/base/json.h"
#include <string.h>

enum { OPT_LOCAL };
static const struct cli_option options[] = {
    {"local", 'l', NULL, "plan with this machine's memory and speed; no coordinator is asked"},
    {0},
};

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

/* What layers keep for the backward pass. */
static void print_kept(const json_t *kept)
{
    static const char *const names[][2] = {
        {"scores", "attention"}, {"qkv", "q, k, v"}, {"x1", "x1"}, {"gates", "gate and up"}};
    const char *separator = "";

    if (!kept)
        return;
    printf("%-12s of %lld layers: ", "kept", (long long)lh_json_i64(kept, "layers", 0));
    for (size_t i = 0; i < LH_ARRAY_LEN(names); i++) {
        printf("%s%s by %lld", separator, names[i][1],
               (long long)lh_json_i64(kept, names[i][0], 0));
        separator = ", ";
    }
    printf("; the rest is computed again\n");
}

static void print_time(const json_t *plan)
{
    const json_t *rates = json_object_get(plan, "rates");

    if (!rates)
        return;
    printf(
        "%-12s %.3g s a step at rates measured now, %lld thread%s a rank: products %.0f, attention "
        "%.0f and back %.0f GFLOP/s, memory %.0f GB/s\n",
        "time", lh_json_num(plan, "step_s", 0), (long long)lh_json_i64(rates, "threads", 0),
        lh_json_i64(rates, "threads", 0) == 1 ? "" : "s", lh_json_num(rates, "product", 0) / 1e9,
        lh_json_num(rates, "attention", 0) / 1e9, lh_json_num(rates, "attention_backward", 0) / 1e9,
        lh_json_num(rates, "bytes", 0) / 1e9);
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
    print_kept(json_object_get(plan, "kept"));
    if (lh_json_num(plan, "flops_per_step", 0) > 0) {
        printf("%-12s %s a step", "work", flop_text(lh_json_num(plan, "flops_per_step", 0), text));
        if (lh_json_i64(plan, "steps", 0) > 0)
            printf(", %lld steps", (long long)lh_json_i64(plan, "steps", 0));
        putchar('\n');
    }
    print_time(plan);
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

static void print_problem(const json_t *problem)
{
    const char *pointer = lh_json_str(problem, "pointer", "");

    (void)fflush(stdout);
    fprintf(stderr, "longhaul: %s%s%s\n", pointer, *pointer ? ": " : "",
            lh_json_str(problem, "detail", ""));
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
    print_problem(problem);
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

/* Takes job. */
static int plan_here(const struct cli *cli, json_t *job)
{
    json_t *answer = NULL;
    int rc = plan_local(job, &answer);

    json_decref(job);
    if (rc != CLI_OK)
        return rc;
    if (cli->json)
        cli_print_json(answer);
    else
        print_plan(answer);
    if (!lh_json_bool(answer, "ok", 0)) {
        if (!cli->json)
            print_problem(answer);
        rc = CLI_JOB_FAILED;
    }
    json_decref(answer);
    return rc;
}

bool cli_alone(const struct cli_verb *verb, const char *const *values)
{
    return verb == &verb_plan && values[OPT_LOCAL];
}

static int plan(struct cli *cli, char **arguments, int n, const char *const *values)
{
    struct reply reply;
    json_t *job = NULL;
    struct lh_err err;
    int rc = cli_read_job(arguments[0], &job);

    (void)n;
    if (rc != 0)
        return rc;
    if (values[OPT_LOCAL])
        return plan_here(cli, job);
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
