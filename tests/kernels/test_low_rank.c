/* test_low_rank.c - the product with a low-rank update: its definition and its gradients in double,
 * then random odd shapes of the CPU back end against that.
 */
#include "tests/kernels/kn_test.h"
#include <math.h>

static const struct kn_ops *const cpu = &kn_cpu_ops, *const ref = &kn_reference_ops;

/* c = a op(b) + c_scale * z op(q) with z = z_scale * a op(p); of c, the sum with the weights w. */
struct low {
    struct kn_stream *s;
    struct kn_mat a, b, p, q, z, c, w;
    int64_t M, N, K, R;
    bool t;
    float z_scale, c_scale;
};

static struct low low_new(struct kt_rng *r, enum kn_dtype type, int64_t most, bool t, bool strided)
{
    struct low l = {.M = kt_between(r, 0, most) | 1,
                    .N = kt_between(r, 0, most) | 1,
                    .K = kt_between(r, 0, most) | 1,
                    .R = kt_between(r, 0, most < 40 ? most : 40) | 1,
                    .t = t,
                    .z_scale = (float)(0.5 + 0.1 * kt_normal(r)),
                    .c_scale = (float)(2.0 + 0.1 * kt_normal(r))};

    l.a = kt_new(type, l.M, l.K, strided);
    l.b = t ? kt_new(type, l.N, l.K, strided) : kt_new(type, l.K, l.N, strided);
    l.p = t ? kt_new(type, l.R, l.K, strided) : kt_new(type, l.K, l.R, strided);
    l.q = t ? kt_new(type, l.N, l.R, strided) : kt_new(type, l.R, l.N, strided);
    l.z = kt_new(type, l.M, l.R, strided);
    l.c = kt_new(type, l.M, l.N, strided);
    l.w = kt_new(type, l.M, l.N, strided);
    kt_random(r, l.a, 1.0), kt_random(r, l.b, 1.0), kt_random(r, l.p, 1.0);
    kt_random(r, l.q, 1.0), kt_random(r, l.w, 1.0);
    return l;
}

static void low_free(struct low *l)
{
    kt_free(l->a), kt_free(l->b), kt_free(l->p), kt_free(l->q);
    kt_free(l->z), kt_free(l->c), kt_free(l->w);
}

static double low_loss(void *arg)
{
    struct low *l = arg;

    ref->matmul_low(l->s, l->c, l->z, l->a, l->b, l->p, l->q, l->t, l->z_scale, l->c_scale, 0.0f);
    return kt_dot(l->c, l->w);
}

/* Element (i, j) of op(x). */
static double low_get(const struct low *l, struct kn_mat x, int64_t i, int64_t j)
{
    return l->t ? kt_get(x, j, i) : kt_get(x, i, j);
}

/* z and c by the definition; before: what c held. */
static void check_definition(const struct low *l, struct kn_mat before)
{
    for (int64_t i = 0; i < l->M; i++) {
        for (int64_t k = 0; k < l->R; k++) {
            double z = 0.0;

            for (int64_t h = 0; h < l->K; h++)
                z += kt_get(l->a, i, h) * low_get(l, l->p, h, k);
            assert_true(fabs(kt_get(l->z, i, k) - (double)l->z_scale * z) < 1e-12 * (1 + fabs(z)));
        }
        for (int64_t j = 0; j < l->N; j++) {
            double whole = kt_get(before, i, j), low = 0.0;

            for (int64_t h = 0; h < l->K; h++)
                whole += kt_get(l->a, i, h) * low_get(l, l->b, h, j);
            for (int64_t k = 0; k < l->R; k++)
                low += kt_get(l->z, i, k) * low_get(l, l->q, k, j);
            whole += (double)l->c_scale * low;
            assert_true(fabs(kt_get(l->c, i, j) - whole) < 1e-11 * (1 + fabs(whole)));
        }
    }
}

static void a_low_rank_update_follows_its_definition(void **state)
{
    struct kt_rng r = kt_rng(60);

    (void)state;
    for (int i = 0; i < 8; i++) {
        struct low l = low_new(&r, KN_F64, 24, i & 1, i & 2);
        struct kn_mat before;

        l.s = kt_stream(ref, 1);
        kt_random(&r, l.c, 1.0);
        before = kt_copy(l.c);
        ref->matmul_low(l.s, l.c, l.z, l.a, l.b, l.p, l.q, l.t, l.z_scale, l.c_scale, 1.0f);
        check_definition(&l, before);
        ref->fill(l.s, before, 0.0f);
        kt_poison(l.c), kt_poison(l.z);
        ref->matmul_low(l.s, l.c, l.z, l.a, l.b, l.p, l.q, l.t, l.z_scale, l.c_scale, 0.0f);
        check_definition(&l, before);
        kt_sync(ref, l.s);
        ref->stream_free(l.s);
        low_free(&l);
        kt_free(before);
    }
}

/* As a linear layer with LoRA has it: the gradient of a is the op's other form with the factors
 * changed round, and dz, which that leaves, gives the gradient of p. */
static void the_gradients_of_a_low_rank_update_are_its_derivatives(void **state)
{
    struct kt_rng r = kt_rng(61);

    (void)state;
    for (int i = 0; i < 8; i++) {
        struct low l = low_new(&r, KN_F64, 24, i & 1, i & 2);
        struct kn_mat da = kt_new(KN_F64, l.M, l.K, false), dz = kt_new(KN_F64, l.M, l.R, false);
        struct kn_mat db = kt_new(KN_F64, l.b.rows, l.b.cols, false),
                      dp = kt_new(KN_F64, l.p.rows, l.p.cols, false),
                      dq = kt_new(KN_F64, l.q.rows, l.q.cols, false);

        l.s = kt_stream(ref, 1);
        (void)low_loss(&l);
        ref->matmul_low(l.s, da, dz, l.w, l.b, l.q, l.p, !l.t, l.c_scale, l.z_scale, 0.0f);
        if (l.t) {
            ref->matmul(l.s, db, l.w, true, l.a, false, 1.0f, 0.0f);
            ref->matmul(l.s, dp, dz, true, l.a, false, l.z_scale, 0.0f);
            ref->matmul(l.s, dq, l.w, true, l.z, false, l.c_scale, 0.0f);
        } else {
            ref->matmul(l.s, db, l.a, true, l.w, false, 1.0f, 0.0f);
            ref->matmul(l.s, dp, l.a, true, dz, false, l.z_scale, 0.0f);
            ref->matmul(l.s, dq, l.z, true, l.w, false, l.c_scale, 0.0f);
        }
        kt_check_gradient(&r, low_loss, &l, l.a, da, "a");
        kt_check_gradient(&r, low_loss, &l, l.b, db, "b");
        kt_check_gradient(&r, low_loss, &l, l.p, dp, "p");
        kt_check_gradient(&r, low_loss, &l, l.q, dq, "q");
        kt_sync(ref, l.s);
        ref->stream_free(l.s);
        low_free(&l);
        kt_free(da), kt_free(dz), kt_free(db), kt_free(dp), kt_free(dq);
    }
}

/* With 1 to 3 threads; beta 0 overwrites poison. */
static void check_cpu(const struct low *l, struct kn_mat before, float beta)
{
    struct kn_mat a = kt_f64(l->a), b = kt_f64(l->b), p = kt_f64(l->p), q = kt_f64(l->q);
    struct kn_mat c = kt_f64(before), z = kt_f64(l->z), first = c;
    /* bf16: z is rounded once, c twice where it is made in two steps; few elements have no average.
     */
    struct kt_tol tol = l->a.t == KN_F32 ? (struct kt_tol){2e-6 * sqrt((double)l->K + 2.0), 4e-5}
                                         : (struct kt_tol){l->M * l->R < 64 ? 1e-2 : 5e-3, 1e-2};
    struct kn_stream *s = kt_stream(ref, 1);

    ref->matmul_low(s, c, z, a, b, p, q, l->t, l->z_scale, l->c_scale, beta);
    kt_sync(ref, s);
    ref->stream_free(s);
    for (int threads = 1; threads <= 3; threads++) {
        struct kn_mat got = kt_copy(before);

        kt_poison(l->z);
        s = kt_stream(cpu, threads);
        cpu->matmul_low(s, got, l->z, l->a, l->b, l->p, l->q, l->t, l->z_scale, l->c_scale, beta);
        kt_sync(cpu, s);
        cpu->stream_free(s);
        kt_check(l->z, z, tol, "z of %lldx%lldx%lld, rank %lld, t %d", (long long)l->M,
                 (long long)l->N, (long long)l->K, (long long)l->R, l->t);
        kt_check(got, c, tol, "%lldx%lldx%lld, rank %lld, t %d, beta %g", (long long)l->M,
                 (long long)l->N, (long long)l->K, (long long)l->R, l->t, (double)beta);
        if (threads == 1)
            first = got;
        else
            kt_check_same_bits(got, first, "%d threads", threads);
        if (threads > 1)
            kt_free(got);
    }
    kt_free(first), kt_free(a), kt_free(b), kt_free(p), kt_free(q), kt_free(c), kt_free(z);
}

static void low_rank_updates_of_random_odd_shapes_match_the_reference(void **state)
{
    struct kt_rng r = kt_rng(62);

    (void)state;
    for (int i = 0; i < 32; i++) {
        struct low l = low_new(&r, i & 1 ? KN_BF16 : KN_F32, i < 16 ? 70 : 300, i & 2, i & 4);

        if (i & 8)
            kt_random(&r, l.c, 2.0);
        check_cpu(&l, l.c, i & 8 ? 1.0f : 0.0f);
        low_free(&l);
    }
}

/* a op(b) is -1, and a op(p) a little more than 1: 1 in bf16. */
static void in_the_sum_z_counts_as_it_is_stored(void **state)
{
    const int64_t rows[] = {3, 40};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct kn_stream *s = kt_stream(cpu, 1);
        struct kn_mat a = kt_new(KN_BF16, rows[i], 2, false), b = kt_new(KN_BF16, 1, 2, false),
                      p = kt_new(KN_BF16, 1, 2, false), q = kt_new(KN_BF16, 1, 1, false);
        struct kn_mat z = kt_new(KN_BF16, rows[i], 1, false),
                      c = kt_new(KN_BF16, rows[i], 1, false);

        cpu->fill(s, a, 1.0f), cpu->fill(s, b, 0.0f), cpu->fill(s, p, 1.0f), cpu->fill(s, q, 1.0f);
        kt_set(b, 0, 0, -1.0);
        for (int64_t m = 0; m < rows[i]; m++)
            kt_set(a, m, 1, 0x1p-9);
        cpu->matmul_low(s, c, z, a, b, p, q, true, 1.0f, 1.0f, 0.0f);
        kt_sync(cpu, s);
        for (int64_t m = 0; m < rows[i]; m++)
            assert_true(kt_get(z, m, 0) == 1.0 && kt_get(c, m, 0) == 0.0);
        cpu->stream_free(s);
        kt_free(a), kt_free(b), kt_free(p), kt_free(q), kt_free(z), kt_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_low_rank_update_follows_its_definition),
        cmocka_unit_test(the_gradients_of_a_low_rank_update_are_its_derivatives),
        cmocka_unit_test(low_rank_updates_of_random_odd_shapes_match_the_reference),
        cmocka_unit_test(in_the_sum_z_counts_as_it_is_stored),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
