/* test_cpu_matmul.c - products of the CPU back end against the reference, over types, transposes,
 * strides and sizes. */
#include "tests/kernels/kn_test.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct kn_ops *const cpu = &kn_cpu_ops, *const ref = &kn_reference_ops;

struct product {
    int64_t M, N, K;
    enum kn_dtype t_ab, t_c;
    bool ta, tb;
    float alpha, beta;
    bool dense; /* no spare columns: what a weight matrix looks like, and oneDNN's best kernels want
                 */
};

/* With few elements there is no average: one rounding, or a sum that nearly cancels, is the whole
 * norm. */
static struct kt_tol tolerance(const struct product *p)
{
    bool few = p->M * p->N < 64;

    if (p->t_c == KN_BF16)
        return (struct kt_tol){few ? 4e-3 : 2.5e-3, 4e-3};
    if (p->t_ab == KN_BF16 || few)
        return (struct kt_tol){few ? 2e-5 : 5e-6, few ? 2e-5 : 1e-5};
    return (struct kt_tol){1e-6 * sqrt((double)p->K + 1.0), 1e-5};
}

static void check_product(struct kt_rng *r, const struct product *p)
{
    bool spare[3] = {kt_between(r, 0, 1) && !p->dense, kt_between(r, 0, 1) && !p->dense,
                     kt_between(r, 0, 1) && !p->dense};
    struct kn_mat a =
        p->ta ? kt_new(p->t_ab, p->K, p->M, spare[0]) : kt_new(p->t_ab, p->M, p->K, spare[0]);
    struct kn_mat b =
        p->tb ? kt_new(p->t_ab, p->N, p->K, spare[1]) : kt_new(p->t_ab, p->K, p->N, spare[1]);
    struct kn_mat c = kt_new(p->t_c, p->M, p->N, spare[2]), first = c, a64, b64, c64;
    struct kn_stream *s = kt_stream(ref, 1);

    kt_random(r, a, 1.0);
    kt_random(r, b, 1.0);
    if (p->beta != 0.0f)
        kt_random(r, c, 2.0);
    a64 = kt_f64(a), b64 = kt_f64(b), c64 = kt_f64(c);
    ref->matmul(s, c64, a64, p->ta, b64, p->tb, p->alpha, p->beta);
    kt_sync(ref, s);
    ref->stream_free(s);
    for (int threads = 1; threads <= 3; threads++) {
        struct kn_mat got = kt_copy(c);

        s = kt_stream(cpu, threads);
        cpu->matmul(s, got, a, p->ta, b, p->tb, p->alpha, p->beta);
        kt_sync(cpu, s);
        cpu->stream_free(s);
        kt_check(got, c64, tolerance(p),
                 "%lldx%lldx%lld types %d->%d%s%s alpha %g beta %g, %d threads", (long long)p->M,
                 (long long)p->N, (long long)p->K, (int)p->t_ab, (int)p->t_c, p->ta ? " a^T" : "",
                 p->tb ? " b^T" : "", (double)p->alpha, (double)p->beta, threads);
        if (threads == 1)
            first = got;
        else
            kt_check_same_bits(got, first, "%d threads", threads);
        if (threads > 1)
            kt_free(got);
    }
    kt_free(first), kt_free(a), kt_free(b), kt_free(c), kt_free(a64), kt_free(b64), kt_free(c64);
}

static void products_of_every_form_match_the_reference_for_any_number_of_threads(void **state)
{
    struct kt_rng r = kt_rng(20);
    const int64_t sizes[][3] = {{1, 1, 1},     {1, 70, 33},   {3, 5, 2},     {31, 64, 64},
                                {64, 9, 576},  {100, 48, 8},  {257, 33, 1},  {300, 65, 40},
                                {513, 40, 20}, {40, 700, 12}, {70, 513, 31}, {8, 96, 300}};
    const enum kn_dtype types[][2] = {{KN_F32, KN_F32}, {KN_BF16, KN_BF16}, {KN_BF16, KN_F32}};
    const float alphas[] = {1.0f, 0.5f, -2.0f};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (unsigned t = 0; t < 3; t++) {
            for (int flags = 0; flags < 4; flags++) {
                struct product p = {.M = sizes[i][0],
                                    .N = sizes[i][1],
                                    .K = sizes[i][2],
                                    .t_ab = types[t][0],
                                    .t_c = types[t][1],
                                    .ta = flags & 1,
                                    .tb = flags & 2,
                                    .alpha = alphas[kt_between(&r, 0, 2)],
                                    .beta = (float)kt_between(&r, 0, 1)};

                check_product(&r, &p);
            }
        }
    }
}

/* Many rows of tiles read the same b, which is packed once for all of them. */
static void a_packed_weight_gives_the_same_products(void **state)
{
    struct kt_rng r = kt_rng(24);

    (void)state;
    for (int flags = 0; flags < 4; flags++) {
        struct product p = {.M = 1030,
                            .N = 100,
                            .K = 64,
                            .t_ab = flags & 2 ? KN_F32 : KN_BF16,
                            .t_c = flags & 2 ? KN_F32 : KN_BF16,
                            .tb = !(flags & 1),
                            .alpha = 1.0f,
                            .dense = true};

        check_product(&r, &p);
    }
}

/* Products of bf16 are cut into chunks of columns, of K and of rows, and those with few rows or
 * columns into slices of K: sizes on both sides of every cut. */
static void products_of_bf16_pairs_hold_across_every_cut(void **state)
{
    struct kt_rng r = kt_rng(25);
    const int64_t sizes[][3] = {{33, 65, 4100},  {160, 40, 8195}, {33, 1030, 2050}, {32, 33, 1100},
                                {7, 600, 1031},  {600, 7, 1031},  {9, 2100, 513},   {16, 16, 512},
                                {130, 31, 321},  {257, 32, 961},  {48, 17, 5000},   {64, 96, 4128},
                                {64, 704, 1024}, {32, 64, 4128},  {64, 32, 4128}};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int flags = 0; flags < 4; flags++) {
            struct product p = {.M = sizes[i][0],
                                .N = sizes[i][1],
                                .K = sizes[i][2],
                                .t_ab = KN_BF16,
                                .t_c = flags == 1 || flags == 2 ? KN_F32 : KN_BF16,
                                .ta = flags & 1,
                                .tb = flags & 2,
                                .alpha = flags == 3 ? 0.5f : 1.0f,
                                .beta = (float)kt_between(&r, 0, 1)};

            check_product(&r, &p);
        }
    }
}

/* And of more rows than are packed, or summed up, at a time. */
static void products_of_bf16_pairs_hold_for_very_many_rows(void **state)
{
    struct kt_rng r = kt_rng(27);

    (void)state;
    for (int64_t K = 1000; K <= 1040; K += 40) {
        struct product p = {.M = 4200,
                            .N = 3,
                            .K = K,
                            .t_ab = KN_BF16,
                            .t_c = KN_BF16,
                            .ta = true,
                            .tb = true,
                            .alpha = 1.0f,
                            .beta = (float)(K / 1040)};

        check_product(&r, &p);
    }
}

/* Products in fp32 are cut into strips of 8 rows, groups of 32 and items of 128, panels of 48
 * columns, chunks of K and of columns, and rows whose sums wait in scratch: sizes on both sides of
 * every cut. */
static void products_in_fp32_hold_across_every_cut(void **state)
{
    struct kt_rng r = kt_rng(28);
    const int64_t sizes[][3] = {{96, 33, 1},    {97, 48, 7},     {103, 49, 8},   {128, 95, 9},
                                {129, 144, 65}, {159, 64, 768},  {161, 80, 769}, {257, 40, 1540},
                                {96, 600, 700}, {97, 2700, 770}, {96, 47, 2305}};
    const enum kn_dtype types[][2] = {{KN_F32, KN_F32}, {KN_BF16, KN_BF16}, {KN_BF16, KN_F32}};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int flags = 0; flags < 4; flags++) {
            struct product p = {.M = sizes[i][0],
                                .N = sizes[i][1],
                                .K = sizes[i][2],
                                .t_ab = types[(i + (unsigned)flags) % 3][0],
                                .t_c = types[(i + (unsigned)flags) % 3][1],
                                .ta = flags & 1,
                                .tb = flags & 2,
                                .alpha = flags == 3 ? 0.5f : 1.0f,
                                .beta = (float)kt_between(&r, 0, 1)};

            if (p.N < 1000 || flags == 2)
                check_product(&r, &p);
        }
    }
}

/* And where fp32 is multiplied in parts: strips of 32 rows, items of some of them, panels of 32
 * columns, chunks of K and of columns. */
static void products_of_parts_hold_across_every_cut(void **state)
{
    struct kt_rng r = kt_rng(30);
    const int64_t sizes[][3] = {{33, 33, 33},   {64, 64, 64},   {290, 65, 770}, {48, 49, 1540},
                                {65, 1030, 64}, {161, 33, 769}, {129, 80, 96},  {40, 2100, 800}};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int flags = 0; flags < 8; flags++) {
            struct product p = {.M = sizes[i][0],
                                .N = sizes[i][1],
                                .K = sizes[i][2],
                                .t_ab = KN_F32,
                                .t_c = KN_F32,
                                .ta = flags & 1,
                                .tb = flags & 2,
                                .alpha = flags & 1 ? 1.0f : -0.5f,
                                .beta = flags & 4 ? 1.0f : 0.0f};

            check_product(&r, &p);
        }
    }
}

/* More rows than have room for their sums while K is cut. */
static void sums_of_very_many_rows_wait_in_rounds(void **state)
{
    struct kt_rng r = kt_rng(29);

    (void)state;
    for (int beta = 0; beta <= 1; beta++) {
        struct product p = {.M = 43700,
                            .N = 1,
                            .K = 780,
                            .t_ab = KN_BF16,
                            .t_c = KN_BF16,
                            .tb = true,
                            .alpha = 1.0f,
                            .beta = (float)beta};

        check_product(&r, &p);
    }
}

/* The same where fp32 is multiplied in parts; the last rows alone are compared. */
static void sums_of_parts_of_very_many_rows_wait_in_rounds(void **state)
{
    struct kt_rng r = kt_rng(31);
    const int64_t M = 43700, N = 33, K = 769, block = 437, last = 60;
    struct kn_stream *s = kt_stream(cpu, 2), *rs = kt_stream(ref, 1);
    struct kn_mat a = kt_new(KN_F32, M, K, false), b = kt_new(KN_F32, N, K, false);
    struct kn_mat c = kt_new(KN_F32, M, N, false), a64, b64, c64;

    (void)state;
    kt_random(&r, kn_rows(a, 0, block), 1.0), kt_random(&r, b, 1.0), kt_random(&r, c, 1.0);
    for (int64_t row = block; row < M; row += block)
        memcpy((float *)a.p + row * K, a.p, (size_t)(block * K) * sizeof(float));
    a64 = kt_f64(kn_rows(a, M - last, last)), b64 = kt_f64(b);
    c64 = kt_f64(kn_rows(c, M - last, last));
    ref->matmul(rs, c64, a64, false, b64, true, 1.0f, 1.0f);
    kt_sync(ref, rs);
    cpu->matmul(s, c, a, false, b, true, 1.0f, 1.0f);
    kt_sync(cpu, s);
    kt_check(kn_rows(c, M - last, last), c64, ((struct kt_tol){3e-5, 3e-5}), "the last rows");
    cpu->stream_free(s), ref->stream_free(rs);
    kt_free(a), kt_free(b), kt_free(c), kt_free(a64), kt_free(b64), kt_free(c64);
}

struct low {
    int64_t M, N, K, R;
    enum kn_dtype type;
    bool t, dense;
    float z_scale, c_scale, beta;
};

/* The reference is in double; z in bf16 is rounded once, and c twice where it is made in two steps.
 */
static void check_low(struct kt_rng *r, const struct low *l)
{
    struct kn_mat a = kt_new(l->type, l->M, l->K, !l->dense);
    struct kn_mat b =
        l->t ? kt_new(l->type, l->N, l->K, false) : kt_new(l->type, l->K, l->N, false);
    struct kn_mat p =
        l->t ? kt_new(l->type, l->R, l->K, false) : kt_new(l->type, l->K, l->R, false);
    struct kn_mat q =
        l->t ? kt_new(l->type, l->N, l->R, false) : kt_new(l->type, l->R, l->N, false);
    struct kn_mat c = kt_new(l->type, l->M, l->N, !l->dense), a64, b64, p64, q64, c64, first = c;
    struct kn_mat z64 = kt_new(KN_F64, l->M, l->R, false);
    struct kt_tol f32 = {1e-6 * sqrt((double)l->K + 2.0), 2e-5};
    struct kt_tol tol = l->type == KN_F32 ? f32 : (struct kt_tol){5e-3, 8e-3};
    struct kn_stream *s = kt_stream(ref, 1);

    kt_random(r, a, 1.0), kt_random(r, b, 1.0), kt_random(r, p, 1.0), kt_random(r, q, 1.0);
    if (l->beta != 0.0f)
        kt_random(r, c, 2.0);
    a64 = kt_f64(a), b64 = kt_f64(b), p64 = kt_f64(p), q64 = kt_f64(q), c64 = kt_f64(c);
    ref->matmul_low(s, c64, z64, a64, b64, p64, q64, l->t, l->z_scale, l->c_scale, l->beta);
    kt_sync(ref, s);
    ref->stream_free(s);
    for (int threads = 1; threads <= 3; threads++) {
        struct kn_mat got = kt_copy(c), z = kt_new(l->type, l->M, l->R, !l->dense);

        s = kt_stream(cpu, threads);
        cpu->matmul_low(s, got, z, a, b, p, q, l->t, l->z_scale, l->c_scale, l->beta);
        kt_sync(cpu, s);
        cpu->stream_free(s);
        kt_check(z, z64, tol, "z of %lldx%lldx%lld, rank %lld%s", (long long)l->M, (long long)l->N,
                 (long long)l->K, (long long)l->R, l->t ? ", transposed" : "");
        kt_check(got, c64, tol, "%lldx%lldx%lld, rank %lld%s beta %g", (long long)l->M,
                 (long long)l->N, (long long)l->K, (long long)l->R, l->t ? ", transposed" : "",
                 (double)l->beta);
        if (threads == 1)
            first = got;
        else
            kt_check_same_bits(got, first, "%d threads", threads);
        if (threads > 1)
            kt_free(got);
        kt_free(z);
    }
    kt_free(first), kt_free(a), kt_free(b), kt_free(p), kt_free(q), kt_free(c);
    kt_free(a64), kt_free(b64), kt_free(p64), kt_free(q64), kt_free(c64), kt_free(z64);
}

static void a_product_with_a_low_rank_update_is_the_sum_of_its_three(void **state)
{
    struct kt_rng r = kt_rng(26);
    const int64_t sizes[][4] = {{1, 5, 3, 1},        {33, 40, 70, 8},     {130, 65, 96, 16},
                                {64, 64, 64, 17},    {200, 1000, 64, 32}, {70, 50, 33, 33},
                                {40, 600, 700, 5},   {33, 7, 4100, 4},    {64, 704, 1024, 8},
                                {33, 1100, 2048, 4}, {100, 50, 768, 32},  {97, 700, 70, 33},
                                {131, 600, 769, 8},  {130, 33, 2048, 8}};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int flags = 0; flags < 8; flags++) {
            struct low l = {.M = sizes[i][0],
                            .N = sizes[i][1],
                            .K = sizes[i][2],
                            .R = sizes[i][3],
                            .type = flags & 1 ? KN_BF16 : KN_F32,
                            .t = flags & 2,
                            .dense = flags & 4,
                            .z_scale = flags & 2 ? 1.0f : 0.75f,
                            .c_scale = flags & 2 ? 1.5f : 1.0f,
                            .beta = flags & 4 ? 1.0f : 0.0f};

            check_low(&r, &l);
        }
    }
}

static void sub_matrices_of_one_buffer_are_multiplied_in_place(void **state)
{
    struct kt_rng r = kt_rng(21);
    struct kn_stream *s = kt_stream(cpu, 2), *rs = kt_stream(ref, 1);
    struct kn_mat qkv = kt_new(KN_BF16, 40, 96, false), w = kt_new(KN_BF16, 32, 64, false), before,
                  want;
    struct kn_mat x = kt_new(KN_BF16, 40, 64, false), x64, w64;

    (void)state;
    kt_random(&r, qkv, 1.0), kt_random(&r, w, 1.0), kt_random(&r, x, 1.0);
    before = kt_copy(qkv);
    want = kt_f64(qkv);
    x64 = kt_f64(x), w64 = kt_f64(w);
    ref->matmul(rs, kn_sub(want, 0, 40, 32, 32), x64, false, w64, true, 1.0f, 0.0f);
    cpu->matmul(s, kn_sub(qkv, 0, 40, 32, 32), x, false, w, true, 1.0f, 0.0f);
    kt_sync(cpu, s);
    kt_check(qkv, want, ((struct kt_tol){2.5e-3, 4e-3}), "columns 32 to 64");
    kt_check_same_bits(kn_sub(qkv, 0, 40, 0, 32), kn_sub(before, 0, 40, 0, 32), "columns before");
    kt_check_same_bits(kn_sub(qkv, 0, 40, 64, 32), kn_sub(before, 0, 40, 64, 32), "columns after");
    cpu->stream_free(s), ref->stream_free(rs);
    kt_free(qkv), kt_free(w), kt_free(before), kt_free(want), kt_free(x), kt_free(x64),
        kt_free(w64);
}

/* A matrix inside of one that is all NaN. */
static struct kn_mat among_nan(struct kt_rng *r, enum kn_dtype t, bool turned, int64_t rows,
                               int64_t cols, struct kn_mat *ret_whole)
{
    struct kn_mat m;

    *ret_whole = kt_new(t, 160, 160, false);
    m = turned ? kn_sub(*ret_whole, 11, cols, 9, rows) : kn_sub(*ret_whole, 11, rows, 9, cols);
    kt_random(r, m, 1.0);
    return m;
}

/* Packing in whole vectors may read what lies beside an operand, but no sum may hold it: not even
 * times 0. */
static void check_among_nan(struct kt_rng *r, enum kn_dtype t, const int64_t *size, bool ta,
                            bool tb)
{
    struct kn_stream *s = kt_stream(cpu, 2), *rs = kt_stream(ref, 1);
    int64_t M = size[0], N = size[1], K = size[2], R = 5;
    struct kn_mat whole[4], a = among_nan(r, t, ta, M, K, &whole[0]);
    struct kn_mat b = among_nan(r, t, tb, K, N, &whole[1]),
                  p = among_nan(r, t, tb, K, R, &whole[2]);
    struct kn_mat q = among_nan(r, t, tb, R, N, &whole[3]), c = kt_new(t, M, N, true);
    struct kn_mat z = kt_new(t, M, R, true), a64 = kt_f64(a), b64 = kt_f64(b), p64 = kt_f64(p);
    struct kn_mat q64 = kt_f64(q), c64 = kt_f64(c), z64 = kt_f64(z);
    struct kt_tol tol = t == KN_F32 ? (struct kt_tol){1e-5, 2e-5} : (struct kt_tol){5e-3, 8e-3};

    ref->matmul(rs, c64, a64, ta, b64, tb, 1.0f, 0.0f);
    cpu->matmul(s, c, a, ta, b, tb, 1.0f, 0.0f);
    kt_sync(cpu, s);
    kt_check(c, c64, tol, "%lldx%lldx%lld of type %d among NaN%s%s", (long long)M, (long long)N,
             (long long)K, (int)t, ta ? " a^T" : "", tb ? " b^T" : "");
    if (!ta) {
        ref->matmul_low(rs, c64, z64, a64, b64, p64, q64, tb, 1.0f, 0.5f, 0.0f);
        cpu->matmul_low(s, c, z, a, b, p, q, tb, 1.0f, 0.5f, 0.0f);
        kt_sync(cpu, s);
        kt_check(c, c64, tol, "the same with a low rank");
    }
    kt_sync(ref, rs);
    cpu->stream_free(s), ref->stream_free(rs);
    for (int i = 0; i < 4; i++)
        kt_free(whole[i]);
    kt_free(c), kt_free(z), kt_free(a64), kt_free(b64), kt_free(p64), kt_free(q64), kt_free(c64);
    kt_free(z64);
}

static void what_lies_beside_the_operands_is_in_no_sum(void **state)
{
    struct kt_rng r = kt_rng(32);
    const int64_t sizes[][3] = {{64, 64, 65},  {33, 33, 33},  {70, 96, 50}, {40, 64, 47},
                                {128, 32, 80}, {96, 100, 63}, {5, 70, 33},  {70, 7, 90}};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (int flags = 0; flags < 8; flags++)
            check_among_nan(&r, flags & 4 ? KN_BF16 : KN_F32, sizes[i], flags & 1, flags & 2);
}

static void more_shapes_than_the_cache_holds_still_give_right_products(void **state)
{
    struct kt_rng r = kt_rng(22);
    struct kn_stream *s = kt_stream(cpu, 1), *rs = kt_stream(ref, 1);

    (void)state;
    for (int64_t n = 1; n <= 700; n++) {
        struct kn_mat a = kt_new(KN_F32, 2, 3, false), b = kt_new(KN_F32, 3, n, false),
                      c = kt_new(KN_F32, 2, n, false);
        struct kn_mat a64, b64, c64;

        kt_random(&r, a, 1.0), kt_random(&r, b, 1.0);
        a64 = kt_f64(a), b64 = kt_f64(b), c64 = kt_f64(c);
        cpu->matmul(s, c, a, false, b, false, 1.0f, 0.0f);
        ref->matmul(rs, c64, a64, false, b64, false, 1.0f, 0.0f);
        kt_check(c, c64, ((struct kt_tol){1e-6, 1e-5}), "2x%lldx3", (long long)n);
        kt_free(a), kt_free(b), kt_free(c), kt_free(a64), kt_free(b64), kt_free(c64);
    }
    kt_sync(cpu, s);
    cpu->stream_free(s), ref->stream_free(rs);
}

static void an_empty_sum_is_zero_and_an_empty_matrix_is_left_alone(void **state)
{
    struct kn_stream *s = kt_stream(cpu, 2);
    struct kn_mat c = kt_new(KN_F32, 3, 4, true);
    float none = 0.0f;

    (void)state;
    cpu->matmul(s, c, kn_mat(&none, KN_F32, 3, 0), false, kn_mat(&none, KN_F32, 0, 4), false, 1.0f,
                0.0f);
    kt_sync(cpu, s);
    for (int64_t i = 0; i < 12; i++)
        assert_true(kt_get(c, i / 4, i % 4) == 0.0);
    cpu->matmul(s, kn_sub(c, 0, 0, 0, 4), kn_mat(&none, KN_F32, 0, 2), false, kn_sub(c, 0, 2, 0, 4),
                false, 1.0f, 0.0f);
    kt_sync(cpu, s);
    cpu->stream_free(s);
    kt_free(c);
}

static void wrong_shapes_are_reported_by_sync_and_later_ops_work_again(void **state)
{
    const struct kn_ops *both[] = {cpu, ref};

    (void)state;
    for (int i = 0; i < 2; i++) {
        float x[16] = {0};
        struct kn_stream *s = kt_stream(both[i], 1);
        struct lh_err err = {0};

        both[i]->matmul(s, kn_mat(x, KN_F32, 2, 2), kn_mat(x, KN_F32, 2, 3), false,
                        kn_mat(x, KN_F32, 2, 2), false, 1, 0);
        both[i]->fill(s, kn_mat(x, KN_F32, 4, 4), 1.0f); /* not run: an op before it failed */
        assert_int_equal(both[i]->sync(s, &err), LH_EINTERNAL);
        assert_non_null(strstr(err.text, "matmul: b is 2 x 2, not 3 x 2"));
        assert_true(x[0] == 0.0f);
        both[i]->fill(s, kn_mat(x, KN_F32, 4, 4), 0.5f);
        assert_int_equal(both[i]->sync(s, &err), 0);
        assert_true(x[15] == 0.5f);
        both[i]->matmul(s, kn_mat(x, KN_F32, 2, 2), kn_mat(x, KN_BF16, 2, 2), false,
                        kn_mat(x, KN_F32, 2, 2), false, 1, 0);
        assert_int_equal(both[i]->sync(s, &err), LH_EINTERNAL);
        both[i]->stream_free(s);
    }
}

static void ops_grow_their_scratch_once(void **state)
{
    struct kt_rng r = kt_rng(23);

    (void)state;
    for (int type = 0; type < 2; type++) {
        enum kn_dtype t = type == 0 ? KN_BF16 : KN_F32;
        struct kn_stream *s = kt_stream(cpu, 2);
        struct kn_mat a = kt_new(t, 300, 70, false), b = kt_new(t, 90, 70, true),
                      c = kt_new(t, 300, 90, true);
        uint64_t bytes;

        kt_random(&r, a, 1.0), kt_random(&r, b, 1.0);
        cpu->matmul(s, c, a, false, b, true, 1.0f, 0.0f);
        bytes = cpu->scratch_bytes(s);
        for (int64_t rows = 300; rows > 0; rows -= 37)
            cpu->matmul(s, kn_rows(c, 0, rows), kn_rows(a, 0, rows), false, b, true, 1.0f, 0.0f);
        kt_sync(cpu, s);
        assert_int_equal(cpu->scratch_bytes(s), bytes);
        cpu->stream_free(s);
        kt_free(a), kt_free(b), kt_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_every_form_match_the_reference_for_any_number_of_threads),
        cmocka_unit_test(a_packed_weight_gives_the_same_products),
        cmocka_unit_test(products_of_bf16_pairs_hold_across_every_cut),
        cmocka_unit_test(products_of_bf16_pairs_hold_for_very_many_rows),
        cmocka_unit_test(products_in_fp32_hold_across_every_cut),
        cmocka_unit_test(products_of_parts_hold_across_every_cut),
        cmocka_unit_test(sums_of_very_many_rows_wait_in_rounds),
        cmocka_unit_test(sums_of_parts_of_very_many_rows_wait_in_rounds),
        cmocka_unit_test(a_product_with_a_low_rank_update_is_the_sum_of_its_three),
        cmocka_unit_test(sub_matrices_of_one_buffer_are_multiplied_in_place),
        cmocka_unit_test(what_lies_beside_the_operands_is_in_no_sum),
        cmocka_unit_test(more_shapes_than_the_cache_holds_still_give_right_products),
        cmocka_unit_test(an_empty_sum_is_zero_and_an_empty_matrix_is_left_alone),
        cmocka_unit_test(wrong_shapes_are_reported_by_sync_and_later_ops_work_again),
        cmocka_unit_test(ops_grow_their_scratch_once),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
