/* test_train.c - kind train as a whole, in this process: resume, stop, ranks, dumps, and what goes
 * wrong.
 *
 * Under mpirun the test of ranks trains over all of them and compares with what each rank trains
 * alone.
 */
#include "proto/base/fs.h"
#include "tests/unit/tiny_model.h"
#include "worker/run.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#define STEPS 6
#define ROWS 4
#define LENGTH 16
#define VOCAB 29

static const struct tiny_shape shape = {2, 16, 4, 2, 4, 24, VOCAB, true};
static struct comm *everyone; /* MPI's, or a communicator of one */

struct bench {
    char dir[128]; /* model, tokens, outputs */
};

static void bench_open(struct bench *b)
{
    static int64_t ids[STEPS * ROWS * LENGTH];
    const struct st_entry entries[] = {{"input_ids", ST_I64, 3, {STEPS, ROWS, LENGTH}},
                                       {"labels", ST_I64, 3, {STEPS, ROWS, LENGTH}}};
    char path[160];
    struct st_writer *w;

    (void)snprintf(b->dir, sizeof(b->dir), "%s", tiny_model_write(&shape, 21));
    for (int i = 0; i < STEPS * ROWS * LENGTH; i++)
        ids[i] = (int64_t)((tiny_random(33, (uint64_t)i) + 1) / 2 * VOCAB);
    (void)snprintf(path, sizeof(path), "%s/tokens.safetensors", b->dir);
    assert_int_equal(st_create(path, entries, 2, NULL, &w, NULL), 0);
    assert_int_equal(st_write(w, ids, sizeof(ids), NULL), 0);
    assert_int_equal(st_write(w, ids, sizeof(ids), NULL), 0);
    assert_int_equal(st_finish(w, NULL), 0);
}

static void bench_close(struct bench *b)
{
    tiny_model_remove(b->dir);
}

static json_t *job_spec(const struct bench *b)
{
    char tokens[160];
    json_t *spec;

    (void)snprintf(tokens, sizeof(tokens), "%s/tokens.safetensors", b->dir);
    spec = json_pack("{s:s, s:s, s:{s:s}, s:{s:i, s:{s:s, s:i}}, s:{s:[s], s:s}, s:{s:i, s:i},"
                     " s:{s:f, s:i, s:i, s:i, s:i}, s:{s:i}}",
                     "kind", "train", "precision", "fp32", "model", "base", b->dir, "context",
                     "length", LENGTH, "attention", "type", "s2", "group", 4, "data", "train",
                     tokens, "format", "tokens", "adapter", "rank", 2, "alpha", 4, "optim", "lr",
                     0.01, "steps", STEPS, "warmup_steps", 0, "batch_sequences", ROWS, "seed", 5,
                     "checkpoint", "keep", 10);
    assert_non_null(spec);
    return spec;
}

struct attempt {
    const char *name;   /* of its OUT and dump */
    const char *resume; /* of an earlier attempt's checkpoint, below the bench; NULL */
    struct comm *comm;  /* NULL: alone */
    bool stop, dump;
    json_t **ret_result; /* new reference; NULL: not wanted */
};

/* Runs a job; the spec is stolen. Returns what kind_train returns. */
static int run_job(const struct bench *b, json_t *spec, const struct attempt *a,
                   struct lh_err *reterr)
{
    struct run r = {.ops = &kn_reference_ops, .threads = 1, .cache_dir = b->dir};
    char out[256], dump[256], resume[256];
    struct lh_job *job;
    struct comm *self;
    int rc;

    if (lh_job_parse(spec, &job, NULL, reterr) < 0)
        fail_msg("%s: %s", reterr->pointer, reterr->text);
    json_decref(spec);
    assert_int_equal(comm_self_new(&self, reterr), 0);
    assert_int_equal(lh_reporter_open(NULL, 0, &r.reporter, reterr), 0);
    (void)snprintf(out, sizeof(out), "%s/%s", b->dir, a->name);
    (void)snprintf(dump, sizeof(dump), "%s/%s-dump", b->dir, a->name);
    (void)snprintf(resume, sizeof(resume), "%s/%s", b->dir, a->resume ? a->resume : "");
    assert_int_equal(lh_mkdir_p(out, reterr), 0);
    r.job = job;
    r.comm = a->comm ? a->comm : self;
    r.out_dir = out;
    r.resume_dir = a->resume ? resume : NULL;
    r.dump_dir = a->dump ? dump : NULL;
    r.stop_wanted = a->stop;
    r.result = json_object();
    assert_int_equal(r.ops->stream_new(1, &r.stream, reterr), 0);
    rc = job->kind == LH_KIND_EVAL ? kind_eval(&r, reterr) : kind_train(&r, reterr);
    r.ops->stream_free(r.stream);
    if (a->ret_result)
        *a->ret_result = json_incref(r.result);
    json_decref(r.result);
    lh_reporter_close(r.reporter);
    self->ops->free(self);
    lh_job_free(job);
    return rc;
}

/* The largest difference between two files of tensors, relative to each tensor's largest value;
 * every key must be in both. */
static double compare_tensors(const struct bench *b, const char *one, const char *two)
{
    struct st_file *f, *g;
    char path[300];
    double worst = 0;

    (void)snprintf(path, sizeof(path), "%s/%s", b->dir, one);
    assert_int_equal(st_open(path, &f, NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/%s", b->dir, two);
    assert_int_equal(st_open(path, &g, NULL), 0);
    assert_int_equal(st_count(f), st_count(g));
    for (unsigned i = 0; i < st_count(f); i++) {
        const struct st_tensor *a = st_at(f, i), *c = st_find(g, a->name);
        double largest = 1e-30, difference = 0;

        assert_non_null(c);
        assert_int_equal(a->bytes, c->bytes);
        for (int64_t k = 0; k < a->n; k++) {
            float x, y;

            memcpy(&x, (const char *)a->data + k * 4, 4);
            memcpy(&y, (const char *)c->data + k * 4, 4);
            assert_true(isfinite(x) && isfinite(y));
            largest = fmax(largest, fabs((double)x));
            difference = fmax(difference, fabs((double)x - (double)y));
        }
        worst = fmax(worst, difference / largest);
    }
    st_close(f);
    st_close(g);
    return worst;
}

static bool same_files(const struct bench *b, const char *one, const char *two)
{
    char path[300], *x = NULL, *y = NULL;
    size_t nx, ny;
    bool same;

    (void)snprintf(path, sizeof(path), "%s/%s", b->dir, one);
    assert_int_equal(lh_read_file(path, 1 << 24, &x, &nx, NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/%s", b->dir, two);
    assert_int_equal(lh_read_file(path, 1 << 24, &y, &ny, NULL), 0);
    same = nx == ny && memcmp(x, y, nx) == 0;
    free(x);
    free(y);
    return same;
}

static void several_ranks_train_what_one_rank_trains(void **state)
{
    struct bench b;
    struct attempt alone = {.name = "alone", .dump = true},
                   together = {.name = "together", .dump = true, .comm = everyone};
    struct lh_err err = {0};

    (void)state;
    bench_open(&b);
    assert_int_equal(run_job(&b, job_spec(&b), &alone, &err), 0);
    /* Each rank has made the same model in a directory of its own; rank 0 writes the dump of all.
     */
    if (run_job(&b, job_spec(&b), &together, &err) != 0)
        fail_msg("%s", err.text);
    if (everyone->rank == 0)
        assert_true(compare_tensors(&b, "alone-dump/results.safetensors",
                                    "together-dump/results.safetensors") < 2e-5);
    assert_int_equal(everyone->ops->barrier(everyone, &err), 0);
    bench_close(&b);
}

static json_t *with_steps(json_t *spec, int steps)
{
    (void)json_object_set_new(json_object_get(spec, "optim"), "steps", json_integer(steps));
    return spec;
}

static json_t *in_bf16(json_t *spec)
{
    (void)json_object_set_new(spec, "precision", json_string("bf16"));
    return spec;
}

/* CKPT-8, CKPT-21: in bf16 a rank has masters and moments of its part only. */
static void a_checkpoint_of_several_ranks_holds_what_each_keeps_apart(void **state)
{
    const char *const files[] = {"adapter_model.safetensors", "optimizer.safetensors"};
    struct attempt alone = {.name = "alone"}, whole = {.name = "whole", .comm = everyone};
    struct attempt first = {.name = "first", .comm = everyone};
    struct attempt rest = {
        .name = "rest", .resume = "first/checkpoints/step-00000003", .comm = everyone};
    struct bench own, b; /* all ranks work in the directory of rank 0 */
    struct lh_err err = {0};

    (void)state;
    bench_open(&own);
    b = own;
    assert_int_equal(everyone->ops->broadcast(everyone, b.dir, sizeof(b.dir), 0, &err), 0);
    assert_int_equal(run_job(&b, in_bf16(job_spec(&b)), &whole, &err), 0);
    assert_int_equal(run_job(&b, with_steps(in_bf16(job_spec(&b)), 3), &first, &err), 0);
    assert_int_equal(run_job(&b, in_bf16(job_spec(&b)), &rest, &err), 0);
    if (everyone->rank == 0)
        assert_int_equal(run_job(&b, in_bf16(job_spec(&b)), &alone, &err), 0);
    for (size_t i = 0; everyone->rank == 0 && i < LH_ARRAY_LEN(files); i++) {
        char one[100], two[100];

        (void)snprintf(one, sizeof(one), "whole/checkpoints/step-00000006/%s", files[i]);
        (void)snprintf(two, sizeof(two), "rest/checkpoints/step-00000006/%s", files[i]);
        assert_true(same_files(&b, one, two));
        (void)snprintf(two, sizeof(two), "alone/checkpoints/step-00000006/%s", files[i]);
        assert_true(compare_tensors(&b, two, one) < 0.05);
    }
    assert_int_equal(everyone->ops->barrier(everyone, &err), 0);
    bench_close(&own);
}

/* CKPT-21. */
static void a_resumed_run_ends_with_the_same_bytes(void **state)
{
    struct bench b;
    struct attempt whole = {.name = "whole"}, first = {.name = "first"};
    struct attempt rest = {.name = "rest", .resume = "first/checkpoints/step-00000003"};
    json_t *spec;
    struct lh_err err = {0};

    (void)state;
    bench_open(&b);
    assert_int_equal(run_job(&b, job_spec(&b), &whole, &err), 0);
    spec = with_steps(job_spec(&b), 3);
    assert_int_equal(run_job(&b, spec, &first, &err), 0);
    if (run_job(&b, job_spec(&b), &rest, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(same_files(&b, "whole/checkpoints/step-00000006/adapter_model.safetensors",
                           "rest/checkpoints/step-00000006/adapter_model.safetensors"));
    assert_true(same_files(&b, "whole/checkpoints/step-00000006/optimizer.safetensors",
                           "rest/checkpoints/step-00000006/optimizer.safetensors"));
    bench_close(&b);
}

/* CKPT-13. */
static void a_stop_request_leaves_a_checkpoint(void **state)
{
    struct bench b;
    struct attempt a = {.name = "out", .stop = true};
    char path[300];
    struct lh_err err = {0};

    (void)state;
    bench_open(&b);
    assert_int_equal(run_job(&b, job_spec(&b), &a, &err), LH_ESTOPPED);
    (void)snprintf(path, sizeof(path), "%s/out/checkpoints/step-00000001/manifest.json", b.dir);
    assert_true(lh_path_exists(path));
    bench_close(&b);
}

static void a_step_that_is_not_finite_stops_the_job_and_names_a_tensor(void **state)
{
    struct bench b;
    struct attempt a = {.name = "out"};
    json_t *spec;
    char path[300];
    struct lh_err err = {0};

    (void)state;
    bench_open(&b);
    spec = job_spec(&b);
    (void)json_object_set_new(json_object_get(spec, "optim"), "lr", json_real(9));
    (void)json_object_set_new(json_object_get(spec, "optim"), "clip", json_real(0));
    (void)json_object_set_new(json_object_get(spec, "optim"), "steps", json_integer(200));
    (void)json_object_set_new(json_object_get(spec, "optim"), "weight_decay", json_real(0));
    (void)json_object_set_new(json_object_get(spec, "adapter"), "alpha", json_real(1e6));
    assert_int_equal(run_job(&b, spec, &a, &err), LH_ENONFINITE);
    assert_non_null(strstr(err.text, "step "));
    assert_non_null(strstr(err.text, "'model."));
    (void)snprintf(path, sizeof(path), "%s/out/checkpoints/step-00000200", b.dir);
    assert_false(lh_path_exists(path));
    bench_close(&b);
}

/* JOB-18. */
static void without_a_rate_one_pass_is_made_and_nothing_is_saved(void **state)
{
    struct bench b;
    struct attempt a = {.name = "out", .dump = true};
    struct st_file *f;
    json_t *spec;
    char path[300];
    struct lh_err err = {0};

    (void)state;
    bench_open(&b);
    spec = job_spec(&b);
    (void)json_object_del(json_object_get(spec, "optim"), "lr");
    (void)json_object_del(json_object_get(spec, "optim"), "steps");
    assert_int_equal(run_job(&b, spec, &a, &err), 0);
    (void)snprintf(path, sizeof(path), "%s/out/checkpoints", b.dir);
    assert_false(lh_path_exists(path));
    (void)snprintf(path, sizeof(path), "%s/out-dump/results.safetensors", b.dir);
    assert_int_equal(st_open(path, &f, &err), 0);
    assert_int_equal(st_find(f, "loss")->n, 1);
    assert_int_equal(st_find(f, "logits")->n, ROWS * LENGTH * VOCAB);
    assert_non_null(st_find(f, "eval_logits"));
    assert_non_null(st_find(f, "grad.base_model.model.model.embed_tokens.weight"));
    st_close(f);
    bench_close(&b);
}

static void a_plan_above_the_limit_is_refused_with_its_table(void **state)
{
    struct bench b;
    struct attempt a = {.name = "out"};
    json_t *spec;
    struct lh_err err = {0};

    (void)state;
    bench_open(&b);
    spec = job_spec(&b);
    (void)json_object_set_new(spec, "limits", json_pack("{s:i}", "memory_bytes", 1000));
    assert_int_equal(run_job(&b, spec, &a, &err), LH_ENOFIT);
    assert_string_equal(err.pointer, "/limits/memory_bytes");
    assert_non_null(strstr(err.text, "activations"));
    bench_close(&b);
}

/* What the machine has, in place of what it says; linked by --wrap. 0: what it says. */
static uint64_t machine_total, machine_free;

uint64_t __real_plan_machine_total(void);
uint64_t __wrap_plan_machine_total(void);
uint64_t __wrap_plan_machine_total(void)
{
    return machine_total ? machine_total : __real_plan_machine_total();
}

uint64_t __real_plan_machine_free(void);
uint64_t __wrap_plan_machine_free(void);
uint64_t __wrap_plan_machine_free(void)
{
    return machine_free ? machine_free : __real_plan_machine_free();
}

static void memory_that_others_hold_now_is_no_fault_of_the_job(void **state)
{
    struct attempt a = {.name = "full"};
    struct lh_err err = {0};
    struct bench b;

    (void)state;
    bench_open(&b);
    machine_total = 10000;
    assert_int_equal(run_job(&b, job_spec(&b), &a, &err), LH_ENOFIT);
    assert_string_equal(err.pointer, "/context/length");
    assert_int_equal(run_exit_code(LH_ENOFIT), EXIT_BAD_JOB);
    machine_total = (uint64_t)1 << 40;
    machine_free = 10000;
    assert_int_equal(run_job(&b, job_spec(&b), &a, &err), LH_ETRYAGAIN);
    assert_non_null(strstr(err.text, "taken by others"));
    assert_non_null(strstr(err.text, "activations"));
    assert_int_equal(run_exit_code(LH_ETRYAGAIN), EXIT_TRY_AGAIN);
    machine_total = machine_free = 0;
    assert_int_equal(run_job(&b, job_spec(&b), &a, &err), 0);
    bench_close(&b);
}

static void an_adapter_of_another_rank_is_refused(void **state)
{
    struct bench b;
    struct attempt a = {.name = "out"}, again = {.name = "again"};
    json_t *spec;
    char path[300];
    struct lh_err err = {0};
    int rc;

    (void)state;
    bench_open(&b);
    assert_int_equal(run_job(&b, job_spec(&b), &a, &err), 0);
    spec = job_spec(&b);
    (void)snprintf(path, sizeof(path), "%s/out/checkpoints/step-00000006", b.dir);
    (void)json_object_set_new(json_object_get(spec, "model"), "adapter", json_string(path));
    (void)json_object_set_new(json_object_get(spec, "adapter"), "rank", json_integer(3));
    rc = run_job(&b, spec, &again, &err);
    assert_true(rc == LH_EJOB || rc == LH_EINPUT);
    bench_close(&b);
}

/* The nll at a length of a result's perplexity. */
static double nll_at(const json_t *result, size_t i)
{
    const json_t *lengths = json_object_get(json_object_get(result, "eval"), "lengths");

    return json_real_value(json_object_get(json_array_get(lengths, i), "nll"));
}

static void a_checkpoint_is_evaluated_as_training_reported_it(void **state)
{
    struct bench b;
    json_t *trained = NULL, *shipped = NULL, *checked = NULL, *spec, *eval;
    struct attempt train = {.name = "out", .ret_result = &trained};
    struct attempt base = {.name = "base", .ret_result = &shipped};
    struct attempt check = {.name = "check", .ret_result = &checked};
    char path[300];
    struct lh_err err = {0};

    (void)state;
    bench_open(&b);
    (void)snprintf(path, sizeof(path), "%s/tokens.safetensors", b.dir);
    eval =
        json_pack("{s:[s], s:[i,i], s:i}", "perplexity", path, "lengths", 8, LENGTH, "windows", 5);
    spec = job_spec(&b);
    (void)json_object_set(spec, "eval", eval);
    if (run_job(&b, spec, &train, &err) != 0)
        fail_msg("%s", err.text);
    spec = json_pack("{s:s, s:s, s:{s:s}, s:{s:i}, s:O}", "kind", "eval", "precision", "fp32",
                     "model", "base", b.dir, "context", "length", LENGTH, "eval", eval);
    assert_int_equal(run_job(&b, json_deep_copy(spec), &base, &err), 0);
    (void)snprintf(path, sizeof(path), "%s/out/checkpoints/step-00000006", b.dir);
    (void)json_object_set_new(json_object_get(spec, "model"), "adapter", json_string(path));
    assert_int_equal(run_job(&b, spec, &check, &err), 0);
    for (size_t i = 0; i < 2; i++) {
        assert_true(nll_at(trained, i) > 0);
        assert_true(fabs(nll_at(trained, i) - nll_at(checked, i)) < 1e-9);
        assert_true(fabs(nll_at(trained, i) - nll_at(shipped, i)) > 1e-4);
    }
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(checked, "eval"), "windows")), 5);
    json_decref(eval);
    json_decref(trained);
    json_decref(shipped);
    json_decref(checked);
    bench_close(&b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(several_ranks_train_what_one_rank_trains),
        cmocka_unit_test(a_checkpoint_of_several_ranks_holds_what_each_keeps_apart),
        cmocka_unit_test(a_resumed_run_ends_with_the_same_bytes),
        cmocka_unit_test(a_stop_request_leaves_a_checkpoint),
        cmocka_unit_test(a_step_that_is_not_finite_stops_the_job_and_names_a_tensor),
        cmocka_unit_test(without_a_rate_one_pass_is_made_and_nothing_is_saved),
        cmocka_unit_test(a_plan_above_the_limit_is_refused_with_its_table),
        cmocka_unit_test(memory_that_others_hold_now_is_no_fault_of_the_job),
        cmocka_unit_test(an_adapter_of_another_rank_is_refused),
        cmocka_unit_test(a_checkpoint_is_evaluated_as_training_reported_it),
    };
    const struct CMUnitTest ranks[] = {
        cmocka_unit_test(several_ranks_train_what_one_rank_trains),
        cmocka_unit_test(a_checkpoint_of_several_ranks_holds_what_each_keeps_apart),
    };
    struct lh_err err = {0};
    int failed;

    if (comm_mpi_new(&argc, &argv, &everyone, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    failed = everyone->size > 1 ? cmocka_run_group_tests(ranks, NULL, NULL)
                                : cmocka_run_group_tests(all, NULL, NULL);
    if (failed && everyone->size > 1)
        everyone->ops->abort(everyone, 1);
    everyone->ops->free(everyone);
    return failed;
}
