/* check.c - kind check: a gang tests itself for some seconds.
 *
 * Each round has three parts, and what each computes is known beforehand: a sum over all ranks, a
 * matrix product on every rank, a pattern written to and read back from the device's memory. All
 * values are small whole numbers, so fp32 holds them exactly and one wrong bit is seen. A stop
 * request is looked at between parts.
 */
#include "proto/base/clock.h"
#include "worker/run.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/fault.h"

#define MEMORY_CHUNK_BYTES (4 << 20)
#define MEMORY_CHUNKS 16 /* 64 MiB: beyond any cache that one rank has to itself */

struct check {
    struct run *run;
    int64_t sum_n, N;        /* floats of the sum, rows of the matrices */
    float *sum;              /* sum_n, host */
    float *a, *b, *c;        /* N x N each, host */
    float *da, *db, *dc;     /* the same on the device */
    uint8_t *pattern, *back; /* one chunk each, host */
    uint8_t *memory;         /* MEMORY_CHUNKS chunks, device */
    double *lines;           /* 3 N: what rows or columns add up to */
    int64_t rounds, errors;  /* of this rank */
    struct tally {
        int64_t n;
        double s;
    } tally[3]; /* of each part: times done, seconds measured */
    char first_error[200];
};

static int check_init(struct check *k, struct run *r, struct lh_err *reterr);
static void check_release(struct check *k);
static int check_rounds(struct check *k, bool *ret_stopped, struct lh_err *reterr);
static int check_report(struct check *k, struct lh_err *reterr);

int kind_check(struct run *r, struct lh_err *reterr)
{
    struct check k;
    bool stopped = false;
    int rc;

    rc = run_agree(r, check_init(&k, r, reterr), reterr);
    if (rc == 0)
        rc = check_rounds(&k, &stopped, reterr);
    if (rc == 0)
        rc = check_report(&k, reterr);
    check_release(&k);
    if (rc == 0 && stopped)
        rc = lh_err_set(reterr, LH_ESTOPPED, "stopped on request");
    return rc;
}

static int check_init(struct check *k, struct run *r, struct lh_err *reterr)
{
    size_t square;

    memset(k, 0, sizeof(*k));
    k->run = r;
    k->sum_n = r->job->check.allreduce_mib * (1 << 20) / (int64_t)sizeof(float);
    k->N = r->job->check.matrix;
    square = (size_t)(k->N * k->N) * sizeof(float);
    k->sum = malloc((size_t)k->sum_n * sizeof(float));
    k->a = malloc(square);
    k->b = malloc(square);
    k->c = malloc(square);
    k->lines = malloc((size_t)k->N * 3 * sizeof(*k->lines));
    k->pattern = malloc(MEMORY_CHUNK_BYTES);
    k->back = malloc(MEMORY_CHUNK_BYTES);
    k->da = r->ops->alloc(r->stream, square);
    k->db = r->ops->alloc(r->stream, square);
    k->dc = r->ops->alloc(r->stream, square);
    k->memory = r->ops->alloc(r->stream, (uint64_t)MEMORY_CHUNKS * MEMORY_CHUNK_BYTES);
    if (!k->sum || !k->a || !k->b || !k->c || !k->lines || !k->pattern || !k->back || !k->da ||
        !k->db || !k->dc || !k->memory)
        return lh_err_at(
            reterr, LH_ENOFIT, "/check",
            "the buffers of the self test do not fit into memory; lower check.allreduce_mib or "
            "check.matrix");
    return 0;
}

static void check_release(struct check *k)
{
    const struct kn_ops *ops = k->run->ops;
    struct kn_stream *s = k->run->stream;

    free(k->sum);
    free(k->a);
    free(k->b);
    free(k->c);
    free(k->lines);
    free(k->pattern);
    free(k->back);
    ops->free(s, k->da);
    ops->free(s, k->db);
    ops->free(s, k->dc);
    ops->free(s, k->memory);
}

static void found(struct check *k, const char *what, int64_t where, double got, double want)
{
    char host[65] = "";

    if (k->errors++ > 0)
        return;
    (void)gethostname(host, sizeof(host) - 1);
    (void)snprintf(k->first_error, sizeof(k->first_error),
                   "rank %d on %s, round %lld: %s %lld is %.9g, not %.9g", k->run->comm->rank, host,
                   (long long)k->rounds, what, (long long)where, got, want);
}

/* What rank r gives at i; over 1024 ranks the sum stays below 2^24. */
static float summand(int r, int64_t i, int64_t round)
{
    return (float)((i * 7 + r * 131 + round * 29) & 1023);
}

static int part_sum(struct check *k, struct lh_err *reterr)
{
    struct comm *c = k->run->comm;
    uint64_t t0;
    int rc;

    for (int64_t i = 0; i < k->sum_n; i++)
        k->sum[i] = summand(c->rank, i, k->rounds);
    t0 = lh_mono_ns();
    rc = c->ops->sum_f32(c, k->sum, k->sum_n, reterr);
    if (rc < 0)
        return rc;
    k->tally[0].s += (double)(lh_mono_ns() - t0) * 1e-9;
    /* summand has period 1024 in i: the expected values are counted once. */
    for (int64_t p = 0; p < LH_MIN(1024, k->sum_n); p++) {
        float want = 0;

        for (int r = 0; r < c->size; r++)
            want += summand(r, p, k->rounds);
        for (int64_t i = p; i < k->sum_n; i += 1024)
            if (k->sum[i] != want)
                found(k, "the sum over all ranks at", i, (double)k->sum[i], (double)want);
    }
    return 0;
}

/* Row sums (by_row) or column sums of the product, which follow from the factors in O(N^2); N * 9 *
 * N < 2^53. */
static void verify_product(struct check *k, bool by_row)
{
    int64_t N = k->N;
    double *inner = k->lines, *want = inner + N, *got = want + N;

    memset(k->lines, 0, (size_t)N * 3 * sizeof(*k->lines));
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < N; j++) {
            inner[by_row ? i : j] += (double)(by_row ? k->b : k->a)[i * N + j];
            got[by_row ? i : j] += (double)k->c[i * N + j];
        }
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < N; j++) {
            if (by_row)
                want[i] += (double)k->a[i * N + j] * inner[j];
            else
                want[j] += inner[i] * (double)k->b[i * N + j];
        }
    for (int64_t i = 0; i < N; i++)
        if (!(got[i] == want[i])) /* also catches NaN */
            found(k, by_row ? "the product's sum of row" : "the product's sum of column", i, got[i],
                  want[i]);
}

static int part_product(struct check *k, struct lh_err *reterr)
{
    struct run *r = k->run;
    int64_t N = k->N;
    uint64_t bytes = (uint64_t)(N * N) * sizeof(float), t0;
    struct kn_mat a = kn_mat(k->da, KN_F32, N, N), b = kn_mat(k->db, KN_F32, N, N),
                  c = kn_mat(k->dc, KN_F32, N, N);
    int rc;

    for (int64_t i = 0; i < N * N; i++) {
        k->a[i] = (float)((i * 5 + i / N * 3 + k->rounds) % 7 - 3);
        k->b[i] = (float)((i * 3 + i / N * 5 + k->rounds * 2) % 7 - 3);
    }
    memset(k->c, 0xff, bytes); /* NaN: what is not written is noticed */
    r->ops->upload(r->stream, k->da, k->a, bytes);
    r->ops->upload(r->stream, k->db, k->b, bytes);
    r->ops->upload(r->stream, k->dc, k->c, bytes);
    rc = r->ops->sync(r->stream, reterr);
    if (rc < 0)
        return rc;
    t0 = lh_mono_ns();
    r->ops->matmul(r->stream, c, a, false, b, false, 1.0f, 0.0f);
    rc = r->ops->sync(r->stream, reterr);
    if (rc < 0)
        return rc;
    k->tally[1].s += (double)(lh_mono_ns() - t0) * 1e-9;
    r->ops->download(r->stream, k->c, k->dc, bytes);
    rc = r->ops->sync(r->stream, reterr);
    if (rc < 0)
        return rc;
    verify_product(k, true);
    verify_product(k, false);
    return 0;
}

static void pattern_fill(uint8_t *p, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

    for (size_t i = 0; i < MEMORY_CHUNK_BYTES; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(p + i, &x, 8);
    }
}

/* Two passes, so that each chunk has left the caches before it is read back. */
static int part_memory(struct check *k, struct lh_err *reterr)
{
    struct run *r = k->run;
    uint64_t t0;
    int rc;

    for (int pass = 0; pass < 2; pass++)
        for (int n = 0; n < MEMORY_CHUNKS; n++) {
            uint8_t *at = k->memory + (size_t)n * MEMORY_CHUNK_BYTES;

            pattern_fill(k->pattern, (uint64_t)(k->rounds * MEMORY_CHUNKS + n));
            t0 = lh_mono_ns();
            if (pass == 0)
                r->ops->upload(r->stream, at, k->pattern, MEMORY_CHUNK_BYTES);
            else
                r->ops->download(r->stream, k->back, at, MEMORY_CHUNK_BYTES);
            rc = r->ops->sync(r->stream, reterr);
            if (rc < 0)
                return rc;
            k->tally[2].s += (double)(lh_mono_ns() - t0) * 1e-9;
            if (pass == 0 || memcmp(k->pattern, k->back, MEMORY_CHUNK_BYTES) == 0)
                continue;
            for (size_t i = 0; i < MEMORY_CHUNK_BYTES; i++)
                if (k->pattern[i] != k->back[i])
                    found(k, "the byte of memory at", (int64_t)n * MEMORY_CHUNK_BYTES + (int64_t)i,
                          k->back[i], k->pattern[i]);
        }
    return 0;
}

static int check_rounds(struct check *k, bool *ret_stopped, struct lh_err *reterr)
{
    static int (*const parts[])(struct check *, struct lh_err *) = {part_sum, part_product,
                                                                    part_memory};
    struct run *r = k->run;
    uint64_t start = lh_mono_ms();
    int64_t all_ms = (int64_t)(r->job->check.seconds * 1000), over = 0;
    bool checkpoint;
    int rc;

    while (!over && !*ret_stopped) {
        for (size_t p = 0; p < LH_ARRAY_LEN(parts) && !*ret_stopped; p++) {
            rc = run_agree(r, parts[p](k, reterr), reterr);
            k->tally[p].n++;
            if (rc == 0)
                rc = run_poll(r, &checkpoint, ret_stopped, reterr);
            if (rc < 0)
                return rc;
        }
        if (*ret_stopped)
            break;
        k->rounds++;
        lh_fault("check.round");
        over = (int64_t)(lh_mono_ms() - start) >= all_ms;
        rc = r->comm->ops->max_i64(r->comm, &over, 1, reterr);
        if (rc < 0)
            return rc;
        run_phase(r, "check", LH_MIN((int64_t)(lh_mono_ms() - start), all_ms) / 1000, all_ms / 1000,
                  "seconds");
    }
    return 0;
}

static double rate(const struct tally *t, double work)
{
    return t->s > 0 ? work * (double)t->n / t->s * 1e-9 : 0;
}

/* Rates of every rank in the result; the error of the lowest rank that has one as this job's error.
 */
static int check_report(struct check *k, struct lh_err *reterr)
{
    struct run *r = k->run;
    int size = r->comm->size, rc;
    double *rates = calloc((size_t)size * 3, sizeof(*rates));
    double N = (double)k->N, matmul = 0, memory = 0, errors = 0;
    json_t *ranks = json_array();

    if (!rates || !ranks) {
        free(rates);
        json_decref(ranks);
        return lh_err_set(reterr, -ENOMEM, "report of the self test");
    }
    rates[r->comm->rank * 3] = rate(&k->tally[1], 2 * N * N * N);
    rates[r->comm->rank * 3 + 1] = rate(&k->tally[2], 2.0 * MEMORY_CHUNKS * MEMORY_CHUNK_BYTES);
    rates[r->comm->rank * 3 + 2] = (double)k->errors;
    rc = r->comm->ops->sum_f64(r->comm, rates, 3 * (int64_t)size, reterr);
    for (int i = 0; rc == 0 && i < size; i++) {
        matmul += rates[i * 3];
        memory += rates[i * 3 + 1];
        errors += rates[i * 3 + 2];
        json_array_append_new(ranks, json_pack("{s:i, s:f, s:f, s:I}", "rank", i, "matmul_gflop_s",
                                               rates[i * 3], "memory_gb_s", rates[i * 3 + 1],
                                               "errors", (json_int_t)rates[i * 3 + 2]));
    }
    json_object_set_new(r->result, "rounds", json_integer(k->rounds));
    json_object_set_new(r->result, "errors", json_integer((json_int_t)errors));
    json_object_set_new(
        r->result, "allreduce_gb_s", /* one rank exchanges nothing */
        size == 1 ? json_null() : json_real(rate(&k->tally[0], (double)k->sum_n * sizeof(float))));
    json_object_set_new(r->result, "matmul_gflop_s", json_real(matmul));
    json_object_set_new(r->result, "memory_gb_s", json_real(memory));
    json_object_set_new(r->result, "ranks", ranks);
    free(rates);
    if (rc < 0)
        return rc;
    if (k->errors > 0)
        rc = lh_err_set(reterr, LH_ETRYAGAIN, "the self test found %lld errors; the first: %s",
                        (long long)k->errors, k->first_error);
    return run_agree(r, rc, reterr);
}
