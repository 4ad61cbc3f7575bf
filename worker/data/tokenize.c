/* tokenize.c - see tokenize.h.
 *
 * Slots form a ring. The calling thread fills free slots with units and writes finished ones in
 * order; workers take the oldest unit that is filled. A slot belongs to whoever its state says, so
 * only states need the lock:
 *
 *   FREE --caller reads--> FILLED --worker takes--> TAKEN --worker encodes--> DONE --caller
 * writes--> FREE
 */
#include "worker/data/tokenize.h"
#include "proto/base/json.h"
#include "worker/data/units.h"
#include "worker/text/utf8.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_BYTES ((size_t)1 << 20)
#define THREADS_MAX 1024

enum slot_state { SLOT_FREE, SLOT_FILLED, SLOT_TAKEN, SLOT_DONE };

struct slot {
    enum slot_state state;
    struct unit unit;
    struct token_list ids;
    size_t *ends; /* in ids: where documents end */
    size_t n_ends, ends_cap;
    int rc;
    struct lh_err err;
};

struct ring {
    const struct tokenize_job *job;
    pthread_mutex_t lock;
    pthread_cond_t filled, done;
    struct slot *slots;
    unsigned n_slots;
    uint64_t next_take; /* unit number the next idle worker takes */
    uint64_t n_filled;
    bool closing;
};

static int end_document(struct slot *s, int64_t separator)
{
    bool empty = s->ids.n == (s->n_ends ? s->ends[s->n_ends - 1] : 0) && s->unit.lines;

    if (empty)
        return 0;
    if (separator >= 0) {
        if (token_list_append(&s->ids, (int32_t)separator) < 0)
            return -ENOMEM;
    }
    if (s->n_ends == s->ends_cap) {
        size_t cap = s->ends_cap ? 2 * s->ends_cap : 256;
        size_t *more = realloc(s->ends, cap * sizeof(*more));

        if (!more)
            return -ENOMEM;
        s->ends = more;
        s->ends_cap = cap;
    }
    s->ends[s->n_ends++] = s->ids.n;
    return 0;
}

static int bad_line(const struct slot *s, uint64_t line, const char *what, struct lh_err *reterr)
{
    return lh_err_set(reterr, LH_EINPUT, "'%s', line %llu: %s", s->unit.path,
                      (unsigned long long)line, what);
}

static int encode_line(const struct tokenize_job *job, struct tokenizer_scratch *scratch,
                       struct slot *s, const char *text, size_t len, uint64_t line)
{
    struct lh_err *reterr = &s->err;
    json_error_t je;
    const json_t *value;
    json_t *object;
    char what[256];
    int rc;

    if (utf8_valid_prefix(text, len) < len)
        return bad_line(s, line, "it is not valid UTF-8", reterr);
    object = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (!object) {
        (void)snprintf(what, sizeof(what), "not valid JSON: %s", je.text);
        return bad_line(s, line, what, reterr);
    }
    value = json_object_get(object, job->field);
    if (!json_is_string(value)) {
        (void)snprintf(what, sizeof(what),
                       "%s '%.64s'; data.field names the member that holds the text",
                       value ? "there is no text in member" : "it has no member", job->field);
        rc = bad_line(s, line, what, reterr);
    } else {
        rc = tokenizer_encode_with(job->tokenizer, scratch, json_string_value(value),
                                   json_string_length(value), true, &s->ids, reterr);
        if (rc == 0 && end_document(s, tokenizer_separator(job->tokenizer)) < 0)
            rc = lh_err_set(reterr, -ENOMEM, "tokenise '%s'", s->unit.path);
    }
    json_decref(object);
    return rc;
}

static bool blank(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!strchr(" \t\r\n", text[i]) || text[i] == '\0')
            return false;
    }
    return true;
}

static int encode_lines(const struct tokenize_job *job, struct tokenizer_scratch *scratch,
                        struct slot *s)
{
    const char *at = s->unit.text, *end = at + s->unit.len;
    uint64_t line = s->unit.first_line;
    int rc = 0;

    for (; at < end && rc == 0; line++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((newline ? newline : end) - at);

        if (!blank(at, len))
            rc = encode_line(job, scratch, s, at, len, line);
        at += len + 1;
    }
    return rc;
}

static int encode_part(const struct tokenize_job *job, struct tokenizer_scratch *scratch,
                       struct slot *s)
{
    size_t valid = utf8_valid_prefix(s->unit.text, s->unit.len);
    int rc;

    if (valid < s->unit.len)
        return lh_err_set(
            &s->err, LH_EINPUT,
            "'%s' is not valid UTF-8 at byte %llu; convert it (iconv -t utf-8) or leave it out",
            s->unit.path, (unsigned long long)(s->unit.offset + valid));
    rc = tokenizer_encode_with(job->tokenizer, scratch, s->unit.text, s->unit.len, true, &s->ids,
                               &s->err);
    if (rc == 0 && s->unit.ends_document &&
        end_document(s, tokenizer_separator(job->tokenizer)) < 0)
        rc = lh_err_set(&s->err, -ENOMEM, "tokenise '%s'", s->unit.path);
    return rc;
}

static void *work(void *arg)
{
    struct ring *r = arg;
    struct tokenizer_scratch *scratch = tokenizer_scratch_new();

    (void)pthread_mutex_lock(&r->lock);
    for (;;) {
        struct slot *s;

        while (r->next_take == r->n_filled && !r->closing)
            (void)pthread_cond_wait(&r->filled, &r->lock);
        if (r->closing)
            break;
        s = &r->slots[r->next_take++ % r->n_slots];
        s->state = SLOT_TAKEN;
        (void)pthread_mutex_unlock(&r->lock);
        s->ids.n = 0;
        s->n_ends = 0;
        if (!scratch)
            s->rc = lh_err_set(&s->err, -ENOMEM, "tokenise '%s'", s->unit.path);
        else
            s->rc =
                s->unit.lines ? encode_lines(r->job, scratch, s) : encode_part(r->job, scratch, s);
        (void)pthread_mutex_lock(&r->lock);
        s->state = SLOT_DONE;
        (void)pthread_cond_signal(&r->done);
    }
    (void)pthread_mutex_unlock(&r->lock);
    tokenizer_scratch_free(scratch);
    return NULL;
}

/* Waits for the slot's worker, writes what it made, frees the slot. */
static int write_slot(struct ring *r, struct slot *s, struct shard_writer *w, struct lh_err *reterr)
{
    size_t from = 0;
    int rc = 0;

    (void)pthread_mutex_lock(&r->lock);
    while (s->state != SLOT_DONE)
        (void)pthread_cond_wait(&r->done, &r->lock);
    (void)pthread_mutex_unlock(&r->lock);
    if (s->rc < 0) {
        if (reterr)
            *reterr = s->err;
        return s->rc;
    }
    for (size_t i = 0; i < s->n_ends && rc == 0; i++) {
        rc = shard_writer_append(w, s->ids.at + from, s->ends[i] - from, reterr);
        if (rc == 0)
            rc = shard_writer_end(w, reterr);
        from = s->ends[i];
    }
    if (rc == 0)
        rc = shard_writer_append(w, s->ids.at + from, s->ids.n - from, reterr);
    s->state = SLOT_FREE;
    if (rc == 0 && r->job->progress)
        r->job->progress(r->job->arg, s->unit.done_bytes, r->job->all_bytes, w->n_documents);
    return rc;
}

static int run_ring(struct ring *r, struct shard_writer *w, struct lh_err *reterr)
{
    struct unit_reader reader = {
        .list = r->job->inputs,
        .cut_documents = tokenizer_cuts_at_spaces(r->job->tokenizer),
        .target = r->job->unit_bytes ? r->job->unit_bytes : UNIT_BYTES,
    };
    uint64_t written = 0;
    int more = 1, rc = 0;

    while (rc == 0 && (more || written < r->n_filled)) {
        if (more && r->n_filled - written < r->n_slots) {
            struct slot *s = &r->slots[r->n_filled % r->n_slots];

            more = unit_next(&reader, &s->unit, reterr);
            if (more < 0)
                rc = more;
            if (more <= 0)
                continue;
            (void)pthread_mutex_lock(&r->lock);
            s->state = SLOT_FILLED;
            r->n_filled++;
            (void)pthread_cond_signal(&r->filled);
            (void)pthread_mutex_unlock(&r->lock);
        } else {
            rc = write_slot(r, &r->slots[written++ % r->n_slots], w, reterr);
        }
    }
    unit_reader_release(&reader);
    return rc;
}

int tokenize_inputs(const struct tokenize_job *job, struct shard_writer *w, struct lh_err *reterr)
{
    struct ring r = {.job = job, .n_slots = 2 * (unsigned)LH_MIN(job->threads, THREADS_MAX) + 2};
    pthread_t threads[THREADS_MAX];
    int started = 0, rc = 0;

    r.slots = calloc(r.n_slots, sizeof(*r.slots));
    if (!r.slots)
        return lh_err_set(reterr, -ENOMEM, "tokenise");
    (void)pthread_mutex_init(&r.lock, NULL);
    (void)pthread_cond_init(&r.filled, NULL);
    (void)pthread_cond_init(&r.done, NULL);
    for (; started < LH_MIN(job->threads, THREADS_MAX) && rc == 0; started += rc == 0) {
        rc = pthread_create(&threads[started], NULL, work, &r);
        if (rc != 0)
            rc = lh_err_set(reterr, -rc, "start a thread");
    }
    if (rc == 0)
        rc = run_ring(&r, w, reterr);
    (void)pthread_mutex_lock(&r.lock);
    r.closing = true;
    (void)pthread_cond_broadcast(&r.filled);
    (void)pthread_mutex_unlock(&r.lock);
    for (int i = 0; i < started; i++)
        (void)pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < r.n_slots; i++) {
        free(r.slots[i].unit.text);
        free(r.slots[i].ends);
        token_list_release(&r.slots[i].ids);
    }
    free(r.slots);
    (void)pthread_mutex_destroy(&r.lock);
    (void)pthread_cond_destroy(&r.filled);
    (void)pthread_cond_destroy(&r.done);
    return rc;
}
