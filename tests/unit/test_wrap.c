/* test_wrap.c - attention in rows that wrap against what it stands for: each shifted head rolled by
 * half a group, in whole groups, and rolled back (JOB-54). And what wraps in the model: never over
 * the end of a document. */
#include "tests/kernels/kn_test.h"
#include "tests/unit/tiny_model.h"
#include "worker/model/wrap.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 20

static const struct kn_ops *const ref = &kn_reference_ops;

struct problem {
    int64_t rows, groups, G, H, KV, D;
    struct kn_mat q, k, v, d_o, o, dq, dk, dv, lse;
    struct kn_segments seg;
    struct wrap wrap;
};

static struct kn_segments segments(const struct kn_segments_spec *spec)
{
    struct kn_segments seg;

    assert_int_equal(kn_segments_init(spec, &seg, NULL), 0);
    return seg;
}

static int64_t row_of(const struct problem *p)
{
    return p->groups * p->G;
}

static struct problem problem_new(struct kt_rng *r, enum kn_dtype t)
{
    static const int64_t heads[][2] = {{2, 1}, {4, 2}, {9, 3}, {3, 3}, {5, 1}};
    unsigned i = (unsigned)kt_between(r, 0, 4);
    struct problem p = {.rows = kt_between(r, 1, 3),
                        .groups = kt_between(r, 1, 4),
                        .G = 2 * kt_between(r, 1, 5),
                        .H = heads[i][0],
                        .KV = heads[i][1],
                        .D = 4};
    int64_t T = p.rows * row_of(&p), all = T + p.rows * p.G / 2;
    struct kn_segments_spec spec = {.rows = p.rows,
                                    .row_tokens = row_of(&p) + p.G / 2,
                                    .group = p.G,
                                    .heads = p.H,
                                    .wrap = true};
    struct kn_mat *wide[] = {&p.q, &p.d_o, &p.o, &p.dq}, *narrow[] = {&p.k, &p.v, &p.dk, &p.dv};
    void **room[] = {&p.wrap.room.q,   &p.wrap.room.k,  &p.wrap.room.v,  &p.wrap.room.o,
                     &p.wrap.room.d_o, &p.wrap.room.dq, &p.wrap.room.dk, &p.wrap.room.dv};

    for (int j = 0; j < 4; j++) {
        *wide[j] = kt_new(t, T, p.H * p.D, true);
        *narrow[j] = kt_new(t, T, p.KV * p.D, true);
    }
    p.lse = kt_new(KN_F32, p.H, T, false);
    kt_random(r, p.q, 1.0), kt_random(r, p.k, 1.0), kt_random(r, p.v, 1.0);
    kt_random(r, p.d_o, 1.0);
    p.seg = segments(&spec);
    p.wrap.rows = p.rows, p.wrap.row = row_of(&p), p.wrap.lead = p.G / 2;
    for (unsigned j = 0; j < sizeof(room) / sizeof(room[0]); j++)
        assert_non_null(*room[j] = calloc((size_t)(all * p.H * p.D), kn_dtype_bytes(t)));
    assert_non_null(p.wrap.room.lse = calloc((size_t)(all * p.H), sizeof(float)));
    return p;
}

static void problem_free(struct problem *p)
{
    struct kn_mat all[] = {p->q, p->k, p->v, p->d_o, p->o, p->dq, p->dk, p->dv, p->lse};
    void *room[] = {p->wrap.room.q,  p->wrap.room.k,   p->wrap.room.v,
                    p->wrap.room.o,  p->wrap.room.lse, p->wrap.room.d_o,
                    p->wrap.room.dq, p->wrap.room.dk,  p->wrap.room.dv};

    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        kt_free(all[i]);
    for (unsigned i = 0; i < sizeof(room) / sizeof(room[0]); i++)
        free(room[i]);
    kn_segments_release(&p->seg);
}

static void run(const struct kn_ops *ops, struct problem *p)
{
    struct device d = {.ops = ops};

    assert_int_equal(ops->stream_new(2, &d.stream, NULL), 0);
    wrap_attention_fwd(&d, &p->wrap, p->o, p->lse.p, p->q, p->k, p->v, &p->seg, p->H, p->KV, p->D,
                       0.7f);
    wrap_attention_bwd(&d, &p->wrap, p->dq, p->dk, p->dv, p->d_o, p->q, p->k, p->v, p->o, p->lse.p,
                       &p->seg, p->H, p->KV, p->D, 0.7f);
    assert_int_equal(ops->sync(d.stream, NULL), 0);
    ops->stream_free(d.stream);
}

/* One head of one row, rolled: row i of the result is row (i + by) % n of the head. */
static struct kn_mat rolled(struct kn_mat m, int64_t r0, int64_t n, int64_t col, int64_t D,
                            int64_t by)
{
    struct kn_mat x = kt_new(KN_F64, n, D, false);

    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < D; d++)
            kt_set(x, i, d, kt_get(m, r0 + (i + by) % n, col + d));
    return x;
}

/* Adds it to where it came from. */
static void roll_back(struct kn_mat to, struct kn_mat x, int64_t r0, int64_t col, int64_t by)
{
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t d = 0; d < x.cols; d++) {
            int64_t row = r0 + (i + by) % x.rows;

            kt_set(to, row, col + d, kt_get(to, row, col + d) + kt_get(x, i, d));
        }
    kt_free(x);
}

static void zero(struct kn_mat m)
{
    for (int64_t r = 0; r < m.rows; r++)
        for (int64_t c = 0; c < m.cols; c++)
            kt_set(m, r, c, 0);
}

/* As the paper's code does it, in fp64. */
static void roll_all(const struct problem *p, struct kn_mat o, struct kn_mat dq, struct kn_mat dk,
                     struct kn_mat dv)
{
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = row_of(p), .group = p->G, .heads = 2};
    struct kn_segments groups = segments(&spec); /* its first head is a plain one */
    struct kn_stream *s;
    int64_t n = row_of(p), D = p->D;

    zero(o), zero(dq), zero(dk), zero(dv);
    assert_int_equal(ref->stream_new(1, &s, NULL), 0);
    for (int64_t i = 0; i < p->rows * p->H; i++) {
        int64_t h = i % p->H, r0 = i / p->H * n, kv = h * p->KV / p->H,
                by = h >= p->H / 2 ? p->G / 2 : 0;
        struct kn_mat q = rolled(p->q, r0, n, h * D, D, by), k = rolled(p->k, r0, n, kv * D, D, by);
        struct kn_mat v = rolled(p->v, r0, n, kv * D, D, by),
                      d_o = rolled(p->d_o, r0, n, h * D, D, by);
        struct kn_mat out = kt_new(KN_F64, n, D, false), gq = kt_new(KN_F64, n, D, false);
        struct kn_mat gk = kt_new(KN_F64, n, D, false), gv = kt_new(KN_F64, n, D, false);
        struct kn_mat lse = kt_new(KN_F32, 1, n, false);

        ref->attention_fwd(s, out, lse.p, q, k, v, &groups, 1, 1, D, 0.7f);
        ref->attention_bwd(s, gq, gk, gv, d_o, q, k, v, out, lse.p, &groups, 1, 1, D, 0.7f);
        assert_int_equal(ref->sync(s, NULL), 0);
        roll_back(o, out, r0, h * D, by);
        roll_back(dq, gq, r0, h * D, by);
        roll_back(dk, gk, r0, kv * D, by);
        roll_back(dv, gv, r0, kv * D, by);
        kt_free(q), kt_free(k), kt_free(v), kt_free(d_o), kt_free(lse);
    }
    ref->stream_free(s);
    kn_segments_release(&groups);
}

static void check_rolls(const struct kn_ops *ops, enum kn_dtype t, struct kt_tol tol)
{
    struct kt_rng r = kt_rng(50);

    for (int i = 0; i < ROUNDS; i++) {
        struct problem p = problem_new(&r, t);
        struct kn_mat o = kt_f64(p.o), dq = kt_f64(p.dq), dk = kt_f64(p.dk), dv = kt_f64(p.dv);

        run(ops, &p);
        roll_all(&p, o, dq, dk, dv);
        kt_check(p.o, o, tol, "o");
        kt_check(p.dq, dq, tol, "dq");
        kt_check(p.dk, dk, tol, "dk");
        kt_check(p.dv, dv, tol, "dv");
        kt_free(o), kt_free(dq), kt_free(dk), kt_free(dv);
        problem_free(&p);
    }
}

static void rows_that_wrap_are_rolled_by_half_a_group(void **state)
{
    (void)state;
    check_rolls(ref, KN_F64, (struct kt_tol){1e-6, 1e-6}); /* lse is fp32 */
    check_rolls(&kn_cpu_ops, KN_F32, (struct kt_tol){1e-5, 2e-5});
    check_rolls(&kn_cpu_ops, KN_BF16, (struct kt_tol){1e-2, 2e-2});
}

/* ---- in the model ---- */

#define ROWS 2
#define ROW 24
#define GROUP 8
#define TOKENS (ROWS * ROW)

struct bench {
    int32_t ids[TOKENS], labels[TOKENS], documents[TOKENS];
    struct tiny tiny;
};

static const struct tiny_shape shape = {2, 16, 4, 2, 4, 26, 29, true};

static void bench_open(struct bench *b, const char *dir)
{
    struct tiny_options o = {.dir = dir,
                             .ops = ref,
                             .spec = tiny_spec(KN_F32),
                             .rows = ROWS,
                             .row_tokens = ROW,
                             .wrap_tokens = TOKENS + ROWS * GROUP / 2};

    for (int i = 0; i < TOKENS; i++)
        b->ids[i] = (int32_t)((tiny_random(9, (uint64_t)i) + 1) / 2 * shape.vocab);
    for (int i = 0; i < TOKENS; i++)
        b->labels[i] = i % ROW == ROW - 1 ? -100 : b->ids[i + 1];
    tiny_open(&b->tiny, &o);
}

/* The sum of nll; the gradients start at zero. */
static double train(struct bench *b, bool wrap, bool documents)
{
    struct llama *m = &b->tiny.model;
    struct llama_batch batch = {.rows = ROWS,
                                .row_tokens = ROW,
                                .ids = b->ids,
                                .labels = b->labels,
                                .documents = documents ? b->documents : NULL,
                                .group = GROUP,
                                .wrap = wrap};
    double nll;

    memset(m->params.grad, 0, (size_t)m->params.n_region * sizeof(float));
    assert_int_equal(llama_train(m, &batch, 1.0f / TOKENS, &nll, NULL), 0);
    return nll;
}

/* Tokens of a row whose loss differs from what it was. */
static int changed(const struct bench *b, const double was[TOKENS], int row)
{
    int n = 0;

    for (int t = row * ROW; t < (row + 1) * ROW; t++)
        n += fabs(b->tiny.model.nll[t] - was[t]) > 1e-6;
    return n;
}

static void only_rows_of_one_document_wrap(void **state)
{
    const char *dir = tiny_model_write(&shape, 33);
    double plain[TOKENS];
    struct bench b;

    (void)state;
    bench_open(&b, dir);
    (void)train(&b, false, false);
    memcpy(plain, b.tiny.model.nll, sizeof(plain));
    (void)train(&b, true, false);
    assert_true(changed(&b, plain, 0) >= GROUP / 2 && changed(&b, plain, 1) >= GROUP / 2);
    (void)train(&b, false, false); /* segments are not taken for the other form's */
    assert_int_equal(changed(&b, plain, 0), 0);
    for (int t = 0; t < TOKENS; t++)
        b.documents[t] = t < ROW ? 0 : t / 7; /* the second row has several */
    (void)train(&b, false, true);
    memcpy(plain, b.tiny.model.nll, sizeof(plain));
    (void)train(&b, true, true);
    assert_true(changed(&b, plain, 0) >= GROUP / 2);
    assert_int_equal(changed(&b, plain, 1), 0);
    tiny_close(&b.tiny);
    tiny_model_remove(dir);
}

static double loss_of(void *arg)
{
    return train(arg, true, false) / TOKENS;
}

static void gradients_match_finite_differences(void **state)
{
    const char *dir = tiny_model_write(&shape, 34);
    struct bench b;

    (void)state;
    bench_open(&b, dir);
    tiny_check_role(&b.tiny, PARAM_LORA_A, loss_of, &b);
    tiny_check_role(&b.tiny, PARAM_LORA_B, loss_of, &b);
    tiny_check_role(&b.tiny, PARAM_NORM_POST, loss_of, &b);
    tiny_check_role(&b.tiny, PARAM_EMBED, loss_of, &b);
    tiny_close(&b.tiny);
    tiny_model_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_that_wrap_are_rolled_by_half_a_group),
        cmocka_unit_test(only_rows_of_one_document_wrap),
        cmocka_unit_test(gradients_match_finite_differences),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
