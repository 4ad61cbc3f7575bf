/* test_cpu_ops.c - the ops that are neither products nor attention, CPU against reference, both
 * element types. */
#include "tests/kernels/kn_test.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct kn_ops *const cpu = &kn_cpu_ops, *const ref = &kn_reference_ops;
static const enum kn_dtype types[] = {KN_F32, KN_BF16};
static const int64_t shapes[][2] = {{1, 1}, {3, 16}, {5, 17}, {70, 576}, {33, 1000}, {300, 250}};
#define N_SHAPES (int)(sizeof(shapes) / sizeof(shapes[0]))
#define CASES(i, t)                                                                                \
    for (int i = 0; i < N_SHAPES; i++)                                                             \
        for (int t = 0; t < 2; t++)

/* bf16: one rounding is up to 2^-8 of an element, and the smallest matrix is one element. */
static struct kt_tol tol(enum kn_dtype t)
{
    return t == KN_F32 ? (struct kt_tol){2e-6, 1e-5} : (struct kt_tol){4e-3, 8e-3};
}

/* The streams of one comparison: the reference's and the CPU's with 1 to 3 threads. */
struct streams {
    struct kn_stream *ref, *cpu[3];
};

static struct streams streams_new(void)
{
    return (struct streams){kt_stream(ref, 1),
                            {kt_stream(cpu, 1), kt_stream(cpu, 2), kt_stream(cpu, 3)}};
}

static void streams_free(struct streams *s)
{
    kt_sync(ref, s->ref);
    ref->stream_free(s->ref);
    for (int i = 0; i < 3; i++) {
        kt_sync(cpu, s->cpu[i]);
        cpu->stream_free(s->cpu[i]);
    }
}

static struct kn_mat random_mat(struct kt_rng *r, enum kn_dtype t, int64_t rows, int64_t cols,
                                double size)
{
    struct kn_mat m = kt_new(t, rows, cols, true);

    kt_random(r, m, size);
    return m;
}

static float *random_row(struct kt_rng *r, int64_t n, double mean, double size)
{
    float *x = malloc((size_t)n * sizeof(*x));

    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(mean + size * kt_normal(r));
    return x;
}

static struct kn_mat row(const float *x, int64_t n)
{
    struct kn_mat m = kt_new(KN_F32, 1, n, false);

    memcpy(m.p, x, (size_t)n * sizeof(*x));
    return m;
}

static struct kn_mat row_f64(const float *x, int64_t n)
{
    struct kn_mat m = row(x, n), d = kt_f64(m);

    kt_free(m);
    return d;
}

static void embedding_rows_are_copied_and_their_gradients_added_in_token_order(void **state)
{
    struct kt_rng r = kt_rng(40);

    (void)state;
    CASES(i, t)
    {
        int64_t T = shapes[i][0], C = shapes[i][1], V = 7;
        struct streams s = streams_new();
        struct kn_mat table = random_mat(&r, types[t], V, C, 1.0),
                      dx = random_mat(&r, types[t], T, C, 1.0);
        struct kn_mat dtable = random_mat(&r, KN_F32, V, C, 1.0), first = {0};
        struct kn_mat x64 = kt_new(KN_F64, T, C, false), table64 = kt_f64(table), dx64 = kt_f64(dx),
                      dtable64 = kt_f64(dtable);
        int32_t *id = malloc((size_t)T * sizeof(*id));

        for (int64_t k = 0; k < T; k++)
            id[k] = (int32_t)kt_between(&r, 0, V - 1);
        ref->embed_fwd(s.ref, x64, table64, id);
        ref->embed_bwd(s.ref, dtable64, dx64, id);
        for (int k = 0; k < 3; k++) {
            struct kn_mat x = kt_new(types[t], T, C, true), d = kt_copy(dtable);

            cpu->embed_fwd(s.cpu[k], x, table, id);
            cpu->embed_bwd(s.cpu[k], d, dx, id);
            kt_check(x, x64, ((struct kt_tol){0, 0}), "x");
            kt_check(d, dtable64, tol(KN_F32), "dtable");
            if (k == 0)
                first = kt_copy(d);
            kt_check_same_bits(d, first, "dtable with %d threads", k + 1);
            kt_free(x), kt_free(d);
        }
        streams_free(&s);
        free(id);
        kt_free(table), kt_free(dx), kt_free(dtable), kt_free(first);
        kt_free(x64), kt_free(table64), kt_free(dx64), kt_free(dtable64);
    }
}

static void rmsnorm_and_its_gradients_match_the_reference(void **state)
{
    struct kt_rng r = kt_rng(41);

    (void)state;
    CASES(i, t)
    {
        int64_t T = shapes[i][0], C = shapes[i][1];
        struct streams s = streams_new();
        struct kn_mat x = random_mat(&r, types[t], T, C, 3.0),
                      dy = random_mat(&r, types[t], T, C, 1.0);
        struct kn_mat dx = random_mat(&r, types[t], T, C, 1.0), x64 = kt_f64(x), dy64 = kt_f64(dy),
                      dx64 = kt_f64(dx);
        struct kn_mat y64 = kt_new(KN_F64, T, C, false), first_dx = {0}, first_dg = {0}, dg64_mat,
                      rstd64_mat;
        float *g = random_row(&r, C, 1.0, 0.3), *dg0 = random_row(&r, C, 0.0, 1.0);
        float *rstd = random_row(&r, T, 0, 1), *rstd64 = random_row(&r, T, 0, 1),
              *dg64 = malloc((size_t)C * 4);

        memcpy(dg64, dg0, (size_t)C * 4);
        ref->rmsnorm_fwd(s.ref, y64, rstd64, x64, g, 1e-5f);
        ref->rmsnorm_bwd(s.ref, dx64, dg64, dy64, x64, g, rstd64);
        dg64_mat = row_f64(dg64, C), rstd64_mat = row_f64(rstd64, T);
        for (int k = 0; k < 3; k++) {
            struct kn_mat y = kt_new(types[t], T, C, true), d = kt_copy(dx), dg = row(dg0, C),
                          rstd_mat;

            cpu->rmsnorm_fwd(s.cpu[k], y, rstd, x, g, 1e-5f);
            cpu->rmsnorm_bwd(s.cpu[k], d, dg.p, dy, x, g, rstd);
            kt_check(y, y64, tol(types[t]), "y %lldx%lld", (long long)T, (long long)C);
            rstd_mat = row(rstd, T);
            kt_check(rstd_mat, rstd64_mat, tol(KN_F32), "rstd");
            kt_free(rstd_mat);
            kt_check(d, dx64, tol(types[t]), "dx");
            kt_check(dg, dg64_mat, tol(KN_F32), "dg");
            if (k == 0)
                first_dx = kt_copy(d), first_dg = kt_copy(dg);
            kt_check_same_bits(d, first_dx, "dx with %d threads", k + 1);
            kt_check_same_bits(dg, first_dg, "dg with %d threads", k + 1);
            kt_free(d);
            d = kt_copy(dx);
            cpu->rmsnorm_bwd(s.cpu[k], d, NULL, dy, x, g, rstd);
            kt_check_same_bits(d, first_dx, "dx without dg");
            kt_free(y), kt_free(d), kt_free(dg);
        }
        streams_free(&s);
        free(g), free(dg0), free(rstd), free(rstd64), free(dg64);
        kt_free(x), kt_free(dy), kt_free(dx), kt_free(x64), kt_free(dy64), kt_free(dx64),
            kt_free(y64);
        kt_free(first_dx), kt_free(first_dg), kt_free(dg64_mat), kt_free(rstd64_mat);
    }
}

static void rope_turns_pairs_by_their_position_and_its_inverse_turns_back(void **state)
{
    struct kt_rng r = kt_rng(42);
    const int64_t heads[][2] = {{1, 2}, {3, 6}, {2, 34}, {4, 64}, {1, 256}};

    (void)state;
    for (unsigned i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        for (int t = 0; t < 2; t++) {
            int64_t T = 145, D = heads[i][1], P = 50; /* more than one item of work */
            struct streams s = streams_new();
            struct kn_mat x = random_mat(&r, types[t], T, heads[i][0] * D, 1.0);
            float *cos_sin = random_row(&r, P * D, 0.0, 1.0);
            int32_t pos[145];

            for (int k = 0; k < 145; k++)
                pos[k] = (int32_t)kt_between(&r, 0, P - 1);
            for (int inverse = 0; inverse < 2; inverse++) {
                struct kn_mat x64 = kt_f64(x);

                ref->rope(s.ref, x64, D, cos_sin, pos, inverse);
                for (int k = 0; k < 3; k++) {
                    struct kn_mat y = kt_copy(x);

                    cpu->rope(s.cpu[k], y, D, cos_sin, pos, inverse);
                    kt_check(y, x64, tol(types[t]), "%s of heads of %lld",
                             inverse ? "inverse" : "rope", (long long)D);
                    kt_free(y);
                }
                kt_free(x64);
            }
            streams_free(&s);
            free(cos_sin);
            kt_free(x);
        }
    }
}

static void swiglu_and_its_gradients_match_the_reference_in_place_too(void **state)
{
    struct kt_rng r = kt_rng(43);

    (void)state;
    CASES(i, t)
    {
        int64_t T = shapes[i][0], F = shapes[i][1];
        struct streams s = streams_new();
        struct kn_mat gate = random_mat(&r, types[t], T, F, 4.0),
                      up = random_mat(&r, types[t], T, F, 1.0);
        struct kn_mat dh = random_mat(&r, types[t], T, F, 1.0), h64 = kt_new(KN_F64, T, F, false);
        struct kn_mat gate64 = kt_f64(gate), up64 = kt_f64(up), dh64 = kt_f64(dh);

        ref->swiglu_fwd(s.ref, h64, gate64, up64);
        ref->swiglu_bwd(s.ref, gate64, up64, dh64, gate64, up64);
        for (int k = 0; k < 3; k++) {
            struct kn_mat h = kt_new(types[t], T, F, true), a = kt_copy(gate), b = kt_copy(up);

            cpu->swiglu_fwd(s.cpu[k], h, a, b);
            cpu->swiglu_bwd(s.cpu[k], a, b, dh, a, b);
            kt_check(h, h64, tol(types[t]), "h");
            kt_check(a, gate64, tol(types[t]), "dgate");
            kt_check(b, up64, tol(types[t]), "dup");
            kt_free(h), kt_free(a), kt_free(b);
        }
        streams_free(&s);
        kt_free(gate), kt_free(up), kt_free(dh), kt_free(h64), kt_free(gate64), kt_free(up64),
            kt_free(dh64);
    }
}

static void sums_copies_and_fills_convert_types_and_stay_inside_their_matrix(void **state)
{
    struct kt_rng r = kt_rng(44);

    (void)state;
    CASES(i, t)
    {
        int64_t T = shapes[i][0], C = shapes[i][1];
        struct streams s = streams_new();
        struct kn_mat a = random_mat(&r, types[t], T, C, 1.0),
                      b = random_mat(&r, types[1 - t], T, C, 1.0);
        struct kn_mat a64 = kt_f64(a), b64 = kt_f64(b), y64 = kt_new(KN_F64, T, C, false),
                      y = kt_new(KN_BF16, T, C, true);
        struct kn_mat f = kt_new(KN_F32, T, C, true);

        ref->add(s.ref, y64, a64, b64);
        cpu->add(s.cpu[1], y, a, b);
        kt_check(y, y64, tol(KN_BF16), "bf16 sum");
        ref->copy(s.ref, f, a);
        kt_check(f, a64, ((struct kt_tol){0, 0}), "the reference's widened copy");
        kt_poison(f);
        cpu->copy(s.cpu[2], f, a);
        kt_check(f, a64, ((struct kt_tol){0, 0}), "widened copy");
        cpu->add(s.cpu[0], f, f, b);
        kt_check(f, y64, tol(KN_F32), "sum in place");
        kt_poison(y);
        cpu->copy(s.cpu[2], y, f);
        for (int64_t k = 0; k < T * C; k++)
            assert_int_equal(((uint16_t *)y.p)[k / C * y.ld + k % C],
                             kn_f32_to_bf16((float)kt_get(f, k / C, k % C)));
        ref->fill(s.ref, y64, 0.25f);
        cpu->fill(s.cpu[1], y, 0.25f);
        kt_check(y, y64, ((struct kt_tol){0, 0}), "fill");
        streams_free(&s);
        kt_free(a), kt_free(b), kt_free(a64), kt_free(b64), kt_free(y64), kt_free(y), kt_free(f);
    }
}

static void nan_survives_the_conversion_to_bf16(void **state)
{
    struct kn_stream *s = kt_stream(cpu, 1);
    const uint32_t bits[4] = {0x7f800001u, 0xffffffffu, 0x7f800000u, 0x7f7fffffu};
    float x[20] = {0};
    uint16_t y[20];

    (void)state;
    memcpy(x, bits, sizeof(bits));
    memcpy(x + 16, bits, sizeof(bits));
    cpu->copy(s, kn_mat(y, KN_BF16, 1, 20), kn_mat(x, KN_F32, 1, 20));
    kt_sync(cpu, s);
    for (int i = 0; i < 20; i++)
        assert_int_equal(y[i], kn_f32_to_bf16(x[i]));
    assert_true(isnan(kn_bf16_to_f32(y[0])) && isnan(kn_bf16_to_f32(y[17])) &&
                isinf(kn_bf16_to_f32(y[2])));
    cpu->stream_free(s);
}

static void the_first_nan_or_infinity_is_found(void **state)
{
    struct kt_rng r = kt_rng(45);

    (void)state;
    CASES(i, t)
    {
        int64_t T = shapes[i][0], C = shapes[i][1];
        struct streams s = streams_new();
        struct kn_mat x = random_mat(&r, types[t], T, C, 1e30);

        for (int round = 0; round < 4; round++) {
            int64_t want = -1, got;

            if (round > 0) {
                int64_t at = kt_between(&r, 0, T * C - 1);

                kt_set(x, at / C, at % C,
                       round == 1   ? (double)NAN
                       : round == 2 ? (double)INFINITY
                                    : -(double)INFINITY);
            }
            for (int64_t k = T * C - 1; k >= 0; k--)
                want = isfinite(kt_get(x, k / C, k % C)) ? want : k;
            for (int k = 0; k < 3; k++) {
                got = -2;
                cpu->first_nonfinite(s.cpu[k], &got, x);
                assert_int_equal(got, want);
            }
            ref->first_nonfinite(s.ref, &got, x);
            assert_int_equal(got, want);
        }
        streams_free(&s);
        kt_free(x);
    }
}

static void check_losses(const double *got, const double *want, int64_t T)
{
    for (int64_t i = 0; i < T; i++)
        assert_true(fabs(got[i] - want[i]) <= 2e-5 * (1.0 + fabs(want[i])));
}

/* size: of the logits. An element of d in bf16 is rounded twice. */
static void check_cross_entropy(struct kt_rng *r, int64_t T, int64_t V, int64_t C, enum kn_dtype t,
                                double size)
{
    struct streams s = streams_new();
    struct kn_mat x = random_mat(r, t, T, C, size / sqrt((double)C)),
                  w = random_mat(r, t, V, C, 1.0);
    struct kn_mat x64 = kt_f64(x), w64 = kt_f64(w), d64 = kt_new(KN_F64, V, T, false), first = d64;
    struct kt_tol allowed = t == KN_F32 ? (struct kt_tol){1e-5, 2e-5} : (struct kt_tol){5e-3, 1e-2};
    int32_t *label = malloc((size_t)T * sizeof(*label));
    double *want = malloc((size_t)T * sizeof(*want)), *nll = malloc((size_t)T * sizeof(*nll));

    for (int64_t k = 0; k < T; k++)
        label[k] = kt_between(r, 0, 3) == 0 ? -100 : (int32_t)kt_between(r, 0, V - 1);
    ref->cross_entropy(s.ref, want, d64, x64, w64, label, 0.01f);
    for (int k = 0; k < 3; k++) {
        struct kn_mat d = kt_new(t, V, T, true);

        cpu->cross_entropy(s.cpu[k], nll, d, x, w, label, 0.01f);
        kt_check(d, d64, allowed, "gradient of %lldx%lld, %lld wide", (long long)T, (long long)V,
                 (long long)C);
        check_losses(nll, want, T);
        memset(nll, 0x7f, (size_t)T * sizeof(*nll));
        cpu->cross_entropy(s.cpu[k], nll, (struct kn_mat){0}, x, w, label, 0.01f);
        check_losses(nll, want, T);
        if (k == 0)
            first = d;
        else
            kt_check_same_bits(d, first, "%d threads", k + 1);
        if (k > 0)
            kt_free(d);
    }
    streams_free(&s);
    free(label), free(want), free(nll);
    kt_free(first), kt_free(x), kt_free(w), kt_free(x64), kt_free(w64), kt_free(d64);
}

static void cross_entropy_and_its_gradient_match_the_reference(void **state)
{
    struct kt_rng r = kt_rng(46);

    (void)state;
    CASES(i, t)
    {
        check_cross_entropy(&r, shapes[i][0], shapes[i][1], 1 + shapes[i][1] % 40, types[t], 3.0);
    }
    for (int t = 0; t < 2; t++) {
        check_cross_entropy(&r, 5, 2100, 33, types[t], 40.0); /* many blocks; large logits */
        check_cross_entropy(&r, 96, 512, 64, types[t], 3.0);  /* whole ones only */
        check_cross_entropy(&r, 70, 300, 96, types[t], 3.0);
    }
}

static void logits_far_below_zero_lose_nothing_where_tokens_end(void **state)
{
    struct kn_stream *s = kt_stream(cpu, 1);
    struct kn_mat x = kt_new(KN_F32, 1, 1, true), w = kt_new(KN_F32, 19, 1, true),
                  d = kt_new(KN_F32, 19, 1, true);
    const int32_t label = 18;
    double nll;

    (void)state;
    cpu->fill(s, x, -1000.0f);
    cpu->fill(s, w, 1.0f);
    cpu->cross_entropy(s, &nll, d, x, w, &label, 1.0f);
    kt_sync(cpu, s);
    assert_true(fabs(nll - log(19.0)) < 1e-6);
    assert_true(fabs(kt_get(d, 18, 0) - (1.0 / 19.0 - 1.0)) < 1e-6 &&
                fabs(kt_get(d, 0, 0) - 1.0 / 19.0) < 1e-6);
    cpu->stream_free(s);
    kt_free(x), kt_free(w), kt_free(d);
}

/* Blocks of rows have maxima of their own, which differ by more than exp can tell. */
static void the_greatest_logit_may_be_in_any_block(void **state)
{
    const int64_t V = 700;

    (void)state;
    for (int t = 0; t < 2; t++) {
        for (int32_t label = 5; label < V; label += 300) {
            struct kn_stream *s = kt_stream(cpu, 1);
            struct kn_mat x = kt_new(types[t], 1, 1, true), w = kt_new(types[t], V, 1, true),
                          d = kt_new(types[t], V, 1, true);
            double nll;

            cpu->fill(s, x, 1.0f);
            cpu->fill(s, w, -100.0f);
            kt_set(w, label, 0, 200.0);
            cpu->cross_entropy(s, &nll, d, x, w, &label, 1.0f);
            kt_sync(cpu, s);
            assert_true(fabs(nll) < 1e-6);
            for (int64_t v = 0; v < V; v++)
                assert_true(fabs(kt_get(d, v, 0)) < 1e-6);
            cpu->stream_free(s);
            kt_free(x), kt_free(w), kt_free(d);
        }
    }
}

static void the_sum_of_squares_is_exact_and_the_same_for_any_threads(void **state)
{
    struct kt_rng r = kt_rng(47);
    const int64_t sizes[] = {0, 1, 15, 16384, 16385, 100003};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct streams s = streams_new();
        float *x = random_row(&r, sizes[i] + 1, 0.0, 1e15);
        double want, got[3] = {-1, -1, -1};

        ref->sum_squares(s.ref, &want, x, sizes[i]);
        for (int k = 0; k < 3; k++)
            cpu->sum_squares(s.cpu[k], &got[k], x, sizes[i]);
        assert_true(fabs(got[0] - want) <= 1e-13 * want);
        assert_true(got[1] == got[0] && got[2] == got[0]);
        streams_free(&s);
        free(x);
    }
}

static void adamw_follows_the_reference_over_several_steps(void **state)
{
    struct kt_rng r = kt_rng(48);
    const int64_t n = 20011;
    struct streams s = streams_new();
    struct kn_mat p[4], m[4], v[4], p64, m64, v64;
    uint16_t *low = malloc((size_t)n * sizeof(*low));
    struct kn_mat start = random_mat(&r, KN_F32, 1, n, 1.0);

    (void)state;
    for (int k = 0; k < 4; k++) {
        p[k] = kt_copy(start);
        m[k] = kt_new(KN_F32, 1, n, true), v[k] = kt_new(KN_F32, 1, n, true);
        ref->fill(s.ref, m[k], 0.0f), ref->fill(s.ref, v[k], 0.0f);
    }
    for (int64_t t = 1; t <= 5; t++) {
        struct kn_adamw h = {.lr = 1e-2f,
                             .beta1 = 0.9f,
                             .beta2 = 0.95f,
                             .eps = 1e-8f,
                             .weight_decay = 0.1f,
                             .t = t,
                             .grad_scale = 0.7f};
        float *g = random_row(&r, n, 0.0, 1.0);

        ref->adamw(s.ref, p[3].p, m[3].p, v[3].p, g, NULL, n, &h);
        for (int k = 0; k < 3; k++)
            cpu->adamw(s.cpu[k], p[k].p, m[k].p, v[k].p, g, k ? low : NULL, n, &h);
        free(g);
    }
    p64 = kt_f64(p[3]), m64 = kt_f64(m[3]), v64 = kt_f64(v[3]);
    for (int k = 0; k < 3; k++) {
        kt_check(p[k], p64, tol(KN_F32), "p");
        kt_check(m[k], m64, tol(KN_F32), "m");
        kt_check(v[k], v64, tol(KN_F32), "v");
        kt_check_same_bits(p[k], p[0], "p with %d threads", k + 1);
    }
    kt_free(p64), kt_free(m64), kt_free(v64);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(low[i], kn_f32_to_bf16(((float *)p[0].p)[i]));
    streams_free(&s);
    free(low);
    for (int k = 0; k < 4; k++)
        kt_free(p[k]), kt_free(m[k]), kt_free(v[k]);
    kt_free(start);
}

static void ids_and_labels_outside_of_the_vocabulary_are_refused(void **state)
{
    const struct kn_ops *both[] = {cpu, ref};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct kn_stream *s = kt_stream(both[i], 2);
        float x[8] = {0}, table[8] = {0};
        const int32_t id[2] = {1, 2}, label[2] = {0, -1};
        double nll[2];

        both[i]->embed_fwd(s, kn_mat(x, KN_F32, 2, 4), kn_mat(table, KN_F32, 2, 4), id);
        assert_int_equal(both[i]->sync(s, NULL), LH_EINTERNAL);
        both[i]->embed_bwd(s, kn_mat(table, KN_F32, 2, 4), kn_mat(x, KN_F32, 2, 4), id);
        assert_int_equal(both[i]->sync(s, NULL), LH_EINTERNAL);
        both[i]->cross_entropy(s, nll, kn_mat(NULL, KN_F32, 0, 0), kn_mat(x, KN_F32, 2, 4),
                               kn_mat(table, KN_F32, 2, 4), label, 1.0f);
        assert_int_equal(both[i]->sync(s, NULL), LH_EINTERNAL);
        both[i]->stream_free(s);
    }
}

static void memory_of_the_device_is_aligned_and_copies_arrive(void **state)
{
    const struct kn_ops *both[] = {cpu, ref};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct kn_stream *s = kt_stream(both[i], 1);
        const char text[] = "there and back";
        char back[sizeof(text)] = {0};
        void *p = both[i]->alloc(s, 1000);

        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        both[i]->upload(s, p, text, sizeof(text));
        both[i]->download(s, back, p, sizeof(text));
        kt_sync(both[i], s);
        assert_string_equal(back, text);
        both[i]->free(s, p);
        assert_null(both[i]->alloc(s, UINT64_MAX - 3));
        both[i]->stream_free(s);
    }
}

static void
a_back_end_is_found_by_its_name_and_no_stream_starts_with_a_wrong_number_of_threads(void **state)
{
    const struct kn_ops *found = NULL;
    struct kn_stream *s = NULL;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(kn_ops_for("cpu", &found, &err), 0);
    assert_ptr_equal(found, cpu);
    assert_int_equal(kn_ops_for("reference", &found, &err), 0);
    assert_ptr_equal(found, ref);
    assert_int_equal(kn_ops_for("abacus", &found, &err), LH_ENOTSUP);
    assert_non_null(strstr(err.text, "abacus"));
    assert_ptr_equal(found, ref);
    assert_int_equal(cpu->stream_new(0, &s, &err), LH_EINTERNAL);
    assert_int_equal(cpu->stream_new(100000, &s, &err), LH_EINTERNAL);
    assert_null(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embedding_rows_are_copied_and_their_gradients_added_in_token_order),
        cmocka_unit_test(rmsnorm_and_its_gradients_match_the_reference),
        cmocka_unit_test(rope_turns_pairs_by_their_position_and_its_inverse_turns_back),
        cmocka_unit_test(swiglu_and_its_gradients_match_the_reference_in_place_too),
        cmocka_unit_test(sums_copies_and_fills_convert_types_and_stay_inside_their_matrix),
        cmocka_unit_test(nan_survives_the_conversion_to_bf16),
        cmocka_unit_test(the_first_nan_or_infinity_is_found),
        cmocka_unit_test(cross_entropy_and_its_gradient_match_the_reference),
        cmocka_unit_test(logits_far_below_zero_lose_nothing_where_tokens_end),
        cmocka_unit_test(the_greatest_logit_may_be_in_any_block),
        cmocka_unit_test(the_sum_of_squares_is_exact_and_the_same_for_any_threads),
        cmocka_unit_test(adamw_follows_the_reference_over_several_steps),
        cmocka_unit_test(ids_and_labels_outside_of_the_vocabulary_are_refused),
        cmocka_unit_test(memory_of_the_device_is_aligned_and_copies_arrive),
        cmocka_unit_test(
            a_back_end_is_found_by_its_name_and_no_stream_starts_with_a_wrong_number_of_threads),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
