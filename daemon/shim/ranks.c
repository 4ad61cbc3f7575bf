/* ranks.c - see ranks.h.
 *
 * Times of beats are compared with the times seen before, never with the clock: wall time may step.
 */
#include "daemon/shim/ranks.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/event.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_MAX_BYTES 4096
#define STEPS_KEPT 32
#define EVENTS_AT_ONCE                                                                             \
    1000 /* of one rank in one poll: a flood must not hold up the control socket */

struct watch {
    int fd; /* of the journal, -1: not there yet */
    uint64_t offset;
    struct timespec beat;
    bool reported, terminated;
};
struct ranks {
    unsigned n, rank0;
    struct rank_record *records;
    struct watch *watches;
    uint64_t alive_ms, step_seen_ms;
    uint64_t steps_ms[STEPS_KEPT];
    unsigned n_steps;
    json_t *error, *done;
};

int ranks_new(const struct attempt *a, struct ranks **ret_ranks, struct lh_err *reterr)
{
    struct ranks *r = calloc(1, sizeof(*r));

    if (!r)
        return lh_err_set(reterr, -ENOMEM, "watch the ranks");
    r->n = a->n_local;
    r->rank0 = a->rank0;
    r->records = calloc(r->n, sizeof(*r->records));
    r->watches = calloc(r->n, sizeof(*r->watches));
    if (!r->records || !r->watches) {
        ranks_free(r);
        return lh_err_set(reterr, -ENOMEM, "watch the ranks");
    }
    for (unsigned i = 0; i < r->n; i++) {
        r->records[i].rank = r->rank0 + i;
        r->watches[i].fd = -1;
    }
    *ret_ranks = r;
    return 0;
}

void ranks_free(struct ranks *r)
{
    if (!r)
        return;
    for (unsigned i = 0; r->watches && i < r->n; i++)
        if (r->watches[i].fd >= 0)
            (void)close(r->watches[i].fd);
    free(r->records);
    free(r->watches);
    json_decref(r->error);
    json_decref(r->done);
    free(r);
}

static void read_record(struct rank_record *rec)
{
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    char path[64];

    (void)snprintf(path, sizeof(path), "ranks/rank-%u.json", rec->rank);
    if (lh_json_load(path, RECORD_MAX_BYTES, &o, NULL) < 0)
        return;
    rec->started = true;
    rec->pid = (int)lh_json_i64(o, "pid", 0);
    rec->started_ms = (uint64_t)lh_json_i64(o, "started_ms", 0);
    rec->ended_ms = (uint64_t)lh_json_i64(o, "ended_ms", 0);
    rec->ended = rec->ended_ms > 0;
    rec->exit = (int)lh_json_i64(o, "exit", -1);
    rec->signal = (int)lh_json_i64(o, "signal", 0);
}

static void on_event(struct ranks *r, struct watch *w, unsigned rank, json_t *line, uint64_t now_ms)
{
    const char *type = lh_json_str(line, "type", "");

    if (strcmp(type, "start") == 0)
        w->reported = true;
    if (strcmp(type, "step") == 0 && rank == 0) {
        if (r->step_seen_ms)
            r->steps_ms[r->n_steps++ % STEPS_KEPT] = now_ms - r->step_seen_ms;
        r->step_seen_ms = now_ms;
    }
    if (strcmp(type, "error") == 0) {
        json_decref(r->error);
        r->error = json_incref(line);
    }
    /* Rank 0 tells the result; another rank's word counts while rank 0 has said nothing. */
    if (strcmp(type, "done") == 0 && (rank == 0 || !r->done)) {
        json_decref(r->done);
        r->done = json_incref(line);
    }
}

static void read_journal(struct ranks *r, unsigned i, uint64_t now_ms)
{
    struct watch *w = &r->watches[i];
    unsigned rank = r->rank0 + i;
    json_t *line;
    char path[64];

    if (w->fd < 0) {
        (void)snprintf(path, sizeof(path), "out/events/rank-%u.jsonl", rank);
        w->fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (w->fd < 0)
        return;
    for (int n = 0; n < EVENTS_AT_ONCE && lh_journal_next(w->fd, &w->offset, &line) > 0; n++) {
        r->alive_ms = now_ms;
        on_event(r, w, rank, line, now_ms);
        json_decref(line);
    }
}

static void read_beat(struct ranks *r, unsigned i, uint64_t now_ms)
{
    struct watch *w = &r->watches[i];
    struct stat st;
    char path[64];

    (void)snprintf(path, sizeof(path), "out/events/rank-%u.beat", r->rank0 + i);
    if (stat(path, &st) < 0)
        return;
    if (st.st_mtim.tv_sec != w->beat.tv_sec || st.st_mtim.tv_nsec != w->beat.tv_nsec)
        r->alive_ms = now_ms;
    w->beat = st.st_mtim;
}

void ranks_poll(struct ranks *r, uint64_t now_ms)
{
    for (unsigned i = 0; i < r->n; i++) {
        if (!r->records[i].ended)
            read_record(&r->records[i]);
        if (!r->records[i].started)
            continue;
        read_journal(r, i, now_ms);
        read_beat(r, i, now_ms);
    }
}

const struct rank_record *ranks_records(const struct ranks *r, unsigned *ret_n)
{
    *ret_n = r->n;
    return r->records;
}

unsigned ranks_reported(const struct ranks *r)
{
    unsigned n = 0;

    for (unsigned i = 0; i < r->n; i++)
        n += r->watches[i].reported;
    return n;
}

uint64_t ranks_alive_ms(const struct ranks *r)
{
    return r->alive_ms;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

uint64_t ranks_median_step_ms(const struct ranks *r)
{
    uint64_t sorted[STEPS_KEPT];
    unsigned n = LH_MIN(r->n_steps, (unsigned)STEPS_KEPT);

    if (n == 0)
        return 0;
    memcpy(sorted, r->steps_ms, sizeof(sorted));
    qsort(sorted, n, sizeof(sorted[0]), compare_u64);
    return sorted[n / 2];
}

const json_t *ranks_error(const struct ranks *r)
{
    return r->error;
}

const json_t *ranks_done(const struct ranks *r)
{
    return r->done;
}

void ranks_signal(const struct ranks *r, int sig)
{
    for (unsigned i = 0; i < r->n; i++) {
        const struct rank_record *rec = &r->records[i];

        /* The rank's own process group; its parent, which would record the signal, is not in it. A
         * pid that ended is not used again while its parent has not waited, and the parent writes
         * the record right after. */
        if (rec->started && !rec->ended && rec->pid > 1)
            (void)kill(-rec->pid, sig);
    }
}

void ranks_terminate(struct ranks *r)
{
    for (unsigned i = 0; i < r->n; i++) {
        const struct rank_record *rec = &r->records[i];

        if (rec->started && !rec->ended && rec->pid > 1 && !r->watches[i].terminated) {
            (void)kill(-rec->pid, SIGTERM);
            r->watches[i].terminated = true;
        }
    }
}

json_t *ranks_json(const struct ranks *r, const char *node)
{
    json_t *list = json_array();

    for (unsigned i = 0; list && i < r->n; i++) {
        const struct rank_record *rec = &r->records[i];
        json_t *o;

        if (!rec->started)
            continue;
        o = json_pack("{s:i, s:s}", "rank", (int)rec->rank, "node", node);
        if (o && rec->ended) {
            (void)json_object_set_new(o, "exit", json_integer(rec->exit));
            (void)json_object_set_new(o, "signal", json_integer(rec->signal));
            (void)json_object_set_new(o, "ms",
                                      json_integer((json_int_t)(rec->ended_ms - rec->started_ms)));
        }
        (void)json_array_append_new(list, o);
    }
    return list;
}
