/* profile.c - writes the trace while the run goes on, and sums the table; see profile.h.
 *
 * Events go into the file as they end, so memory stays small however long the run is, and a run
 * that is killed leaves a trace up to there (its readers take a list without an end).
 */
#include "worker/profile.h"
#include "proto/base/clock.h"
#include "worker/profile_rows.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 8
#define EVENTS_MAX ((int64_t)1 << 20) /* some 200 MB; a step of 30 layers makes about 3000 */
#define PEAK_N 2048                   /* side of the product that is the measure of products */
#define PEAK_ROUNDS 3
#define PEAK_COPY_ROWS 16384 /* 64 MiB of fp32 to and fro: beyond the caches of one core */

struct open_span {
    const char *name;
    uint64_t begin_ns, begin_busy_ns;
};

struct profile {
    FILE *file;
    int rank;
    uint64_t begin_ns;
    int64_t events;
    struct open_span open[DEPTH_MAX];
    int depth;
    int64_t outer; /* spans of sums.span[0] that have begun */
    double best;   /* of a measurement: the least busy seconds of a call */
    bool measuring;
    struct profile_sums sums;
};

int profile_open(const char *path, int rank, struct profile **ret_profile, struct lh_err *reterr)
{
    struct profile *p = calloc(1, sizeof(*p));
    char own[1100];

    if (!p)
        return lh_err_set(reterr, -ENOMEM, "a profile");
    (void)snprintf(own, sizeof(own), rank > 0 ? "%s.rank%d" : "%s", path, rank);
    p->file = fopen(own, "we");
    if (!p->file) {
        free(p);
        return lh_err_set(reterr, -errno, "--profile '%s'", own);
    }
    p->rank = rank;
    p->begin_ns = lh_mono_ns();
    (void)fprintf(p->file,
                  "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n"
                  "{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": %d, \"tid\": 0, "
                  "\"args\": {\"name\": \"rank %d\"}}",
                  rank, rank);
    *ret_profile = p;
    return 0;
}

/* True when the table counts what happens now. */
static bool counts(const struct profile *p)
{
    return p->depth > 0 && p->sums.n_spans > 0 &&
           strcmp(p->open[0].name, p->sums.span[0].name) == 0;
}

static bool write_event(struct profile *p, const char *name, const char *kind, uint64_t begin_ns,
                        uint64_t wall_ns)
{
    if (p->events == EVENTS_MAX) {
        p->sums.events_left_out++;
        return false;
    }
    p->events++;
    (void)fprintf(p->file,
                  ",\n{\"name\": \"%s\", \"cat\": \"%s\", \"ph\": \"X\", \"pid\": %d, \"tid\": 0, "
                  "\"ts\": %.3f, \"dur\": %.3f",
                  name, kind, p->rank, (double)(begin_ns - p->begin_ns) * 1e-3,
                  (double)wall_ns * 1e-3);
    return true;
}

static void on_op(void *arg, const struct kn_op_call *call)
{
    struct profile *p = arg;
    double busy = (double)call->busy_ns * 1e-9;

    if (p->measuring) {
        p->best = p->best > 0 ? LH_MIN(p->best, busy) : busy;
        return;
    }
    if (counts(p))
        profile_row_add(profile_row_of(&p->sums, call), call);
    if (!write_event(p, call->op, "op", call->begin_ns, call->wall_ns))
        return;
    (void)fprintf(p->file,
                  ", \"args\": {\"rows\": %lld, \"cols\": %lld, \"inner\": %lld, \"gflop\": %.6f, "
                  "\"mb\": %.6f, \"busy_us\": %.3f}}",
                  (long long)call->rows, (long long)call->cols, (long long)call->inner,
                  call->flop * 1e-9, call->bytes * 1e-6, (double)call->busy_ns * 1e-3);
}

/* Fills m with numbers of both signs: processors draw less power, and clock higher, on equal ones.
 */
static int fill_random(const struct kn_ops *ops, struct kn_stream *s, struct kn_mat m,
                       struct lh_err *reterr)
{
    uint64_t n = (uint64_t)(m.rows * m.cols), random = 1;
    float *host = malloc(n * sizeof(*host));

    assert(m.t == KN_F32);
    if (!host)
        return lh_err_set(reterr, -ENOMEM, "numbers to measure the machine with");
    for (uint64_t i = 0; i < n; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        host[i] = (float)(int32_t)(random >> 32) * 0x1p-31f;
    }
    ops->upload(s, m.p, host, n * sizeof(*host));
    free(host);
    return 0;
}

/* A large product and a large copy: what the ops of this run are held against. The block holds two
 * matrices of fp32, then three of t in the place of the second. */
static int measure(struct profile *p, const struct kn_ops *ops, struct kn_stream *s,
                   enum kn_dtype t, struct lh_err *reterr)
{
    uint64_t half = (uint64_t)PEAK_COPY_ROWS * 1024 * sizeof(float);
    uint64_t matrix = (uint64_t)PEAK_N * PEAK_N * kn_dtype_bytes(t);
    char *block = ops->alloc(s, 2 * half);
    struct kn_mat from, to, m[3];
    int rc;

    static_assert((uint64_t)PEAK_COPY_ROWS * 1024 >= 3ull * PEAK_N * PEAK_N, "three fit a half");
    if (!block)
        return lh_err_set(reterr, -ENOMEM, "%llu bytes to measure the machine with",
                          (unsigned long long)(2 * half));
    from = kn_mat(block, KN_F32, PEAK_COPY_ROWS, 1024);
    to = kn_mat(block + half, KN_F32, PEAK_COPY_ROWS, 1024);
    rc = fill_random(ops, s, from, reterr);
    p->best = 0;
    for (int i = 0; i < PEAK_ROUNDS; i++)
        ops->copy(s, to, from);
    p->sums.copy_rate = p->best > 0 ? 2 * (double)half / p->best : 0;
    for (int i = 0; i < 3; i++) {
        m[i] = kn_mat(block + half + (uint64_t)i * matrix, t, PEAK_N, PEAK_N);
        ops->copy(s, m[i],
                  kn_mat(block + (uint64_t)i * PEAK_N * sizeof(float), KN_F32, PEAK_N, PEAK_N));
    }
    p->best = 0;
    for (int i = 0; i < PEAK_ROUNDS; i++)
        ops->matmul(s, m[2], m[0], false, m[1], true, 1, 0);
    p->sums.product_rate = p->best > 0 ? 2.0 * PEAK_N * PEAK_N * PEAK_N / p->best : 0;
    ops->free(s, block);
    return rc < 0 ? rc : ops->sync(s, reterr);
}

int profile_stream(struct profile *p, const struct kn_ops *inner, int threads, enum kn_dtype t,
                   double peak, const struct kn_ops **ret_ops, struct kn_stream **ret_stream,
                   struct lh_err *reterr)
{
    const struct kn_ops *ops;
    struct kn_stream *s;
    int rc = kn_profile_new(inner, threads, on_op, p, &ops, &s, reterr);

    if (rc < 0)
        return rc;
    p->sums.device = inner->name;
    p->sums.threads = threads;
    p->sums.peak_rate = peak;
    if (strcmp(inner->name, "reference") != 0) { /* that one is not about speed */
        p->measuring = true;
        rc = measure(p, ops, s, t, reterr);
        p->measuring = false;
    }
    if (rc < 0) {
        ops->stream_free(s);
        return rc;
    }
    *ret_ops = ops;
    *ret_stream = s;
    return 0;
}

/* The sums of a phase, or NULL where there is no more room for names. */
static struct profile_span *span_of(struct profile *p, const char *name, int depth)
{
    struct profile_sums *s = &p->sums;

    for (unsigned i = 0; i < s->n_spans; i++)
        if (s->span[i].depth == depth && strcmp(s->span[i].name, name) == 0)
            return &s->span[i];
    if (s->n_spans == PROFILE_SPANS_MAX)
        return NULL;
    s->span[s->n_spans] = (struct profile_span){.name = name, .depth = depth};
    return &s->span[s->n_spans++];
}

/* Forgets what the first outermost span has left in the table. */
static void leave_out_first(struct profile *p)
{
    struct profile_sums *s = &p->sums;

    s->n_rows = 0;
    for (unsigned i = 0; i < s->n_spans; i++)
        s->span[i] = (struct profile_span){.name = s->span[i].name, .depth = s->span[i].depth};
    s->first_left_out = true;
}

void profile_begin(struct profile *p, const char *name)
{
    if (!p)
        return;
    assert(p->depth < DEPTH_MAX);
    p->open[p->depth++] = (struct open_span){name, lh_mono_ns(), lh_cpu_ns()};
    if (p->depth > 1)
        return;
    (void)span_of(p, name, 0);
    if (counts(p) && ++p->outer == 2)
        leave_out_first(p);
}

void profile_end(struct profile *p)
{
    struct open_span *o;
    struct profile_span *span;
    uint64_t wall_ns;

    if (!p)
        return;
    assert(p->depth > 0);
    o = &p->open[p->depth - 1];
    wall_ns = lh_mono_ns() - o->begin_ns;
    span = counts(p) ? span_of(p, o->name, p->depth - 1) : NULL;
    if (span) {
        span->calls++;
        span->seconds += (double)wall_ns * 1e-9;
        span->busy += (double)(lh_cpu_ns() - o->begin_busy_ns) * 1e-9;
    }
    p->depth--;
    if (write_event(p, o->name, "phase", o->begin_ns, wall_ns))
        (void)fputs("}", p->file);
}

int profile_finish(struct profile *p, struct lh_err *reterr)
{
    json_t *table, *value;
    const char *key;
    int rc = 0;

    while (p->depth > 0)
        profile_end(p);
    table = profile_json(p);
    (void)fputs("\n]", p->file);
    json_object_foreach(table, key, value)
    {
        (void)fprintf(p->file, ",\n\"%s\": ", key);
        (void)json_dumpf(value, p->file, JSON_REAL_PRECISION(9));
    }
    (void)fputs("}\n", p->file);
    if (!table)
        rc = lh_err_set(reterr, -ENOMEM, "the table of the profile");
    if (ferror(p->file) && rc == 0)
        rc = lh_err_set(reterr, -EIO, "writing the profile");
    if (fclose(p->file) != 0 && rc == 0)
        rc = lh_err_set(reterr, -errno, "writing the profile");
    p->file = NULL;
    json_decref(table);
    return rc;
}

void profile_print(const struct profile *p, FILE *out)
{
    profile_sums_print(&p->sums, out);
}

json_t *profile_json(const struct profile *p)
{
    return profile_sums_json(&p->sums);
}

void profile_free(struct profile *p)
{
    if (!p)
        return;
    if (p->file)
        (void)fclose(p->file);
    free(p);
}
