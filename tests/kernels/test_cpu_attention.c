/* test_cpu_attention.c - attention of the CPU back end against the reference: both types, odd head
 * sizes and counts, random segments with ragged ends, large scores, cached keys; and properties
 * that need no reference.
 */
#include "tests/kernels/kn_test.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct kn_ops *const cpu = &kn_cpu_ops, *const ref = &kn_reference_ops;

struct heads {
    int64_t H, KV, D;
};

/* One problem: inputs of some type, and outputs. */
struct problem {
    struct heads n;
    enum kn_dtype t;
    int64_t T;
    float scale;
    struct kn_segments seg;
    struct kn_mat q, k, v, d_o;       /* inputs */
    struct kn_mat o, dq, dk, dv, lse; /* outputs; lse is (H,T) fp32 without spare columns */
};

static struct problem problem_new(struct kt_rng *r, enum kn_dtype t, struct heads n,
                                  const struct kn_segments_spec *spec, double size)
{
    struct problem p = {.n = n,
                        .t = t,
                        .T = spec->rows * spec->row_tokens,
                        .scale = (float)(1.0 / sqrt((double)n.D))};
    struct lh_err err = {0};
    struct kn_mat *wide[] = {&p.q, &p.d_o, &p.o, &p.dq}, *narrow[] = {&p.k, &p.v, &p.dk, &p.dv};

    if (kn_segments_init(spec, &p.seg, &err) != 0)
        fail_msg("%s", err.text);
    for (int i = 0; i < 4; i++) {
        *wide[i] = kt_new(t, p.T, n.H * n.D, true);
        *narrow[i] = kt_new(t, p.T, n.KV * n.D, true);
    }
    p.lse = kt_new(KN_F32, n.H, p.T, false);
    kt_random(r, p.q, size), kt_random(r, p.k, size), kt_random(r, p.v, 1.0),
        kt_random(r, p.d_o, 1.0);
    return p;
}

static void problem_free(struct problem *p)
{
    struct kn_mat all[] = {p->q, p->k, p->v, p->d_o, p->o, p->dq, p->dk, p->dv, p->lse};

    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        kt_free(all[i]);
    kn_segments_release(&p->seg);
}

/* The same inputs in double, and empty outputs. */
static struct problem problem_f64(const struct problem *p)
{
    struct problem d = *p;
    struct kn_mat *all[] = {&d.q, &d.k, &d.v, &d.d_o, &d.o, &d.dq, &d.dk, &d.dv};
    size_t bytes = (size_t)p->T * sizeof(int32_t);

    d.t = KN_F64;
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        *all[i] = kt_f64(*all[i]);
    d.lse = kt_copy(p->lse);
    d.seg.begin[0] = malloc(bytes + 1);
    memcpy(d.seg.begin[0], p->seg.begin[0], bytes);
    d.seg.begin[1] = d.seg.begin[0];
    if (p->seg.begin[1] != p->seg.begin[0]) {
        d.seg.begin[1] = malloc(bytes + 1);
        memcpy(d.seg.begin[1], p->seg.begin[1], bytes);
    }
    return d;
}

static void run_on(const struct kn_ops *ops, struct kn_stream *s, struct problem *p)
{
    struct kn_mat out[] = {p->o, p->dq, p->dk, p->dv, p->lse};

    for (unsigned i = 0; i < sizeof(out) / sizeof(out[0]); i++)
        kt_poison(out[i]);
    ops->attention_fwd(s, p->o, p->lse.p, p->q, p->k, p->v, &p->seg, p->n.H, p->n.KV, p->n.D,
                       p->scale);
    ops->attention_bwd(s, p->dq, p->dk, p->dv, p->d_o, p->q, p->k, p->v, p->o, p->lse.p, &p->seg,
                       p->n.H, p->n.KV, p->n.D, p->scale);
    kt_sync(ops, s);
}

static void run(const struct kn_ops *ops, struct problem *p, int threads)
{
    struct kn_stream *s = kt_stream(ops, threads);

    run_on(ops, s, p);
    ops->stream_free(s);
}

static struct kt_tol tol_o(enum kn_dtype t)
{
    return t == KN_F32 ? (struct kt_tol){5e-6, 1e-5} : (struct kt_tol){3e-3, 1e-2};
}

static struct kt_tol tol_grad(enum kn_dtype t)
{
    return t == KN_F32 ? (struct kt_tol){1e-5, 2e-5} : (struct kt_tol){8e-3, 2e-2};
}

static void check_problem(struct kt_rng *r, enum kn_dtype t, struct heads n,
                          const struct kn_segments_spec *spec, double size)
{
    struct problem p = problem_new(r, t, n, spec, size), want = problem_f64(&p);

    run(ref, &want, 1);
    for (int i = 0; i < 4; i++) {
        const int threads = (const int[]){1, 2, 3, 5}[i];
        struct kn_mat o, dq, dk, dv, lse;

        if (threads > 1)
            o = kt_copy(p.o), dq = kt_copy(p.dq), dk = kt_copy(p.dk), dv = kt_copy(p.dv),
            lse = kt_copy(p.lse);
        run(cpu, &p, threads);
        if (threads > 1) {
            kt_check_same_bits(p.o, o, "o with %d threads", threads);
            kt_check_same_bits(p.lse, lse, "lse with %d threads", threads);
            kt_check_same_bits(p.dq, dq, "dq with %d threads", threads);
            kt_check_same_bits(p.dk, dk, "dk with %d threads", threads);
            kt_check_same_bits(p.dv, dv, "dv with %d threads", threads);
            kt_free(o), kt_free(dq), kt_free(dk), kt_free(dv), kt_free(lse);
        }
    }
    for (int64_t i = 0; i < n.H * p.T; i++)
        assert_true(fabs(kt_get(p.lse, i / p.T, i % p.T) - kt_get(want.lse, i / p.T, i % p.T)) <
                    1e-4 + 2e-7 * fabs(kt_get(want.lse, i / p.T, i % p.T)));
    kt_check(p.o, want.o, tol_o(t), "o, type %d", (int)t);
    kt_check(p.dq, want.dq, tol_grad(t), "dq, type %d", (int)t);
    kt_check(p.dk, want.dk, tol_grad(t), "dk, type %d", (int)t);
    kt_check(p.dv, want.dv, tol_grad(t), "dv, type %d", (int)t);
    problem_free(&p);
    problem_free(&want);
}

static void attention_matches_the_reference_over_random_segments(void **state)
{
    struct kt_rng r = kt_rng(30);
    const struct heads heads[] = {{1, 1, 2},  {3, 1, 16}, {4, 4, 20}, {9, 3, 32},
                                  {2, 1, 64}, {5, 5, 34}, {6, 2, 80}};

    (void)state;
    for (unsigned i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        for (int round = 0; round < 2; round++) {
            int32_t *documents;
            struct kn_segments_spec spec =
                kt_segments_spec(&r, round ? 60 : 330, heads[i].H, &documents);

            kt_segments_print(&spec);
            check_problem(&r, KN_F32, heads[i], &spec, 1.0);
            check_problem(&r, KN_BF16, heads[i], &spec, 1.0);
            free(documents);
        }
    }
}

static void attention_matches_the_reference_at_the_greatest_head_size(void **state)
{
    struct kt_rng r = kt_rng(31);
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 150, .group = 64, .heads = 2};

    (void)state;
    check_problem(&r, KN_F32, (struct heads){2, 1, 256}, &spec, 1.0);
    check_problem(&r, KN_BF16, (struct heads){2, 1, 256}, &spec, 1.0);
}

static void attention_stays_exact_when_scores_are_large(void **state)
{
    struct kt_rng r = kt_rng(32);
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 200, .heads = 2};

    (void)state;
    /* Scores of some 80: products of numbers of size 4.5 over 16 elements. */
    check_problem(&r, KN_F32, (struct heads){2, 2, 16}, &spec, 4.5);
}

/* Scores that grow along the keys, slowly and fast: the running base of a row stays behind the
 * greatest score for a while, or moves in every tile. */
static void scores_that_grow_along_the_keys_match_the_reference(void **state)
{
    struct kt_rng r = kt_rng(38);
    const double growth[] = {0.004, 0.02, 0.15};
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 700, .heads = 2};

    (void)state;
    for (unsigned i = 0; i < 2 * sizeof(growth) / sizeof(growth[0]); i++) {
        enum kn_dtype t = i % 2 ? KN_F32 : KN_BF16;
        struct problem p = problem_new(&r, t, (struct heads){2, 1, 16}, &spec, 1.0), want;

        /* One element of q is 4, so that a score is that of chance and growth * key on top. */
        for (int64_t j = 0; j < p.T; j++) {
            kt_set(p.q, j, 0, 4.0), kt_set(p.q, j, 16, 4.0);
            kt_set(p.k, j, 0, growth[i / 2] * (double)j);
        }
        want = problem_f64(&p);
        run(ref, &want, 1);
        run(cpu, &p, 2);
        kt_check(p.o, want.o, tol_o(t), "o, growth %g", growth[i / 2]);
        /* In bf16 the rounding of o, as delta feels it, counts as often as keys are large. */
        if (t == KN_F32) {
            kt_check(p.dq, want.dq, tol_grad(t), "dq, growth %g", growth[i / 2]);
            kt_check(p.dk, want.dk, tol_grad(t), "dk, growth %g", growth[i / 2]);
        }
        kt_check(p.dv, want.dv, tol_grad(t), "dv, growth %g", growth[i / 2]);
        for (int64_t h = 0; h < 2; h++)
            for (int64_t j = 0; j < p.T; j++)
                assert_true(fabs(kt_get(p.lse, h, j) - kt_get(want.lse, h, j)) <
                            1e-4 + 2e-7 * fabs(kt_get(want.lse, h, j)));
        problem_free(&p);
        problem_free(&want);
    }
}

static void long_segments_and_their_tails_match_the_reference(void **state)
{
    struct kt_rng r = kt_rng(33);
    const int64_t tokens[] = {0, 1, 31, 32, 33, 127, 128, 129, 257, 700};

    (void)state;
    for (unsigned i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        struct kn_segments_spec spec = {.rows = 1, .row_tokens = tokens[i], .heads = 2};

        check_problem(&r, KN_F32, (struct heads){2, 1, 8}, &spec, 1.0);
        check_problem(&r, KN_BF16, (struct heads){2, 1, 8}, &spec, 1.0);
    }
}

/* Segments that begin inside a block of 32 keys and go on past its tile: only a mask away from the
 * diagonal is right. */
static void cuts_inside_a_block_hold_for_queries_far_behind_them(void **state)
{
    struct kt_rng r = kt_rng(37);
    int32_t documents[800];
    struct kn_segments_spec spec = {
        .rows = 1, .row_tokens = 800, .heads = 2, .documents = documents};

    (void)state;
    for (int t = 0; t < 800; t++)
        documents[t] = (t >= 45) + (t >= 333);
    check_problem(&r, KN_F32, (struct heads){2, 1, 16}, &spec, 1.0);
    check_problem(&r, KN_BF16, (struct heads){2, 1, 16}, &spec, 1.0);
    spec.documents = NULL;
    spec.group = 398;
    check_problem(&r, KN_BF16, (struct heads){2, 1, 16}, &spec, 1.0);
}

/* Queries that see keys some chunks of the backward pass before them, of both classes of heads, in
 * groups of heads of one class and of both. */
static void shifted_groups_over_several_chunks_match_the_reference(void **state)
{
    struct kt_rng r = kt_rng(39);
    const int64_t size[][2] = {{1100, 550}, {1030, 1030}, {1000, 250}}; /* tokens, group */

    (void)state;
    for (unsigned i = 0; i < sizeof(size) / sizeof(size[0]); i++) {
        struct kn_segments_spec spec = {
            .rows = 1, .row_tokens = size[i][0], .group = size[i][1], .heads = 6};

        check_problem(&r, KN_F32, (struct heads){6, 3, 8}, &spec, 1.0);
        check_problem(&r, KN_BF16, (struct heads){6, 2, 64}, &spec, 1.0);
    }
}

/* More tokens than a band of either pass has (1024 and 2048 with two threads): segments across
 * its ends, within one band or over most of it, and whole rows, seen from all bands. */
static void a_sequence_of_several_bands_matches_the_reference(void **state)
{
    struct kt_rng r = kt_rng(40);
    const int64_t size[][2] = {{4500, 200}, {4700, 1000}, {2500, 0}}; /* tokens, group */

    (void)state;
    for (unsigned i = 0; i < sizeof(size) / sizeof(size[0]); i++) {
        struct kn_segments_spec spec = {
            .rows = 1, .row_tokens = size[i][0], .group = size[i][1], .heads = 3};

        check_problem(&r, KN_F32, (struct heads){3, 1, 8}, &spec, 1.0);
        check_problem(&r, KN_BF16, (struct heads){3, 1, 8}, &spec, 1.0);
    }
}

/* A plan is made without documents, and steps with other documents allocate nothing. */
static void scratch_does_not_depend_on_documents(void **state)
{
    struct kt_rng r = kt_rng(41);
    const int64_t size[][2] = {{2500, 0}, {2500, 600}, {300, 0}}; /* tokens, group */
    const struct heads n = {3, 3, 16};
    int32_t documents[2500];

    (void)state;
    for (int t = 0; t < 2500; t++)
        documents[t] = t / 130;
    for (unsigned i = 0; i < 2 * sizeof(size) / sizeof(size[0]); i++) {
        uint64_t bytes[2];

        for (int with = 0; with < 2; with++) {
            struct kn_segments_spec spec = {.rows = 1,
                                            .row_tokens = size[i / 2][0],
                                            .group = size[i / 2][1],
                                            .heads = n.H,
                                            .documents = with ? documents : NULL};
            struct problem p = problem_new(&r, i % 2 ? KN_F32 : KN_BF16, n, &spec, 1.0);
            struct kn_stream *s = kt_stream(cpu, 2);

            run_on(cpu, s, &p);
            bytes[with] = cpu->scratch_bytes(s);
            cpu->stream_free(s);
            problem_free(&p);
        }
        assert_int_equal(bytes[0], bytes[1]);
    }
}

/* Changing a token must not change any row that does not see it, by a single bit. */
static void no_row_feels_a_later_token_or_another_segment(void **state)
{
    struct kt_rng r = kt_rng(34);
    const struct heads n = {3, 3, 16};

    (void)state;
    for (int round = 0; round < 12; round++) {
        int32_t *documents;
        struct kn_segments_spec spec = kt_segments_spec(&r, 300, n.H, &documents);
        struct problem p = problem_new(&r, round % 2 ? KN_F32 : KN_BF16, n, &spec, 1.0);
        int64_t changed = kt_between(&r, 0, p.T - 1);
        struct kn_mat o;

        run(cpu, &p, 2);
        o = kt_copy(p.o);
        for (int64_t c = 0; c < n.KV * n.D; c++) {
            kt_set(p.k, changed, c, 3.0);
            kt_set(p.v, changed, c, -40.0);
        }
        run(cpu, &p, 2);
        for (int64_t h = 0; h < n.H; h++) {
            const int32_t *begin = p.seg.begin[h >= p.seg.shift_from];

            for (int64_t i = 0; i < p.T; i++) {
                struct kn_mat before = kn_sub(o, i, 1, h * n.D, n.D),
                              after = kn_sub(p.o, i, 1, h * n.D, n.D);

                if (changed < begin[i] || changed > i)
                    kt_check_same_bits(after, before, "row %lld of head %lld, token %lld changed",
                                       (long long)i, (long long)h, (long long)changed);
                else if (begin[i] == i) /* it sees itself alone, so its output is its value */
                    assert_true(kt_get(after, 0, 0) == -40.0);
            }
        }
        kt_free(o);
        problem_free(&p);
        free(documents);
    }
}

static void check_cached(struct kt_rng *r, enum kn_dtype t, struct heads n, int64_t q0, int64_t Tq)
{
    struct kn_mat q = kt_new(t, Tq, n.H * n.D, true), o = kt_new(t, Tq, n.H * n.D, true);
    struct kn_mat k = kt_new(t, q0 + Tq, n.KV * n.D, true),
                  v = kt_new(t, q0 + Tq, n.KV * n.D, true);
    struct kn_mat q64, k64, v64, o64;
    struct kn_stream *s = kt_stream(cpu, 2), *rs = kt_stream(ref, 1);

    kt_random(r, q, 1.0), kt_random(r, k, 1.0), kt_random(r, v, 1.0);
    q64 = kt_f64(q), k64 = kt_f64(k), v64 = kt_f64(v), o64 = kt_f64(o);
    cpu->attention_cached(s, o, q, k, v, q0, n.H, n.KV, n.D, 0.3f);
    ref->attention_cached(rs, o64, q64, k64, v64, q0, n.H, n.KV, n.D, 0.3f);
    kt_sync(cpu, s);
    kt_check(o, o64, tol_o(t), "%lld queries after %lld", (long long)Tq, (long long)q0);
    cpu->stream_free(s), ref->stream_free(rs);
    kt_free(q), kt_free(k), kt_free(v), kt_free(o), kt_free(q64), kt_free(k64), kt_free(v64),
        kt_free(o64);
}

static void queries_against_cached_keys_match_the_reference(void **state)
{
    struct kt_rng r = kt_rng(35);
    const int64_t at[][2] = {{0, 1}, {0, 40}, {1, 1}, {299, 1}, {130, 5}, {100, 33}, {257, 140}};

    (void)state;
    for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        check_cached(&r, KN_F32, (struct heads){6, 2, 24}, at[i][0], at[i][1]);
        check_cached(&r, KN_BF16, (struct heads){6, 2, 24}, at[i][0], at[i][1]);
    }
}

/* Both passes of an fp32 problem against the reference; frees it. */
static void check_f32(struct problem *p)
{
    struct problem want = problem_f64(p);

    run(ref, &want, 1);
    run(cpu, p, 2);
    kt_check(p->o, want.o, tol_o(KN_F32), "o");
    kt_check(p->dq, want.dq, tol_grad(KN_F32), "dq");
    kt_check(p->dk, want.dk, tol_grad(KN_F32), "dk");
    kt_check(p->dv, want.dv, tol_grad(KN_F32), "dv");
    problem_free(p);
    problem_free(&want);
}

/* Enough heads that a group's packed tiles exceed one round's share: dk and dv wait in scratch
 * between its parts. */
static void a_group_too_large_for_one_round_gives_the_same_gradients(void **state)
{
    struct kt_rng r = kt_rng(36);
    const struct heads n = {20, 1, 256};
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 900, .group = 32, .heads = n.H};
    struct problem p = problem_new(&r, KN_F32, n, &spec, 1.0);

    (void)state;
    check_f32(&p);
}

/* Elements 16 apart share words where tile registers multiply fp32; the last bits of one as tiny as
 * these are denormals. */
static void tiny_elements_do_not_disturb_those_beside_them(void **state)
{
    struct kt_rng r = kt_rng(42);
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 150, .heads = 2};
    struct problem p = problem_new(&r, KN_F32, (struct heads){2, 2, 64}, &spec, 1.0);
    struct kn_mat *all[] = {&p.q, &p.k, &p.v, &p.d_o};

    (void)state;
    for (int i = 0; i < 4; i++)
        for (int64_t t = 0; t < p.T; t++)
            for (int64_t c = 0; c < all[i]->cols; c++)
                if (t % 32 >= 16 || c % 32 >= 16)
                    kt_set(*all[i], t, c, 1e-36 * kt_get(*all[i], t, c));
    check_f32(&p);
}

/* A NaN among the inputs reaches every row that sees it. */
static void nan_in_an_input_is_never_lost(void **state)
{
    struct kt_rng r = kt_rng(43);
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 300, .heads = 1};
    const int64_t at = 140;

    (void)state;
    for (int i = 0; i < 8; i++) {
        struct problem p =
            problem_new(&r, i % 2 ? KN_F32 : KN_BF16, (struct heads){1, 1, 40}, &spec, 1.0);
        struct kn_mat in[] = {p.q, p.k, p.v, p.d_o};

        kt_set(in[i / 2], at, 7, (double)NAN);
        run(cpu, &p, 2);
        /* Its own query, and all later ones if it is of a key or a value. */
        for (int64_t t = at; i / 2 < 3 && t < (i / 2 == 0 ? at + 1 : p.T); t++)
            assert_true(isnan(kt_get(p.o, t, 7)));
        assert_true(isnan(kt_get(p.dq, at, 7)));
        assert_true(isnan(kt_get(p.dk, at, 7)));
        assert_true(i / 2 == 2 || isnan(kt_get(p.dv, at, 7)));
        problem_free(&p);
    }
}

/* |got - want| / |want| of the whole matrix; want is F64. */
static double distance(struct kn_mat got, struct kn_mat want)
{
    double difference = 0.0, size = 0.0;

    for (int64_t r = 0; r < got.rows; r++) {
        for (int64_t c = 0; c < got.cols; c++) {
            double x = kt_get(want, r, c), d = kt_get(got, r, c) - x;

            difference += d * d;
            size += x * x;
        }
    }
    return sqrt(difference / size);
}

/* From the reference, by level. */
struct distances {
    double o, dq, dk, dv;
};

static struct distances distances_at(const char *isa, struct problem *p, const struct problem *want)
{
    char *limit = getenv("LONGHAUL_CPU_ISA"), *before = limit ? strdup(limit) : NULL;
    struct distances d;

    if (isa)
        assert_int_equal(setenv("LONGHAUL_CPU_ISA", isa, 1), 0);
    run(cpu, p, 2);
    if (before)
        assert_int_equal(setenv("LONGHAUL_CPU_ISA", before, 1), 0);
    else
        assert_int_equal(unsetenv("LONGHAUL_CPU_ISA"), 0);
    free(before);
    d = (struct distances){distance(p->o, want->o), distance(p->dq, want->dq),
                           distance(p->dk, want->dk), distance(p->dv, want->dv)};
    print_message("%s: o %.2g, dq %.2g, dk %.2g, dv %.2g\n", isa ? isa : "this level", d.o, d.dq,
                  d.dk, d.dv);
    return d;
}

/* Where tile registers multiply fp32, each number is the sum of three (kernels/cpu/split.h).
 * Without one part's products the distances would be some 20 times as large. */
static void fp32_is_as_exact_at_every_level_as_its_own_instructions_are(void **state)
{
    struct kt_rng r = kt_rng(41);
    struct kn_segments_spec spec = {.rows = 1, .row_tokens = 400, .heads = 2};
    struct problem p = problem_new(&r, KN_F32, (struct heads){2, 1, 64}, &spec, 1.0),
                   want = problem_f64(&p);
    struct distances plain, this;

    (void)state;
    run(ref, &want, 1);
    plain = distances_at("avx512", &p, &want);
    this = distances_at(NULL, &p, &want);
    assert_true(this.o < 1.5 * plain.o && this.dq < 1.5 * plain.dq);
    assert_true(this.dk < 1.5 * plain.dk && this.dv < 1.5 * plain.dv);
    problem_free(&p);
    problem_free(&want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_the_reference_over_random_segments),
        cmocka_unit_test(attention_matches_the_reference_at_the_greatest_head_size),
        cmocka_unit_test(attention_stays_exact_when_scores_are_large),
        cmocka_unit_test(scores_that_grow_along_the_keys_match_the_reference),
        cmocka_unit_test(long_segments_and_their_tails_match_the_reference),
        cmocka_unit_test(cuts_inside_a_block_hold_for_queries_far_behind_them),
        cmocka_unit_test(shifted_groups_over_several_chunks_match_the_reference),
        cmocka_unit_test(a_sequence_of_several_bands_matches_the_reference),
        cmocka_unit_test(scratch_does_not_depend_on_documents),
        cmocka_unit_test(no_row_feels_a_later_token_or_another_segment),
        cmocka_unit_test(queries_against_cached_keys_match_the_reference),
        cmocka_unit_test(a_group_too_large_for_one_round_gives_the_same_gradients),
        cmocka_unit_test(tiny_elements_do_not_disturb_those_beside_them),
        cmocka_unit_test(nan_in_an_input_is_never_lost),
        cmocka_unit_test(fp32_is_as_exact_at_every_level_as_its_own_instructions_are),
    };

    return cmocka_run_group_tests(tests, kt_setup, NULL);
}
