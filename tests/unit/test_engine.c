/* test_engine.c - the pure parts of the engine: memory plan, table of parameters, schedule, clip,
 * rows of micro-batches. */
#include "tests/unit/tiny_model.h"
#include "worker/kinds/batches.h"
#include "worker/optim/optim.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <cmocka.h>
// clang-format on

static const struct tiny_shape shape = {2, 16, 4, 2, 4, 24, 29, false};

static void buffers_are_aligned_apart_and_parts_add_up_to_the_peak(void **state)
{
    struct plan p = {0};
    float *a = NULL, *b = NULL;
    void *c = NULL, *d = NULL, *alias = NULL;
    uint64_t mark;
    char block[1024];

    (void)state;
    plan_add(&p, PLAN_WEIGHTS, &a, 10);
    plan_add(&p, PLAN_OPTIMIZER, &b, 100);
    mark = plan_mark(&p);
    plan_add(&p, PLAN_WORKSPACE, &c, 64);
    plan_rewind(&p, mark);
    plan_add(&p, PLAN_WORKSPACE, &d, 200);
    plan_add_alias(&p, &alias);
    assert_int_equal(p.peak, 64 + 128 + 256);
    assert_int_equal(p.bytes[PLAN_WEIGHTS], 64);
    assert_int_equal(p.bytes[PLAN_OPTIMIZER], 128);
    assert_int_equal(p.bytes[PLAN_WORKSPACE], 256);
    plan_bind(&p, block);
    assert_ptr_equal(a, block);
    assert_ptr_equal(b, block + 64);
    assert_ptr_equal(c, block + 192);
    assert_ptr_equal(d, c);
    assert_ptr_equal(alias, d);
    plan_add_outside(&p, PLAN_HOST, 1000);
    assert_int_equal(plan_total(&p), 448 + 1000);
    plan_release(&p);
}

static void a_plan_that_does_not_fit_shows_its_table(void **state)
{
    struct plan p = {0};
    void *a;
    struct lh_err err = {0};

    (void)state;
    plan_add(&p, PLAN_ACTIVATIONS, &a, (uint64_t)3 << 30);
    assert_int_equal(plan_check(&p, (uint64_t)4 << 30, "", &err), 0);
    assert_int_equal(plan_check(&p, (uint64_t)2 << 30, "/limits/memory_bytes", &err), LH_ENOFIT);
    assert_string_equal(err.pointer, "/limits/memory_bytes");
    assert_non_null(strstr(err.text, "activations 3"));
    assert_non_null(strstr(err.text, "workspace"));
    plan_release(&p);
}

static void what_is_planned_is_what_a_model_uses(void **state)
{
    const char *dir = tiny_model_write(&shape, 1);
    struct tiny_options o = {.dir = dir,
                             .ops = &kn_reference_ops,
                             .spec = tiny_spec(KN_BF16),
                             .rows = 2,
                             .row_tokens = 8};
    struct tiny t;

    (void)state;
    tiny_open(&t, &o);
    for (unsigned i = 0; i < t.model.params.n; i++) {
        const struct param *p = &t.model.params.at[i];
        const char *end = (const char *)t.model.block + t.model.plan.peak;

        assert_true((const char *)p->w.p >= (const char *)t.model.block);
        assert_true((const char *)p->w.p + (size_t)p->n * kn_dtype_bytes(p->w.t) <= end);
        if (p->trains)
            assert_true(p->grad >= t.model.params.grad &&
                        p->grad + p->n <= t.model.params.grad + t.model.params.n_region);
    }
    assert_true(t.model.plan.bytes[PLAN_ACTIVATIONS] >= (uint64_t)(3 * 2 * 8 * 16 * 2));
    tiny_close(&t);
    tiny_model_remove(dir);
}

static void an_adapter_trains_its_factors_embeddings_and_norms(void **state)
{
    struct model_config c = {.n_layers = 2,
                             .hidden = 16,
                             .heads = 4,
                             .kv_heads = 2,
                             .head_dim = 4,
                             .ff = 24,
                             .vocab = 29};
    struct params_spec spec = tiny_spec(KN_BF16);
    struct params p;
    const struct param *at;

    (void)state;
    assert_int_equal(params_init(&c, &spec, &p, NULL), 0);
    at = params_find(&p, "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight");
    assert_non_null(at);
    assert_int_equal(at->rows, 8);
    assert_int_equal(at->cols, 2);
    assert_true(at->trains && at->decays);
    at = params_find(&p, "base_model.model.model.norm.weight");
    assert_non_null(at);
    assert_true(at->trains && !at->decays);
    assert_int_equal(at->w.t, KN_F32);
    at = params_find(&p, "lm_head.weight");
    assert_non_null(at);
    assert_false(at->trains);
    assert_non_null(params_find(&p, "base_model.model.model.embed_tokens.weight"));
    params_release(&p);
    c.tied = true;
    assert_int_equal(params_init(&c, &spec, &p, NULL), 0);
    assert_null(params_find(&p, "lm_head.weight"));
    params_release(&p);
}

static void full_fine_tuning_trains_everything_under_plain_names(void **state)
{
    struct model_config c = {.n_layers = 1,
                             .hidden = 16,
                             .heads = 4,
                             .kv_heads = 2,
                             .head_dim = 4,
                             .ff = 24,
                             .vocab = 29};
    struct params_spec spec = {.full = true, .trains = true};
    struct params p;

    (void)state;
    assert_int_equal(params_init(&c, &spec, &p, NULL), 0);
    assert_int_equal(p.n, 12);
    assert_int_equal(p.n_trainable, p.n_total);
    for (unsigned i = 0; i < p.n; i++)
        assert_string_equal(p.at[i].name, p.at[i].key);
    params_release(&p);
}

/* JOB-17. */
static void the_longest_pattern_that_fits_a_module_counts(void **state)
{
    const struct lh_pattern ranks[] = {
        {"down_proj", 3}, {"layers.1.mlp.down_proj", 7}, {"proj", 9}};
    struct params_spec spec = {
        .lora = true, .rank = 4, .alpha = 6, .rank_pattern = ranks, .n_rank_pattern = 3};

    (void)state;
    assert_int_equal(params_rank(&spec, "model.layers.1.mlp.down_proj"), 7);
    assert_int_equal(params_rank(&spec, "model.layers.11.mlp.down_proj"), 3);
    assert_int_equal(params_rank(&spec, "model.layers.1.self_attn.q_proj"), 4);
    assert_true(fabs(params_scale(&spec, "model.layers.0.self_attn.q_proj") - 1.5) < 1e-12);
    spec.use_rslora = true;
    assert_true(fabs(params_scale(&spec, "model.layers.0.self_attn.q_proj") - 3) < 1e-12);
}

static void a_rank_above_its_matrix_is_refused(void **state)
{
    struct model_config c = {.n_layers = 1,
                             .hidden = 16,
                             .heads = 4,
                             .kv_heads = 1,
                             .head_dim = 4,
                             .ff = 24,
                             .vocab = 29};
    struct params_spec spec = tiny_spec(KN_F32);
    struct params p;
    struct lh_err err = {0};

    (void)state;
    spec.rank = 5;
    assert_int_equal(params_init(&c, &spec, &p, &err), LH_EJOB);
    assert_string_equal(err.pointer, "/adapter/rank");
}

static void fresh_factors_depend_on_the_seed_alone_and_stay_in_their_bound(void **state)
{
    const char *dir = tiny_model_write(&shape, 1);
    struct tiny_options o = {.dir = dir,
                             .ops = &kn_reference_ops,
                             .spec = tiny_spec(KN_F32),
                             .rows = 1,
                             .row_tokens = 8};
    const char *key = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
    struct tiny a, b;
    const struct param *pa, *pb;
    double sum = 0, bound = 1 / sqrt(16);

    (void)state;
    tiny_open(&a, &o);
    tiny_open(&b, &o);
    pa = params_find(&a.model.params, key);
    pb = params_find(&b.model.params, key);
    assert_non_null(pa);
    assert_memory_equal(pa->master, pb->master, (size_t)pa->n * sizeof(float));
    for (int64_t i = 0; i < pa->n; i++) {
        assert_true(fabs((double)pa->master[i]) <= bound);
        sum += fabs((double)pa->master[i]);
    }
    assert_true(sum / (double)pa->n > bound / 4 && sum / (double)pa->n < bound * 3 / 4);
    pb = params_find(&b.model.params, "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight");
    assert_memory_not_equal(pa->master, pb->master, (size_t)pa->n * sizeof(float));
    tiny_close(&a);
    tiny_close(&b);
    tiny_model_remove(dir);
}

/* JOB-19. */
static void rates_follow_warm_up_and_schedule(void **state)
{
    struct lh_job job = {0};

    (void)state;
    job.optim.lr = 2;
    job.optim.warmup_steps = 4;
    assert_true(optim_rate(&job, 0, 20) == 0);
    assert_true(optim_rate(&job, 3, 20) == 1.5);
    assert_true(optim_rate(&job, 4, 20) == 2);
    assert_true(optim_rate(&job, 19, 20) == 2);
    job.optim.schedule = LH_SCHEDULE_COSINE;
    assert_true(optim_rate(&job, 4, 20) == 2);
    assert_true(fabs(optim_rate(&job, 12, 20) - 1) < 1e-12);
    assert_true(fabs(optim_rate(&job, 20, 20)) < 1e-12);
    job.optim.schedule = LH_SCHEDULE_LINEAR;
    assert_true(fabs(optim_rate(&job, 16, 20) - 0.5) < 1e-12);
    job.optim.warmup_steps = 0;
    job.optim.schedule = LH_SCHEDULE_CONSTANT;
    assert_true(optim_rate(&job, 0, 20) == 2);
}

static void clipping_never_raises_a_gradient(void **state)
{
    (void)state;
    assert_true(optim_clip(1, 0.5) == 1);
    assert_true(fabs(optim_clip(1, 4) - 1 / (4 + 1e-6)) < 1e-15);
    assert_true(optim_clip(0, 1e9) == 1);
    assert_true(optim_clip(1, 0) == 1);
}

/* Every row of a step is computed by exactly one rank, in its micro-batch. */
static void check_rows(const struct lh_job *job, int ranks)
{
    int seen[64] = {0};
    int64_t most = 0;

    for (int64_t i = 0; i < batches_count(job, ranks); i++) {
        int64_t next = 0;

        for (int rank = 0; rank < ranks; rank++) {
            int64_t first, n;

            batches_part(job, i, rank, ranks, &first, &n);
            assert_int_equal(first, next);
            next = first + n;
            most = LH_MAX(most, n);
            for (int64_t k = first; k < next; k++)
                seen[batches_row(job, i, k, ranks)]++;
        }
    }
    for (int64_t row = 0; row < job->optim.batch_sequences; row++)
        assert_int_equal(seen[row], 1);
    assert_int_equal(batches_most_rows(job, ranks), LH_MAX(most, (int64_t)1));
}

/* JOB-21. */
static void every_row_of_a_step_belongs_to_one_rank(void **state)
{
    struct lh_job job = {0};
    int64_t first[] = {3, 0, 5}, second[] = {1, 2, 4, 6};
    struct lh_micro_batch lists[] = {{first, 3}, {second, 4}};

    (void)state;
    for (int ranks = 1; ranks <= 5; ranks++) {
        for (int64_t batch = ranks; batch <= 12; batch++) {
            for (int64_t each = 1; each <= 4; each++) {
                job.optim.batch_sequences = batch;
                job.resources.micro_batch_rows = each;
                check_rows(&job, ranks);
            }
        }
        job.optim.batch_sequences = 7;
        job.resources.micro_batches = lists;
        job.resources.n_micro_batches = 2;
        check_rows(&job, ranks);
        job.resources.micro_batches = NULL;
        job.resources.n_micro_batches = 0;
    }
}

static void one_row_a_micro_batch_keeps_every_rank_busy(void **state)
{
    struct lh_job job = {0};
    int64_t first, n;

    (void)state;
    job.optim.batch_sequences = 4;
    job.resources.micro_batch_rows = 1;
    assert_int_equal(batches_count(&job, 2), 2);
    for (int rank = 0; rank < 2; rank++) {
        batches_part(&job, 0, rank, 2, &first, &n);
        assert_int_equal(n, 1);
    }
    assert_int_equal(batches_most_rows(&job, 2), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_are_aligned_apart_and_parts_add_up_to_the_peak),
        cmocka_unit_test(a_plan_that_does_not_fit_shows_its_table),
        cmocka_unit_test(what_is_planned_is_what_a_model_uses),
        cmocka_unit_test(an_adapter_trains_its_factors_embeddings_and_norms),
        cmocka_unit_test(full_fine_tuning_trains_everything_under_plain_names),
        cmocka_unit_test(the_longest_pattern_that_fits_a_module_counts),
        cmocka_unit_test(a_rank_above_its_matrix_is_refused),
        cmocka_unit_test(fresh_factors_depend_on_the_seed_alone_and_stay_in_their_bound),
        cmocka_unit_test(rates_follow_warm_up_and_schedule),
        cmocka_unit_test(clipping_never_raises_a_gradient),
        cmocka_unit_test(every_row_of_a_step_belongs_to_one_rank),
        cmocka_unit_test(one_row_a_micro_batch_keeps_every_rank_busy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
