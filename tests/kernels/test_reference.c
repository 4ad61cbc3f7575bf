/* test_reference.c - the reference back end's gradients against central differences of its own
 * forward passes.
 *
 * All in double (KN_F64). The loss is the dot product of the output with a random matrix, which is
 * also the gradient that the backward pass is given; each input is moved along a random direction.
 * lse, rstd, g and dg are fp32 by contract, which sets the floor of the tolerance.
 */
#include "tests/kernels/kn_test.h"
#include <math.h>
#include <stdlib.h>

static const struct kn_ops *const ops = &kn_reference_ops;

struct matmul_case {
    struct kn_stream *s;
    struct kn_mat a, b, c, w;
    bool ta, tb;
};

static double matmul_loss(void *arg)
{
    struct matmul_case *m = arg;

    ops->matmul(m->s, m->c, m->a, m->ta, m->b, m->tb, 0.75f, 0.0f);
    return kt_dot(m->c, m->w);
}

static void the_gradients_of_a_product_are_products(void **state)
{
    struct kt_rng r = kt_rng(10);

    (void)state;
    for (int flags = 0; flags < 4; flags++) {
        int64_t M = 5, K = 7, N = 3;
        struct matmul_case m = {.s = kt_stream(ops, 1), .ta = flags & 1, .tb = flags & 2};
        struct kn_mat da, db;

        m.a = m.ta ? kt_new(KN_F64, K, M, true) : kt_new(KN_F64, M, K, true);
        m.b = m.tb ? kt_new(KN_F64, N, K, true) : kt_new(KN_F64, K, N, true);
        m.c = kt_new(KN_F64, M, N, true);
        m.w = kt_new(KN_F64, M, N, true);
        da = kt_new(KN_F64, m.a.rows, m.a.cols, false);
        db = kt_new(KN_F64, m.b.rows, m.b.cols, false);
        kt_random(&r, m.a, 1.0);
        kt_random(&r, m.b, 1.0);
        kt_random(&r, m.w, 1.0);
        if (m.ta)
            ops->matmul(m.s, da, m.b, m.tb, m.w, true, 0.75f, 0.0f);
        else
            ops->matmul(m.s, da, m.w, false, m.b, !m.tb, 0.75f, 0.0f);
        if (m.tb)
            ops->matmul(m.s, db, m.w, true, m.a, m.ta, 0.75f, 0.0f);
        else
            ops->matmul(m.s, db, m.a, !m.ta, m.w, false, 0.75f, 0.0f);
        /* The product itself, by hand: where it is zero, so are all gradients. */
        (void)matmul_loss(&m);
        for (int64_t i = 0; i < M * N; i++) {
            double sum = 0.0;

            for (int64_t k = 0; k < K; k++)
                sum += kt_get(m.a, m.ta ? k : i / N, m.ta ? i / N : k) *
                       kt_get(m.b, m.tb ? i % N : k, m.tb ? k : i % N);
            assert_true(fabs(kt_get(m.c, i / N, i % N) - 0.75 * sum) < 1e-12);
        }
        kt_check_gradient(&r, matmul_loss, &m, m.a, da, "a");
        kt_check_gradient(&r, matmul_loss, &m, m.b, db, "b");
        kt_sync(ops, m.s);
        ops->stream_free(m.s);
        kt_free(m.a), kt_free(m.b), kt_free(m.c), kt_free(m.w), kt_free(da), kt_free(db);
    }
}

struct rmsnorm_case {
    struct kn_stream *s;
    struct kn_mat x, y, w;
    float g[13], rstd[4];
};

static double rmsnorm_loss(void *arg)
{
    struct rmsnorm_case *n = arg;

    ops->rmsnorm_fwd(n->s, n->y, n->rstd, n->x, n->g, 1e-5f);
    return kt_dot(n->y, n->w);
}

static void the_gradients_of_rmsnorm_are_its_derivatives(void **state)
{
    struct kt_rng r = kt_rng(11);
    struct rmsnorm_case n = {.s = kt_stream(ops, 1),
                             .x = kt_new(KN_F64, 4, 13, true),
                             .y = kt_new(KN_F64, 4, 13, true),
                             .w = kt_new(KN_F64, 4, 13, true)};
    struct kn_mat dx = kt_new(KN_F64, 4, 13, false);
    float dg[13];

    (void)state;
    kt_random(&r, n.x, 2.0);
    kt_random(&r, n.w, 1.0);
    for (int c = 0; c < 13; c++) {
        n.g[c] = (float)(1.0 + 0.3 * kt_normal(&r));
        dg[c] = 2.0f; /* the op adds */
    }
    ops->fill(n.s, dx, 0.0f);
    (void)rmsnorm_loss(&n);
    ops->rmsnorm_bwd(n.s, dx, dg, n.w, n.x, n.g, n.rstd);
    kt_check_gradient(&r, rmsnorm_loss, &n, n.x, dx, "x");
    (void)rmsnorm_loss(&n); /* y at x itself again */
    for (int64_t t = 0; t < 4; t++) {
        double squares = 0.0;

        for (int c = 0; c < 13; c++)
            squares += kt_get(n.x, t, c) * kt_get(n.x, t, c);
        for (int c = 0; c < 13; c++)
            assert_true(fabs(kt_get(n.y, t, c) - kt_get(n.x, t, c) * (double)n.g[c] /
                                                     sqrt(squares / 13 + 1e-5)) < 1e-9);
    }
    for (int c = 0; c < 13; c++) {
        double sum = 0.0; /* y is linear in g: its derivative is y/g */

        for (int64_t t = 0; t < 4; t++)
            sum += kt_get(n.w, t, c) * kt_get(n.y, t, c) / (double)n.g[c];
        assert_true(fabs((double)dg[c] - 2.0 - sum) < 1e-6 * (2.0 + fabs(sum)));
    }
    kt_sync(ops, n.s);
    ops->stream_free(n.s);
    kt_free(n.x), kt_free(n.y), kt_free(n.w), kt_free(dx);
}

struct swiglu_case {
    struct kn_stream *s;
    struct kn_mat gate, up, h, w;
};

static double swiglu_loss(void *arg)
{
    struct swiglu_case *g = arg;

    ops->swiglu_fwd(g->s, g->h, g->gate, g->up);
    return kt_dot(g->h, g->w);
}

static void the_gradients_of_swiglu_are_its_derivatives(void **state)
{
    struct kt_rng r = kt_rng(12);
    struct swiglu_case g = {.s = kt_stream(ops, 1)};
    struct kn_mat *all[] = {&g.gate, &g.up, &g.h, &g.w};
    struct kn_mat dgate = kt_new(KN_F64, 6, 11, true), dup = kt_new(KN_F64, 6, 11, true);

    (void)state;
    for (int i = 0; i < 4; i++) {
        *all[i] = kt_new(KN_F64, 6, 11, true);
        kt_random(&r, *all[i], 2.0);
    }
    ops->swiglu_bwd(g.s, dgate, dup, g.w, g.gate, g.up);
    kt_check_gradient(&r, swiglu_loss, &g, g.gate, dgate, "gate");
    kt_check_gradient(&r, swiglu_loss, &g, g.up, dup, "up");
    kt_sync(ops, g.s);
    ops->stream_free(g.s);
    for (int i = 0; i < 4; i++)
        kt_free(*all[i]);
    kt_free(dgate), kt_free(dup);
}

struct rope_case {
    struct kn_stream *s;
    struct kn_mat x, y, w;
    float cos_sin[9 * 6];
    int32_t pos[4];
};

static double rope_loss(void *arg)
{
    struct rope_case *o = arg;

    ops->copy(o->s, o->y, o->x);
    ops->rope(o->s, o->y, 6, o->cos_sin, o->pos, false);
    return kt_dot(o->y, o->w);
}

static void the_inverse_rotation_is_the_gradient_of_rope(void **state)
{
    struct kt_rng r = kt_rng(13);
    struct rope_case o = {.s = kt_stream(ops, 1),
                          .x = kt_new(KN_F64, 4, 12, true),
                          .y = kt_new(KN_F64, 4, 12, true),
                          .w = kt_new(KN_F64, 4, 12, true),
                          .pos = {8, 0, 3, 3}};
    struct kn_mat dx;

    (void)state;
    for (int p = 0; p < 9; p++) {
        for (int i = 0; i < 3; i++) {
            o.cos_sin[p * 6 + i] = (float)cos(p * pow(10.0, -i));
            o.cos_sin[p * 6 + 3 + i] = (float)sin(p * pow(10.0, -i));
        }
    }
    kt_random(&r, o.x, 1.0);
    kt_random(&r, o.w, 1.0);
    dx = kt_copy(o.w);
    ops->rope(o.s, dx, 6, o.cos_sin, o.pos, true);
    kt_check_gradient(&r, rope_loss, &o, o.x, dx, "x");
    /* Forward by hand, one pair: position 8, frequency 1. */
    (void)rope_loss(&o);
    assert_true(fabs(kt_get(o.y, 0, 0) -
                     (kt_get(o.x, 0, 0) * cos(8.0) - kt_get(o.x, 0, 3) * sin(8.0))) < 1e-6);
    assert_true(fabs(kt_get(o.y, 0, 3) -
                     (kt_get(o.x, 0, 3) * cos(8.0) + kt_get(o.x, 0, 0) * sin(8.0))) < 1e-6);
    kt_sync(ops, o.s);
    ops->stream_free(o.s);
    kt_free(o.x), kt_free(o.y), kt_free(o.w), kt_free(dx);
}

struct cross_entropy_case {
    struct kn_stream *s;
    struct kn_mat x, w;
    int32_t label[5];
};

static double cross_entropy_loss(void *arg)
{
    struct cross_entropy_case *e = arg;
    double nll[5], sum = 0.0;

    ops->cross_entropy(e->s, nll, (struct kn_mat){0}, e->x, e->w, e->label, 1.0f);
    for (int t = 0; t < 5; t++)
        sum += nll[t];
    return 0.25 * sum;
}

static void
the_gradient_of_cross_entropy_is_its_derivative_and_unlabelled_tokens_have_none(void **state)
{
    struct kt_rng r = kt_rng(14);
    struct cross_entropy_case e = {.s = kt_stream(ops, 1),
                                   .x = kt_new(KN_F64, 5, 7, true),
                                   .w = kt_new(KN_F64, 17, 7, true),
                                   .label = {3, -100, 16, 0, 3}};
    struct kn_mat d = kt_new(KN_F64, 17, 5, true), dx = kt_new(KN_F64, 5, 7, true),
                  dw = kt_new(KN_F64, 17, 7, true);
    double nll[5];

    (void)state;
    kt_random(&r, e.x, 1.0);
    kt_random(&r, e.w, 1.0);
    ops->cross_entropy(e.s, nll, d, e.x, e.w, e.label, 0.25f);
    ops->matmul(e.s, dx, d, true, e.w, false, 1, 0);
    ops->matmul(e.s, dw, d, false, e.x, false, 1, 0);
    kt_check_gradient(&r, cross_entropy_loss, &e, e.x, dx, "x");
    kt_check_gradient(&r, cross_entropy_loss, &e, e.w, dw, "w");
    assert_true(nll[1] == 0.0);
    for (int t = 0; t < 5; t++) {
        double z[17] = {0}, sum = 0.0;

        for (int v = 0; v < 17; v++) {
            for (int c = 0; c < 7; c++)
                z[v] += kt_get(e.x, t, c) * kt_get(e.w, v, c);
            sum += exp(z[v]);
        }
        if (e.label[t] >= 0)
            assert_true(fabs(nll[t] - log(sum) + z[e.label[t]]) < 1e-12);
    }
    for (int v = 0; v < 17; v++)
        assert_true(kt_get(d, v, 1) == 0.0);
    /* Whatever their size, logits count by their differences: column 0 puts the last 1000 below the
     * others, then all but the last 5000 up. */
    kt_set(e.x, 0, 0, 1000.0);
    for (int v = 0; v < 17; v++)
        kt_set(e.w, v, 0, v < 16 ? 0.0 : -1.0);
    ops->cross_entropy(e.s, nll + 3, (struct kn_mat){0}, kn_rows(e.x, 0, 1), e.w, e.label, 1.0f);
    for (int v = 0; v < 16; v++)
        kt_set(e.w, v, 0, 5.0);
    ops->cross_entropy(e.s, nll + 4, (struct kn_mat){0}, kn_rows(e.x, 0, 1), e.w, e.label, 1.0f);
    assert_true(fabs(nll[4] - nll[3]) < 1e-9);
    kt_sync(ops, e.s);
    ops->stream_free(e.s);
    kt_free(e.x), kt_free(e.w), kt_free(d), kt_free(dx), kt_free(dw);
}

struct attention_case {
    struct kn_stream *s;
    struct kn_segments seg;
    struct kn_mat q, k, v, o, w;
    float *lse;
    int64_t H, KV, D;
    float scale;
};

static double attention_loss(void *arg)
{
    struct attention_case *a = arg;

    ops->attention_fwd(a->s, a->o, a->lse, a->q, a->k, a->v, &a->seg, a->H, a->KV, a->D, a->scale);
    return kt_dot(a->o, a->w);
}

static void check_attention(struct kt_rng *r, const struct kn_segments_spec *spec, int64_t KV,
                            int64_t D)
{
    struct attention_case a = {
        .s = kt_stream(ops, 1), .H = spec->heads, .KV = KV, .D = D, .scale = 0.5f};
    int64_t T = spec->rows * spec->row_tokens;
    struct kn_mat dq = kt_new(KN_F64, T, a.H * D, true), dk = kt_new(KN_F64, T, KV * D, true);
    struct kn_mat dv = kt_new(KN_F64, T, KV * D, true);

    assert_int_equal(kn_segments_init(spec, &a.seg, NULL), 0);
    a.q = kt_new(KN_F64, T, a.H * D, true);
    a.o = kt_new(KN_F64, T, a.H * D, true);
    a.w = kt_new(KN_F64, T, a.H * D, true);
    a.k = kt_new(KN_F64, T, KV * D, true);
    a.v = kt_new(KN_F64, T, KV * D, true);
    a.lse = calloc((size_t)(a.H * T), sizeof(float));
    assert_non_null(a.lse);
    kt_random(r, a.q, 1.0);
    kt_random(r, a.k, 1.0);
    kt_random(r, a.v, 1.0);
    kt_random(r, a.w, 1.0);
    (void)attention_loss(&a);
    ops->attention_bwd(a.s, dq, dk, dv, a.w, a.q, a.k, a.v, a.o, a.lse, &a.seg, a.H, KV, D,
                       a.scale);
    kt_check_gradient(r, attention_loss, &a, a.q, dq, "q");
    kt_check_gradient(r, attention_loss, &a, a.k, dk, "k");
    kt_check_gradient(r, attention_loss, &a, a.v, dv, "v");
    kt_sync(ops, a.s);
    ops->stream_free(a.s);
    kn_segments_release(&a.seg);
    free(a.lse);
    kt_free(a.q), kt_free(a.k), kt_free(a.v), kt_free(a.o), kt_free(a.w), kt_free(dq), kt_free(dk),
        kt_free(dv);
}

static void the_gradients_of_attention_are_its_derivatives(void **state)
{
    struct kt_rng r = kt_rng(15);
    const int64_t heads[][3] = {{1, 1, 2}, {3, 1, 4}, {4, 2, 6}, {9, 3, 4}, {3, 3, 2}};

    (void)state;
    for (unsigned i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        int32_t *documents;
        struct kn_segments_spec spec = kt_segments_spec(&r, 24, heads[i][0], &documents);

        kt_segments_print(&spec);
        check_attention(&r, &spec, heads[i][1], heads[i][2]);
        free(documents);
    }
}

/* Softmax written out for one row, as a check that does not share code with the op. */
static void attention_forward_is_the_masked_softmax(void **state)
{
    struct kt_rng r = kt_rng(16);
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 9, .group = 4, .heads = 3};
    struct attention_case a = {.s = kt_stream(ops, 1), .H = 3, .KV = 1, .D = 4, .scale = 0.7f};

    (void)state;
    assert_int_equal(kn_segments_init(&spec, &a.seg, NULL), 0);
    a.q = kt_new(KN_F64, 9, 12, true), a.o = kt_new(KN_F64, 9, 12, true),
    a.w = kt_new(KN_F64, 9, 12, true);
    a.k = kt_new(KN_F64, 9, 4, true), a.v = kt_new(KN_F64, 9, 4, true);
    a.lse = calloc(27, sizeof(float));
    kt_random(&r, a.q, 1.0), kt_random(&r, a.k, 1.0), kt_random(&r, a.v, 1.0),
        kt_random(&r, a.w, 1.0);
    (void)attention_loss(&a);
    for (int64_t h = 0; h < 3; h++) {
        for (int64_t i = 0; i < 9; i++) {
            double sum = 0.0, out[4] = {0};

            for (int64_t j = 0; j <= i; j++) {
                bool seen = h < 1 ? j / 4 == i / 4 : (j + 2) / 4 == (i + 2) / 4;
                double score = 0.0;

                for (int64_t d = 0; d < 4; d++)
                    score += kt_get(a.q, i, h * 4 + d) * kt_get(a.k, j, d);
                score = seen ? exp((double)0.7f * score) : 0.0;
                sum += score;
                for (int64_t d = 0; d < 4; d++)
                    out[d] += score * kt_get(a.v, j, d);
            }
            assert_true(fabs((double)a.lse[h * 9 + i] - log(sum)) < 1e-6);
            for (int64_t d = 0; d < 4; d++)
                assert_true(fabs(kt_get(a.o, i, h * 4 + d) - out[d] / sum) < 1e-12);
        }
    }
    ops->stream_free(a.s);
    kn_segments_release(&a.seg);
    free(a.lse);
    kt_free(a.q), kt_free(a.k), kt_free(a.v), kt_free(a.o), kt_free(a.w);
}

static void one_adamw_step_follows_the_formula(void **state)
{
    struct kn_stream *s = kt_stream(ops, 1);
    struct kn_adamw h = {.lr = 0.01f,
                         .beta1 = 0.9f,
                         .beta2 = 0.95f,
                         .eps = 1e-8f,
                         .weight_decay = 0.1f,
                         .t = 1,
                         .grad_scale = 0.5f};
    float p[2] = {1.0f, -2.0f}, m[2] = {0}, v[2] = {0}, g[2] = {4.0f, 0.0f};
    uint16_t low[2];

    (void)state;
    ops->adamw(s, p, m, v, g, low, 2, &h);
    /* At t = 1 the corrected step is lr * sign(g); decay comes first. */
    assert_true(fabs((double)p[0] - (1.0 * (1.0 - 0.001) - 0.01)) < 1e-6);
    assert_true(fabs((double)p[1] - (-2.0 * (1.0 - 0.001))) < 1e-6);
    assert_true(fabs((double)m[0] - 0.2) < 1e-6 && fabs((double)v[0] - 0.2) < 1e-6);
    assert_int_equal(low[0], kn_f32_to_bf16(p[0]));
    kt_sync(ops, s);
    ops->stream_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gradients_of_a_product_are_products),
        cmocka_unit_test(the_gradients_of_rmsnorm_are_its_derivatives),
        cmocka_unit_test(the_gradients_of_swiglu_are_its_derivatives),
        cmocka_unit_test(the_inverse_rotation_is_the_gradient_of_rope),
        cmocka_unit_test(
            the_gradient_of_cross_entropy_is_its_derivative_and_unlabelled_tokens_have_none),
        cmocka_unit_test(attention_forward_is_the_masked_softmax),
        cmocka_unit_test(the_gradients_of_attention_are_its_derivatives),
        cmocka_unit_test(one_adamw_step_follows_the_formula),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
