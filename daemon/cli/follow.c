/* follow.c - watching one job: the progress line, the wait until it ends, the exit code it stands for. */
#include "daemon/cli/cli.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 24

int cli_outcome(const json_t *job)
{
    const char *state = lh_json_str(job, "state", "");

    if (strcmp(state, "succeeded") == 0)
        return CLI_OK;
    if (strcmp(state, "cancelled") == 0)
        return CLI_CANCELLED;
    return strcmp(state, "timed_out") == 0 ? CLI_TIMED_OUT : CLI_JOB_FAILED;
}

static bool is_final(const json_t *job)
{
    static const char *const finals[] = {"succeeded", "failed", "cancelled", "timed_out"};
    const char *state = lh_json_str(job, "state", "");

    for (size_t i = 0; i < LH_ARRAY_LEN(finals); i++)
        if (strcmp(state, finals[i]) == 0)
            return true;
    return false;
}

/* "step 3/8  loss 2.412  1310 tokens/s  4 min left": what is known of it. */
static void progress_facts(const json_t *progress, char *line, size_t cap)
{
    double loss = lh_json_num(progress, "loss", -1), rate = lh_json_num(progress, "tokens_per_s", -1);
    double left = lh_json_num(progress, "eta_s", -1);
    char span[32];
    size_t n = 0;

    line[0] = '\0';
    if (json_is_integer(json_object_get(progress, "step")))
        n += (size_t)snprintf(line + n, cap - n, "  step %lld/%lld", (long long)lh_json_i64(progress, "step", 0),
                              (long long)lh_json_i64(progress, "of", 0));
    if (loss >= 0 && n < cap)
        n += (size_t)snprintf(line + n, cap - n, "  loss %.4f", loss);
    if (rate >= 0 && n < cap)
        n += (size_t)snprintf(line + n, cap - n, "  %.0f tokens/s", rate);
    if (left >= 0 && n < cap)
        n += (size_t)snprintf(line + n, cap - n, "  %s left", cli_span(left, span));
}

void cli_progress(const struct cli *cli, const json_t *job)
{
    const json_t *progress = json_object_get(job, "progress");
    const char *state = lh_json_str(job, "state", ""), *reason = lh_json_str(job, "reason", "");
    double done = lh_json_num(progress, "done", lh_json_num(progress, "step", 0));
    double of = lh_json_num(progress, "phase_of", lh_json_num(progress, "of", 0));
    int filled = of > 0 ? (int)(BAR_WIDTH * LH_MIN(done / of, 1.0)) : 0;
    char bar[BAR_WIDTH + 1], facts[160];

    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    progress_facts(progress, facts, sizeof(facts));
    if (strcmp(state, "running") == 0)
        fprintf(stderr, "%s[%s] %3.0f%%  %-9s%s%s", cli->tty ? "\r\033[K" : "", bar, of > 0 ? 100 * LH_MIN(done / of, 1.0) : 0.0,
                lh_json_str(progress, "phase", "running"), facts, cli->tty ? "" : "\n");
    else
        fprintf(stderr, "%s%s%s%s%s%s", cli->tty ? "\r\033[K" : "", state, reason[0] ? " (" : "", reason, reason[0] ? ")" : "",
                cli->tty ? "" : "\n");
    (void)fflush(stderr);
}

void cli_progress_end(const struct cli *cli)
{
    if (cli->tty)
        fprintf(stderr, "\r\033[K");
}

int cli_follow(struct cli *cli, const char *id, bool progress, double timeout_s, json_t **ret_job)
{
    uint64_t begun = lh_mono_ms(), shown = 0;
    char path[256], last[320] = "";
    struct lh_err err;

    (void)snprintf(path, sizeof(path), "/v1/jobs/%s", id);
    for (unsigned misses = 0;;) {
        struct reply reply;

        if (client_request(cli->client, "GET", path, NULL, NULL, &reply, &err) < 0) {
            /* The coordinator may be restarting: the job lives on. Five minutes of silence end the wait. */
            if (++misses > 300) {
                fprintf(stderr, "longhaul: %s\n", err.text);
                return CLI_UNAVAILABLE;
            }
            (void)sleep(1);
            continue;
        }
        misses = 0;
        if (reply.status != 200 && reply.status != 503) {
            int rc = cli_refusal(&reply);

            reply_release(&reply);
            return rc;
        }
        if (reply.status == 200 && progress) {
            json_t *p = json_object_get(reply.json, "progress");
            char now[320];

            (void)snprintf(now, sizeof(now), "%s %s %lld", lh_json_str(reply.json, "state", ""), lh_json_str(p, "phase", ""),
                           (long long)lh_json_i64(p, "step", -1));
            /* Off a terminal a line appears when something changed, or every half minute. */
            if (cli->tty || strcmp(now, last) != 0 || lh_mono_ms() - shown > 30000) {
                cli_progress(cli, reply.json);
                shown = lh_mono_ms();
                memcpy(last, now, sizeof(last));
            }
        }
        if (reply.status == 200 && is_final(reply.json)) {
            if (progress)
                cli_progress_end(cli);
            *ret_job = json_incref(reply.json);
            reply_release(&reply);
            return 0;
        }
        reply_release(&reply);
        if (timeout_s > 0 && (double)(lh_mono_ms() - begun) > timeout_s * 1000) {
            if (progress)
                cli_progress_end(cli);
            fprintf(stderr, "longhaul: %s goes on after %.0f s of waiting\n", id, timeout_s);
            return CLI_TIMED_OUT;
        }
        (void)usleep(timeout_s > 0 && timeout_s < 5 ? 100000 : 500000);
    }
}
