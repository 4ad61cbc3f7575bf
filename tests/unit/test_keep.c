/* test_keep.c - what layers keep for the backward pass: never other bits, and the choice of it for
 * a memory limit. */
#include "kernels/profile.h"
#include "tests/unit/tiny_model.h"
#include "worker/model/keep.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#define ROWS 2
#define ROW 40
#define TOKENS (ROWS * ROW)
#define GROUP 16

/* Grouped heads, and a tile of the MLP that does not divide the tokens. */
static const struct tiny_shape shape = {3, 48, 3, 1, 16, 56, 64, true};
static const int64_t mlp_tile = 24;

struct outcome {
    double nll;
    float *grads;
    int64_t n;
};

static struct outcome train(const struct tiny_options *o)
{
    int32_t ids[TOKENS], labels[TOKENS];
    struct llama_batch b = {
        .rows = ROWS, .row_tokens = ROW, .ids = ids, .labels = labels, .group = GROUP};
    struct outcome out;
    struct lh_err err = {0};
    struct tiny t;

    for (int i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)((tiny_random(3, (uint64_t)i) + 1) / 2 * shape.vocab);
    for (int i = 0; i < TOKENS; i++)
        labels[i] = i % ROW == ROW - 1 ? -100 : ids[i + 1];
    tiny_open(&t, o);
    memset(t.model.params.grad, 0, (size_t)t.model.params.n_region * sizeof(float));
    if (llama_train(&t.model, &b, 0.02f, &out.nll, &err) != 0)
        fail_msg("%s", err.text);
    out.n = t.model.params.n_region;
    out.grads = malloc((size_t)out.n * sizeof(float));
    assert_non_null(out.grads);
    memcpy(out.grads, t.model.params.grad, (size_t)out.n * sizeof(float));
    tiny_close(&t);
    return out;
}

static void check_same_bits(const struct tiny_options *base, const struct outcome *want)
{
    for (unsigned set = 1; set < 1u << WORK_KEEPS; set++) {
        for (int64_t layers = 1; layers <= shape.layers; layers += shape.layers - 1) {
            struct tiny_options o = *base;
            struct outcome got;

            for (int i = 0; i < WORK_KEEPS; i++)
                o.keep[i] = set & 1u << i ? layers : 0;
            got = train(&o);
            assert_int_equal(got.n, want->n);
            if (memcmp(&got.nll, &want->nll, sizeof(got.nll)) != 0 ||
                memcmp(got.grads, want->grads, (size_t)got.n * sizeof(float)) != 0)
                fail_msg("set %#x kept by %lld layers changes the bits", set, (long long)layers);
            free(got.grads);
        }
    }
}

static void check_kinds(const struct kn_ops *ops, enum kn_dtype dtype)
{
    struct params_spec specs[] = {
        tiny_spec(dtype), tiny_spec(dtype), {.full = true, .trains = true, .dtype = dtype}};
    const char *dir = tiny_model_write(&shape, 11);

    specs[1].targets = 0xf; /* q, k, v, o: nothing in the MLP has a gradient but its norm */
    for (size_t i = 0; i < LH_ARRAY_LEN(specs); i++) {
        struct tiny_options o = {.dir = dir,
                                 .ops = ops,
                                 .spec = specs[i],
                                 .rows = ROWS,
                                 .row_tokens = ROW,
                                 .mlp_tile = mlp_tile};
        struct outcome want = train(&o);
        double sum = 0;

        for (int64_t k = 0; k < want.n; k++)
            sum += (double)want.grads[k] * (double)want.grads[k];
        assert_true(sum > 0);
        check_same_bits(&o, &want);
        free(want.grads);
    }
    tiny_model_remove(dir);
}

/* PLAN-3. */
static void whatever_layers_keep_loss_and_gradients_have_the_same_bits_in_fp32(void **state)
{
    (void)state;
    check_kinds(&kn_cpu_ops, KN_F32);
}

/* PLAN-3. */
static void whatever_layers_keep_loss_and_gradients_have_the_same_bits_in_bf16(void **state)
{
    (void)state;
    check_kinds(&kn_cpu_ops, KN_BF16);
}

static void open_plan(const char *dir, struct params_spec spec, struct model_source **ret_source,
                      struct llama *m)
{
    struct llama_options o = {
        .params = &spec, .tokens = 4096, .row_tokens = 4096, .backward = spec.trains};

    assert_int_equal(model_source_open(dir, ret_source, NULL), 0);
    o.config = model_source_config(*ret_source);
    assert_int_equal(llama_init(&o, m, NULL), 0);
}

static int64_t kept(const struct llama *m)
{
    int64_t n = 0;

    for (int i = 0; i < WORK_KEEPS; i++)
        n += m->dims.keep[i];
    return n;
}

/* What the dearest thing that one layer may keep costs: by so much a greedy choice may miss the
 * best one. */
static double one_layer(const struct llama *m)
{
    double flops = 0;

    for (int i = 0; i < WORK_KEEPS; i++)
        flops = LH_MAX(flops, llama_flops_kept(m, (enum work_keep)i, 4096, 1024) * 4096);
    return flops;
}

/* PLAN-2: never more than fits; FLOPs fall as memory grows. */
static void more_memory_keeps_more_and_computes_less(void **state)
{
    const char *dir = tiny_model_write(&shape, 12);
    struct model_source *source;
    struct llama m;
    uint64_t least, most, last = 0;
    double flops = 1e300;

    (void)state;
    open_plan(dir, tiny_spec(KN_BF16), &source, &m);
    least = plan_total(&m.plan);
    assert_int_equal(keep_choose(&m, 4096, 1024, UINT64_MAX, NULL), 0);
    most = plan_total(&m.plan);
    assert_int_equal(kept(&m), WORK_KEEPS * shape.layers);
    assert_true(most > least);
    for (int i = 0; i <= 40; i++) {
        uint64_t limit = least + (most - least) * (uint64_t)i / 40;

        assert_int_equal(keep_choose(&m, 4096, 1024, limit, NULL), 0);
        assert_true(plan_total(&m.plan) <= limit);
        assert_true(plan_total(&m.plan) >= last);
        assert_true(llama_flops(&m, 1, 4096, 1024) <= flops + one_layer(&m));
        last = plan_total(&m.plan);
        flops = LH_MIN(flops, llama_flops(&m, 1, 4096, 1024));
    }
    assert_true(llama_flops(&m, 1, 4096, 1024) == flops);
    assert_int_equal(last, most);
    assert_int_equal(keep_choose(&m, 4096, 1024, least - 1, NULL), 0);
    assert_int_equal(kept(&m), 0);
    llama_release(&m);
    model_source_close(source);
    tiny_model_remove(dir);
}

/* Long groups make attention the dearest thing to do again; short ones the cheapest. */
static void what_costs_most_time_a_byte_is_kept_first(void **state)
{
    const char *dir = tiny_model_write(&shape, 13);
    struct model_source *source;
    struct llama m;
    uint64_t least;

    (void)state;
    open_plan(dir, tiny_spec(KN_BF16), &source, &m);
    least = plan_total(&m.plan);
    assert_int_equal(keep_choose(&m, 4096, 0, least + (1 << 20), NULL), 0);
    assert_int_equal(m.dims.keep[WORK_KEEP_SCORES], shape.layers);
    assert_int_equal(m.dims.keep[WORK_KEEP_GATES], 0);
    assert_int_equal(keep_choose(&m, 4096, 4, least + (1 << 20), NULL), 0);
    assert_int_equal(m.dims.keep[WORK_KEEP_SCORES], 0);
    assert_true(kept(&m) > 0);
    llama_release(&m);
    model_source_close(source);
    tiny_model_remove(dir);
}

static double worth(const struct llama *m, enum work_keep what, int64_t group)
{
    return llama_flops_kept(m, what, 4096, group) / (double)work_keep_bytes(&m->dims, what);
}

/* What a flop of attention would have to weigh to be kept before everything else. */
static double decisive_weight(const struct llama *m, int64_t group)
{
    double most = 0;

    for (int i = 0; i < WORK_KEEPS; i++)
        if (i != WORK_KEEP_SCORES)
            most = LH_MAX(most, worth(m, (enum work_keep)i, group));
    return most / worth(m, WORK_KEEP_SCORES, group);
}

static int64_t scores_kept(struct llama *m, int64_t group)
{
    const int64_t nothing[WORK_KEEPS] = {0};
    uint64_t scores = work_keep_bytes(&m->dims, WORK_KEEP_SCORES);

    assert_int_equal(llama_keep(m, nothing, NULL), 0);
    assert_int_equal(keep_choose(m, 4096, group, plan_total(&m->plan) + 2 * scores, NULL), 0);
    return m->dims.keep[WORK_KEEP_SCORES];
}

/* PLAN-2: where products are slow attention is kept later, where they are fast sooner. */
static void attention_weighs_as_much_as_the_level_says(void **state)
{
    char *env = getenv("LONGHAUL_CPU_ISA"), *was = env ? strdup(env) : NULL;
    const char *dir = tiny_model_write(&shape, 15);
    struct model_source *source;
    double weight[2], light, heavy;
    int64_t group = 4096;
    struct llama m;

    (void)state;
    open_plan(dir, tiny_spec(KN_BF16), &source, &m);
    for (int i = 0; i < 2; i++) {
        (void)setenv("LONGHAUL_CPU_ISA", i == 0 ? "base" : "avx512", 1);
        weight[i] = kn_cpu_attention_weight(KN_BF16);
    }
    light = LH_MIN(weight[0], weight[1]);
    heavy = LH_MAX(weight[0], weight[1]);
    while (group > 0 && !(decisive_weight(&m, group) > light && decisive_weight(&m, group) < heavy))
        group--;
    for (int i = 0; i < 2 && light < heavy; i++) {
        (void)setenv("LONGHAUL_CPU_ISA", i == 0 ? "base" : "avx512", 1);
        assert_true(group > 0);
        if ((weight[i] == heavy) != (scores_kept(&m, group) > 0))
            fail_msg("weight %.1f, group %lld", weight[i], (long long)group);
    }
    if (was)
        (void)setenv("LONGHAUL_CPU_ISA", was, 1);
    else
        (void)unsetenv("LONGHAUL_CPU_ISA");
    free(was);
    llama_release(&m);
    model_source_close(source);
    tiny_model_remove(dir);
}

static void a_model_that_only_evaluates_keeps_nothing(void **state)
{
    const char *dir = tiny_model_write(&shape, 14);
    struct params_spec spec = {.dtype = KN_F32};
    struct model_source *source;
    struct llama m;
    uint64_t bytes;

    (void)state;
    open_plan(dir, spec, &source, &m);
    bytes = plan_total(&m.plan);
    assert_int_equal(keep_choose(&m, 4096, 0, UINT64_MAX, NULL), 0);
    assert_int_equal(kept(&m), 0);
    assert_int_equal(plan_total(&m.plan), bytes);
    llama_release(&m);
    model_source_close(source);
    tiny_model_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_layers_keep_loss_and_gradients_have_the_same_bits_in_fp32),
        cmocka_unit_test(whatever_layers_keep_loss_and_gradients_have_the_same_bits_in_bf16),
        cmocka_unit_test(more_memory_keeps_more_and_computes_less),
        cmocka_unit_test(what_costs_most_time_a_byte_is_kept_first),
        cmocka_unit_test(attention_weighs_as_much_as_the_level_says),
        cmocka_unit_test(a_model_that_only_evaluates_keeps_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
