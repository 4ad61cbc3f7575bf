/* record.c - see record.h. */
#include "daemon/shim/record.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PROTOCOL 1
#define LOG_TAIL_BYTES 600 /* what an error quotes of mpirun's output */

int record_shim(struct lh_err *reterr)
{
    char boot_id[37];
    json_t *o;
    int rc;

    lh_boot_id(boot_id);
    o = json_pack("{s:i, s:i, s:I, s:s, s:s}", "protocol", PROTOCOL, "pid", (int)getpid(),
                  "start_ticks", (json_int_t)lh_pid_start_ticks(getpid()), "boot_id", boot_id,
                  "version", LH_VERSION);
    rc = o ? lh_json_save("shim.json", o, reterr) : lh_err_set(reterr, -ENOMEM, "shim.json");
    json_decref(o);
    return rc;
}

/* The end of launch.log as one line of valid UTF-8. */
static void log_tail(char *buf, size_t cap)
{
    int fd = open("logs/launch.log", O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    off_t from = size > (off_t)cap - 1 ? size - ((off_t)cap - 1) : 0;
    ssize_t n = fd < 0 ? 0 : pread(fd, buf, cap - 1, from);

    if (fd >= 0)
        (void)close(fd);
    buf[n > 0 ? n : 0] = '\0';
    for (char *p = buf; *p; p++)
        if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
            *p = ' ';
}

static json_t *explain(const struct outcome *o, const struct record *r)
{
    char detail[1200], tail[LOG_TAIL_BYTES + 1] = "";

    if (r->launch_error.code) {
        (void)snprintf(detail, sizeof(detail), "%s", r->launch_error.text);
    } else if (strcmp(o->code, "rank_signal") == 0) {
        (void)snprintf(detail, sizeof(detail), "a rank was killed by signal %d (%s)", o->signal,
                       strsignal(o->signal));
        if (o->rank >= 0)
            (void)snprintf(detail, sizeof(detail), "rank %d was killed by signal %d (%s)", o->rank,
                           o->signal, strsignal(o->signal));
    } else if (strcmp(o->code, "rank_exit") == 0 && o->rank >= 0) {
        (void)snprintf(detail, sizeof(detail), "rank %d ended with exit code %d; its log says more",
                       o->rank, o->exit);
    } else if (r->cause != STOP_NONE) {
        (void)snprintf(detail, sizeof(detail), "%s", r->reason);
    } else {
        log_tail(tail, sizeof(tail));
        (void)snprintf(detail, sizeof(detail), "mpirun ended with %s %d; the end of its output: %s",
                       r->launcher_signal ? "signal" : "exit code",
                       r->launcher_signal ? r->launcher_signal : r->launcher_exit, tail);
    }
    return json_pack("{s:s, s:s, s:s}", "code", o->code, "pointer", "", "detail", detail);
}

/* A journal's error in the words of exit.json (NODE-17): its text is the detail. */
static json_t *told_error(const json_t *event)
{
    return json_pack("{s:s, s:s, s:s, s:I, s:I}", "code", lh_json_str(event, "code", ""), "pointer",
                     lh_json_str(event, "pointer", ""), "detail", lh_json_str(event, "text", ""),
                     "rank", (json_int_t)lh_json_i64(event, "rank", -1), "exit",
                     (json_int_t)lh_json_i64(event, "exit", -1));
}

/* Every rank of the gang. Those of other nodes are told by their own nodes (`cleaned`); mpirun's
 * success is theirs, too. */
static json_t *gang_ranks(const struct attempt *a, const struct ranks *ranks, bool ok)
{
    json_t *list = ranks_json(ranks, a->node);
    unsigned rank = 0;

    for (unsigned g = 0; list && a->head && g < a->n_gang; g++)
        for (unsigned i = 0; i < a->gang[g].slots; i++, rank++) {
            json_t *o;

            if (g == 0)
                continue;
            o = json_pack("{s:i, s:s}", "rank", (int)rank, "node", a->gang[g].name);
            if (o && ok)
                (void)json_object_set_new(o, "exit", json_integer(0));
            (void)json_array_append_new(list, o);
        }
    return list;
}

static int worker_exit(const struct ranks *ranks)
{
    const json_t *done = ranks_done(ranks);

    return done ? (int)lh_json_i64(done, "exit", -1) : -1;
}

int record_exit(const struct attempt *a, const struct record *r, const struct ranks *ranks,
                struct lh_err *reterr)
{
    struct outcome_facts f = {.cause = r->cause,
                              .launched = r->launched,
                              .launcher_exit = r->launcher_exit,
                              .launcher_signal = r->launcher_signal,
                              .launcher_ended_ms = r->launcher_ended_ms,
                              .worker_exit = worker_exit(ranks)};
    LH_CLEANUP(lh_json_decrefp) json_t *file = NULL;
    json_t *error = NULL, *result;
    struct outcome o;
    bool ok;

    f.ranks = ranks_records(ranks, &f.n_ranks);
    o = outcome_decide(&f);
    ok = strcmp(o.outcome, "ok") == 0;
    result = json_object_get(ranks_done(ranks), "result");
    if (!ok)
        error = ranks_error(ranks) ? told_error(ranks_error(ranks)) : explain(&o, r);
    file =
        json_pack("{s:s, s:I, s:s, s:s, s:s, s:i, s:i, s:s, s:s, s:o?, s:O?, s:I, s:I, s:o}", "job",
                  a->job, "attempt", (json_int_t)a->number, "role", a->head ? "head" : "member",
                  "outcome", o.outcome, "class", o.class, "exit", o.exit, "signal", o.signal,
                  "stop", stop_cause_name(r->cause), "reason", r->reason, "error", error, "result",
                  result, "started_ms", (json_int_t)r->started_ms, "ended_ms",
                  (json_int_t)lh_now_ms(), "ranks", gang_ranks(a, ranks, ok));
    if (!file)
        return lh_err_set(reterr, -ENOMEM, "exit.json");
    return lh_json_save("exit.json", file, reterr);
}

int record_cleaned(const struct attempt *a, const struct ranks *ranks, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;

    o = json_pack("{s:s, s:I, s:I, s:o}", "job", a->job, "attempt", (json_int_t)a->number,
                  "ended_ms", (json_int_t)lh_now_ms(), "ranks", ranks_json(ranks, a->node));
    return o ? lh_json_save("cleaned.json", o, reterr)
             : lh_err_set(reterr, -ENOMEM, "cleaned.json");
}
