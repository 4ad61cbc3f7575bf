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
    uint64_t n_records, n_dropped;
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

/* What one thread works with. */
struct worker {
    const struct tokenize_job *job;
    struct tokenizer_scratch *words;
    struct dialog_scratch *dialog;
    struct slot *slot;
};

static int end_document(struct slot *s, int64_t separator)
{
    bool empty = s->ids.n == (s->n_ends ? s->ends[s->n_ends - 1] : 0) && s->unit.kind != UNIT_PLAIN;

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

static int bad_entry(const struct slot *s, uint64_t number, const char *what, struct lh_err *reterr)
{
    return lh_err_set(reterr, LH_EINPUT, "'%s', %s %llu: %s", s->unit.path,
                      s->unit.kind == UNIT_LINES ? "line" : "record", (unsigned long long)number,
                      what);
}

static int out_of_memory(struct slot *s)
{
    return lh_err_set(&s->err, -ENOMEM, "tokenise '%s'", s->unit.path);
}

/* A line of texts: the member that the job names. */
static int encode_text(struct worker *w, const json_t *object, uint64_t line)
{
    const char *field = w->job->field;
    const json_t *value = json_object_get(object, field);
    struct slot *s = w->slot;
    char what[256];
    int rc;

    if (!json_is_string(value)) {
        (void)snprintf(what, sizeof(what),
                       "%s '%.64s'; data.field names the member that holds the text",
                       value ? "there is no text in member" : "it has no member", field);
        return bad_entry(s, line, what, &s->err);
    }
    rc = tokenizer_encode_with(w->job->tokenizer, w->words, json_string_value(value),
                               json_string_length(value), true, &s->ids, &s->err);
    if (rc == 0 && end_document(s, tokenizer_separator(w->job->tokenizer)) < 0)
        rc = out_of_memory(s);
    return rc;
}

static int encode_record(struct worker *w, const json_t *record, uint64_t number)
{
    struct slot *s = w->slot;
    struct lh_err why = {0};
    int rc = dialog_encode(w->job->dialog, w->dialog, w->words, record, &s->ids, &why);

    if (rc == LH_EINPUT)
        return bad_entry(s, number, why.text, &s->err);
    if (rc < 0) {
        s->err = why;
        return rc;
    }
    s->n_records++;
    s->n_dropped += rc == 0;
    return rc > 0 && end_document(s, -1) < 0 ? out_of_memory(s) : 0;
}

/* Parses one object at text and encodes it; *ret_n: the bytes that it took, of at most len. */
static int encode_object(struct worker *w, const char *text, size_t len, uint64_t number,
                         size_t flags, size_t *ret_n)
{
    json_error_t je;
    json_t *object = json_loadb(text, len, flags | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    char what[256];
    int rc;

    if (!object) {
        (void)snprintf(what, sizeof(what), "not valid JSON: %s", je.text);
        return bad_entry(w->slot, number, what, &w->slot->err);
    }
    *ret_n = (size_t)je.position;
    rc = w->job->dialog ? encode_record(w, object, number) : encode_text(w, object, number);
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

static int encode_lines(struct worker *w)
{
    struct slot *s = w->slot;
    const char *at = s->unit.text, *end = at + s->unit.len;
    uint64_t line = s->unit.first;
    size_t taken;
    int rc = 0;

    for (; at < end && rc == 0; line++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((newline ? newline : end) - at);

        if (utf8_valid_prefix(at, len) < len)
            return bad_entry(s, line, "it is not valid UTF-8", &s->err);
        if (!blank(at, len))
            rc = encode_object(w, at, len, line, 0, &taken);
        at += len + 1;
    }
    return rc;
}

/* What stands between records has been checked when they were found. */
static int encode_records(struct worker *w)
{
    struct slot *s = w->slot;
    const char *at = s->unit.text, *end = at + s->unit.len;
    uint64_t number = s->unit.first;
    int rc = 0;

    for (;; number++) {
        size_t taken = 0;

        while (at < end && *at != '{')
            at++;
        if (at == end || rc < 0)
            return rc;
        rc = encode_object(w, at, (size_t)(end - at), number, JSON_DISABLE_EOF_CHECK, &taken);
        at += taken;
    }
}

static int encode_part(struct worker *w)
{
    const struct tokenizer *t = w->job->tokenizer;
    struct slot *s = w->slot;
    const struct tokenizer_part part = {.special = true, .continues = s->unit.offset > 0};
    size_t valid = utf8_valid_prefix(s->unit.text, s->unit.len);
    int rc;

    if (valid < s->unit.len)
        return lh_err_set(
            &s->err, LH_EINPUT,
            "'%s' is not valid UTF-8 at byte %llu; convert it (iconv -t utf-8) or leave it out",
            s->unit.path, (unsigned long long)(s->unit.offset + valid));
    rc = tokenizer_encode_part(t, w->words, s->unit.text, s->unit.len, &part, &s->ids, &s->err);
    if (rc == 0 && s->unit.ends_document && end_document(s, tokenizer_separator(t)) < 0)
        rc = out_of_memory(s);
    return rc;
}

static int encode_unit(struct worker *w)
{
    struct slot *s = w->slot;

    s->ids.n = 0;
    s->n_ends = 0;
    s->n_records = s->n_dropped = 0;
    if (!w->words || !w->dialog)
        return out_of_memory(s);
    switch (s->unit.kind) {
    case UNIT_LINES:
        return encode_lines(w);
    case UNIT_RECORDS:
        return encode_records(w);
    case UNIT_PLAIN:
        break;
    }
    return encode_part(w);
}

static void *work(void *arg)
{
    struct ring *r = arg;
    struct worker w = {
        .job = r->job, .words = tokenizer_scratch_new(), .dialog = dialog_scratch_new()};

    (void)pthread_mutex_lock(&r->lock);
    for (;;) {
        while (r->next_take == r->n_filled && !r->closing)
            (void)pthread_cond_wait(&r->filled, &r->lock);
        if (r->closing)
            break;
        w.slot = &r->slots[r->next_take++ % r->n_slots];
        w.slot->state = SLOT_TAKEN;
        (void)pthread_mutex_unlock(&r->lock);
        w.slot->rc = encode_unit(&w);
        (void)pthread_mutex_lock(&r->lock);
        w.slot->state = SLOT_DONE;
        (void)pthread_cond_signal(&r->done);
    }
    (void)pthread_mutex_unlock(&r->lock);
    tokenizer_scratch_free(w.words);
    dialog_scratch_free(w.dialog);
    return NULL;
}

/* Ids [from, to) of a slot, which has no array when its unit gave none. */
static int write_ids(struct shard_writer *w, const struct slot *s, size_t from, size_t to,
                     struct lh_err *reterr)
{
    return from < to ? shard_writer_append(w, s->ids.at + from, to - from, reterr) : 0;
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
        rc = write_ids(w, s, from, s->ends[i], reterr);
        if (rc == 0)
            rc = shard_writer_end(w, reterr);
        from = s->ends[i];
    }
    if (rc == 0)
        rc = write_ids(w, s, from, s->ids.n, reterr);
    s->state = SLOT_FREE;
    w->n_records += s->n_records;
    w->n_dropped += s->n_dropped;
    if (rc == 0 && r->job->mark)
        rc = r->job->mark(r->job->mark_arg, &s->unit.after, w, reterr);
    if (rc == 0 && r->job->progress)
        r->job->progress(r->job->arg, s->unit.done_bytes, r->job->all_bytes, w->n_documents);
    return rc;
}

static int run_ring(struct ring *r, struct shard_writer *w, struct lh_err *reterr)
{
    struct unit_reader reader = {
        .list = r->job->inputs,
        .cut_documents = tokenizer_cuts_at_spaces(r->job->tokenizer),
        .cut_lines = tokenizer_cuts_at_lines(r->job->tokenizer),
        .records = r->job->dialog != NULL,
        .target = r->job->unit_bytes ? r->job->unit_bytes : UNIT_BYTES,
    };
    uint64_t written = 0;
    int more = 1, rc = 0;

    unit_reader_begin(&reader, &r->job->from);
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
