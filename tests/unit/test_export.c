/* test_export.c - kind export as a whole, in this process: what is merged, what comes back, what is
 * refused. That a damaged export is noticed is test_worker.py's. */
#include "proto/manifest.h"
#include "tests/unit/tiny_model.h"
#include "tests/unit/unit.h"
#include "worker/kinds/engine.h"
#include "worker/kinds/positions.h"
#include "worker/model/merge.h"
#include "worker/run.h"
#include <math.h>

#define VOCAB 37

static const struct tiny_shape tied = {2, 32, 4, 2, 8, 48, VOCAB, true},
                               untied = {2, 20, 3, 1, 4, 28, VOCAB, false};

/* ---- an adapter of random numbers ---- */

struct adapter {
    const char *dir;
    bool embeddings, norms,
        head;          /* head: a tied one a second time, or (untied) one that is not taken */
    double head_off;   /* added to its numbers */
    const char *extra; /* another tensor */
};

static void write_values(struct st_writer *w, int64_t n, uint64_t seed, double mean, double spread)
{
    for (int64_t i = 0; i < n; i++) {
        float x = (float)(mean + spread * tiny_random(seed, (uint64_t)i));

        assert_int_equal(st_write(w, &x, sizeof(x), NULL), 0);
    }
}

static bool is_wanted(const struct adapter *a, const struct param *p)
{
    return p->role == PARAM_LORA_A || p->role == PARAM_LORA_B ||
           (a->embeddings && p->role == PARAM_EMBED) ||
           (a->norms && (p->role == PARAM_NORM_IN || p->role == PARAM_NORM_POST ||
                         p->role == PARAM_NORM_FINAL));
}

/* LoRA on all seven linears with rank 2 and alpha 4, of one module rank 3, rank-stabilised. */
static void write_adapter(const char *model, const struct adapter *a)
{
    static const char config[] =
        "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"use_rslora\":true,\"rank_pattern\":"
        "{\"layers.1.mlp.up_proj\":3},\"target_modules\":[\"q_proj\",\"k_proj\",\"v_proj\","
        "\"o_proj\",\"gate_proj\",\"up_proj\",\"down_proj\"]}";
    const struct lh_pattern pattern = {"layers.1.mlp.up_proj", 3};
    struct params_spec spec = {.lora = true,
                               .embeddings = a->embeddings,
                               .norms = a->norms,
                               .rank = 2,
                               .alpha = 4,
                               .targets = 0x7f,
                               .use_rslora = true,
                               .rank_pattern = &pattern,
                               .n_rank_pattern = 1};
    struct st_entry entries[100];
    struct params params;
    struct model_source *source;
    struct st_writer *w;
    unsigned n = 0;

    assert_int_equal(lh_mkdir_p(a->dir, NULL), 0);
    put_file(a->dir, "adapter_config.json", config);
    assert_int_equal(model_source_open(model, &source, NULL), 0);
    assert_int_equal(params_init(model_source_config(source), &spec, &params, NULL), 0);
    for (unsigned i = 0; i < params.n; i++) {
        const struct param *p = &params.at[i];

        if (is_wanted(a, p))
            entries[n++] = (struct st_entry){p->key, ST_F32, p->cols ? 2 : 1, {p->rows, p->cols}};
    }
    if (a->head)
        entries[n++] = (struct st_entry){
            PEFT_PREFIX "lm_head.weight", ST_F32, 2, {VOCAB, model_source_config(source)->hidden}};
    if (a->extra)
        entries[n++] = (struct st_entry){a->extra, ST_F32, 1, {3}};
    assert_int_equal(
        st_create(in_dir(a->dir, "adapter_model.safetensors"), entries, n, NULL, &w, NULL), 0);
    for (unsigned i = 0; i < params.n; i++) {
        const struct param *p = &params.at[i];

        if (is_wanted(a, p))
            write_values(w, p->n, 500 + i, p->cols ? 0 : 1, p->role == PARAM_LORA_B ? 0.2 : 0.4);
    }
    if (a->head) /* the embedding is the first of the table */
        write_values(w, VOCAB * model_source_config(source)->hidden, 500, a->head_off, 0.4);
    if (a->extra)
        write_values(w, 3, 1, 0, 1);
    assert_int_equal(st_finish(w, NULL), 0);
    params_release(&params);
    model_source_close(source);
}

/* ---- running a job ---- */

struct outcome {
    int rc;
    struct lh_err err;
    json_t *result; /* owned */
};

/* The spec is stolen. */
static struct outcome run(const char *out, json_t *spec)
{
    struct run r = {.ops = &kn_reference_ops, .threads = 1, .out_dir = out};
    struct outcome o = {0};
    struct lh_job *job;

    if (lh_job_parse(spec, &job, NULL, &o.err) < 0)
        fail_msg("%s: %s", o.err.pointer, o.err.text);
    json_decref(spec);
    assert_int_equal(comm_self_new(&r.comm, NULL), 0);
    assert_int_equal(lh_reporter_open(NULL, 0, &r.reporter, NULL), 0);
    assert_int_equal(lh_mkdir_p(out, NULL), 0);
    r.job = job;
    r.result = json_object();
    assert_int_equal(r.ops->stream_new(1, &r.stream, NULL), 0);
    o.rc = kind_export(&r, &o.err);
    o.result = r.result;
    r.ops->stream_free(r.stream);
    lh_reporter_close(r.reporter);
    r.comm->ops->free(r.comm);
    lh_job_free(job);
    return o;
}

static json_t *export_spec(const char *model, const char *adapter, const char *members)
{
    json_t *spec = json_of(members);

    json_object_set_new(spec, "kind", json_string("export"));
    json_object_set_new(spec, "model", json_pack("{s:s, s:s?}", "base", model, "adapter", adapter));
    return spec;
}

/* Runs it and returns the check's figures, borrowed from the outcome. */
static const json_t *exported(const struct outcome *o)
{
    if (o->rc < 0)
        fail_msg("%s: %s", o->err.pointer, o->err.text);
    return json_object_get(o->result, "export");
}

static double logit_error(const struct outcome *o)
{
    return lh_json_num(json_object_get(exported(o), "check"), "logit_error", NAN);
}

/* ---- tests ---- */

/* JOB-33, 35: in fp32 the merged model's logits are those of base and adapter held apart. */
static void a_merged_model_has_the_logits_of_base_and_adapter(void **state)
{
    static const char *const formats[] = {"hf", "gguf"};
    static const struct tiny_shape *const shapes[] = {&tied, &untied};

    (void)state;
    for (unsigned s = 0; s < 2; s++) {
        char *dir = scratch_new(), model[256], adapter[256];
        struct adapter a = {.dir = adapter, .embeddings = true, .norms = true, .head = s == 0};

        (void)snprintf(adapter, sizeof(adapter), "%s/adapter", dir);
        (void)snprintf(model, sizeof(model), "%s", tiny_model_write(shapes[s], 3 + s));
        write_adapter(model, &a);
        for (unsigned f = 0; f < 2; f++) {
            char members[200];
            struct outcome o;

            (void)snprintf(members, sizeof(members),
                           "{'export':{'format':'%s','dtype':'f32'},'context':{'length':256}}",
                           formats[f]);
            o = run(dir, export_spec(model, adapter, members));
            assert_true(logit_error(&o) < 1e-5);
            assert_int_equal(lh_json_i64(exported(&o), "max_position_embeddings", 0), 256);
            json_decref(o.result);
            assert_int_equal(lh_manifest_verify(in_dir(dir, "export"), NULL), 0);
            assert_false(lh_path_exists(in_dir(dir, "export.tmp")));
        }
        scratch_free(dir);
        tiny_model_remove(model);
    }
}

/* The fp32 merge by the formula, in double, element by element. */
static void each_weight_is_the_base_and_the_scaled_product(void **state)
{
    char *dir = scratch_new(), adapter[256];
    const char *model = tiny_model_write(&tied, 8);
    struct adapter a = {.dir = adapter};
    struct lh_job *job;
    struct engine e = {0};
    struct merge m;
    float base[48 * 32], got[48 * 32];
    json_t *spec;
    unsigned checked = 0;

    (void)state;
    (void)snprintf(adapter, sizeof(adapter), "%s/adapter", dir);
    write_adapter(model, &a);
    spec = export_spec(model, adapter, "{}");
    assert_int_equal(lh_job_parse(spec, &job, NULL, NULL), 0);
    assert_int_equal(engine_open_finished(job, &e, NULL), 0);
    assert_int_equal(merge_open(e.source, &e.adapter, &e.spec, &m, NULL), 0);
    for (unsigned i = 0; i < m.n; i++) {
        const struct param *p = m.at[i],
                           *pa = params_role(&m.params, PARAM_LORA_A, p->role, p->layer);
        const struct param *pb = params_role(&m.params, PARAM_LORA_B, p->role, p->layer);
        const float *A, *B;
        double scale;

        if (!pa)
            continue;
        checked++;
        A = st_find(e.adapter.weights, pa->key)->data;
        B = st_find(e.adapter.weights, pb->key)->data;
        scale = 4 / sqrt((double)pa->rows);
        assert_int_equal(pa->rows, p->role == PARAM_UP && p->layer == 1 ? 3 : 2);
        assert_int_equal(model_source_read(e.source, p->name, 1, 5, KN_F32, base, NULL), 0);
        assert_int_equal(merge_read(&m, i, 1, 5, got, NULL), 0);
        for (int64_t r = 0; r < 5; r++)
            for (int64_t c = 0; c < p->cols; c++) {
                double want = (double)base[r * p->cols + c];

                for (int64_t k = 0; k < pa->rows; k++)
                    want += scale * (double)B[(r + 1) * pa->rows + k] * (double)A[k * p->cols + c];
                assert_true(fabs((double)got[r * p->cols + c] - want) < 1e-6);
            }
    }
    assert_int_equal(checked, 14);
    merge_close(&m);
    engine_close(&e);
    lh_job_free(job);
    json_decref(spec);
    scratch_free(dir);
    tiny_model_remove(model);
}

/* Rounded weights: within the limit, and not by leaving the adapter out. JOB-34 */
static void every_type_passes_and_rounds(void **state)
{
    static const char *const members[] = {
        "{'export':{}}", "{'export':{'dtype':'f16','shard_bytes':4096}}",
        "{'export':{'format':'gguf'}}", "{'export':{'format':'gguf','dtype':'f16'}}",
        "{'export':{'format':'gguf','dtype':'q8_0'}}"};
    char *dir = scratch_new(), adapter[256];
    const char *model = tiny_model_write(&tied, 5);
    struct adapter a = {.dir = adapter, .norms = true};

    (void)state;
    (void)snprintf(adapter, sizeof(adapter), "%s/adapter", dir);
    write_adapter(model, &a);
    for (unsigned i = 0; i < LH_ARRAY_LEN(members); i++) {
        struct outcome o = run(dir, export_spec(model, adapter, members[i]));

        assert_in_range((int)(logit_error(&o) * 1e6), 10, 100000);
        json_decref(o.result);
    }
    scratch_free(dir);
    tiny_model_remove(model);
}

/* An exported model is a base like any other: exported again it has not changed. */
static void an_export_can_be_exported_again(void **state)
{
    char *dir = scratch_new(), first[300], second[300];
    const char *model = tiny_model_write(&untied, 6);
    struct outcome o;
    double error;

    (void)state;
    (void)snprintf(first, sizeof(first), "%s/a", dir);
    (void)snprintf(second, sizeof(second), "%s/b", dir);
    o = run(first, export_spec(model, NULL,
                               "{'export':{'format':'gguf','dtype':'bf16'},'context':{'rope':"
                               "{'type':'yarn','factor':4}}}"));
    assert_int_equal(lh_json_i64(exported(&o), "max_position_embeddings", 0), 256);
    json_decref(o.result);
    o = run(second, export_spec(in_dir(first, "export"), NULL, "{'export':{'dtype':'bf16'}}"));
    error = logit_error(&o);
    assert_true(error < 5e-3); /* only norms, F32 before, are rounded */
    assert_string_equal(lh_json_str(json_object_get(exported(&o), "rope"), "rope_type", ""),
                        "yarn");
    assert_int_equal(lh_json_i64(exported(&o), "max_position_embeddings", 0), 256);
    json_decref(o.result);
    scratch_free(dir);
    tiny_model_remove(model);
}

static void an_adapter_is_exported_with_the_config_of_its_positions(void **state)
{
    char *dir = scratch_new(), adapter[256], made[300];
    const char *model = tiny_model_write(&tied, 7);
    struct adapter a = {.dir = adapter, .embeddings = true, .norms = true, .head = true};
    struct peft_adapter read;
    struct outcome o;
    json_t *config = NULL;

    (void)state;
    (void)snprintf(adapter, sizeof(adapter), "%s/adapter", dir);
    (void)snprintf(made, sizeof(made), "%s/export", dir);
    write_adapter(model, &a);
    o = run(dir, export_spec(model, adapter,
                             "{'export':{'format':'adapter'},'context':{'length':128}}"));
    assert_true(logit_error(&o) == 0);
    json_decref(o.result);
    assert_int_equal(lh_json_load(in_dir(made, "config.json"), 1 << 20, &config, NULL), 0);
    assert_true(lh_json_num(json_object_get(config, "rope_parameters"), "factor", 0) == 2);
    json_decref(config);
    assert_int_equal(peft_open(made, &read, NULL), 0);
    assert_int_equal(st_count(read.weights), 2 * 14 + 5 + 2);
    peft_close(&read);
    scratch_free(dir);
    tiny_model_remove(model);
}

/* JOB-33 */
static void an_adapter_that_cannot_be_taken_up_whole_is_refused(void **state)
{
    const struct adapter bad[] = {
        {.head = true, .embeddings = true, .head_off = 1},
        {.head = true},
        {.extra = PEFT_PREFIX "model.layers.0.self_attn.q_proj.lora_magnitude_vector"},
    };
    char *dir = scratch_new();
    const char *model = tiny_model_write(&tied, 9);

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(bad); i++) {
        char path[256];
        struct adapter a = bad[i];
        struct outcome o;

        (void)snprintf(path, sizeof(path), "%s/adapter%u", dir, i);
        a.dir = path;
        write_adapter(model, &a);
        o = run(dir, export_spec(model, path, "{}"));
        assert_int_equal(o.rc, LH_EINPUT);
        assert_string_equal(o.err.pointer, "/model/adapter");
        assert_non_null(strstr(o.err.text, i < 2 ? "lm_head.weight" : "lora_magnitude_vector"));
        json_decref(o.result);
        assert_false(lh_path_exists(in_dir(dir, "export")));
    }
    scratch_free(dir);
    tiny_model_remove(model);
}

static void put_state(const char *dir, const char *text)
{
    json_t *state = json_of(text);

    assert_int_equal(lh_json_save(in_dir(dir, "state.json"), state, NULL), 0);
    json_decref(state);
}

/* JOB-31 */
static void positions_are_those_of_the_checkpoint(void **state)
{
    char *dir = scratch_new();
    const char *model = tiny_model_write(&tied, 4);
    struct model_source *source;
    struct rope_config rope;
    json_t *spec = export_spec(model, NULL, "{}");
    struct lh_job *job;
    struct lh_err err = {0};
    int64_t length;

    (void)state;
    assert_int_equal(model_source_open(model, &source, NULL), 0);
    assert_int_equal(lh_job_parse(spec, &job, NULL, NULL), 0);
    assert_int_equal(positions_finished(job, model_source_config(source), "", &rope, &length, NULL),
                     0);
    assert_true(rope.type == LH_ROPE_DEFAULT && length == 64); /* the base as it is */
    put_state(dir, "{'context':{'length':256,'rope':{'rope_type':'yarn','rope_theta':10000.0,"
                   "'factor':4,'original_max_position_embeddings':64.0,'beta_fast':32,'beta_slow':"
                   "1}}}");
    assert_int_equal(
        positions_finished(job, model_source_config(source), dir, &rope, &length, NULL), 0);
    assert_true(rope.type == LH_ROPE_YARN && rope.factor == 4 && length == 256);
    job->context.length = 200; /* shorter than it was trained for: the scaling stays */
    assert_int_equal(
        positions_finished(job, model_source_config(source), dir, &rope, &length, NULL), 0);
    assert_true(rope.factor == 4 && length == 200);
    job->context.rope.has_type = true;
    job->context.rope.type = LH_ROPE_YARN;
    assert_int_equal(
        positions_finished(job, model_source_config(source), dir, &rope, &length, &err),
        0); /* 200 needs a factor of 4 as well */
    job->context.rope.type = LH_ROPE_LINEAR;
    assert_int_equal(
        positions_finished(job, model_source_config(source), dir, &rope, &length, &err), LH_EJOB);
    assert_string_equal(err.pointer, "/context/rope");
    assert_non_null(strstr(err.text, "yarn"));
    job->context.rope.factor = 2; /* without a checkpoint it is the job's to say */
    job->context.length = 0;
    assert_int_equal(positions_finished(job, model_source_config(source), "", &rope, &length, NULL),
                     0);
    assert_true(rope.type == LH_ROPE_LINEAR && rope.factor == 2 && length == 128);
    put_state(dir, "{'context':{'length':256}}");
    assert_int_equal(
        positions_finished(job, model_source_config(source), dir, &rope, &length, &err), LH_EINPUT);
    lh_job_free(job);
    json_decref(spec);
    model_source_close(source);
    scratch_free(dir);
    tiny_model_remove(model);
}

/* JOB-32: weights and positions of the checkpoint, in the place of the base's. */
static void a_fully_trained_checkpoint_takes_the_place_of_the_base(void **state)
{
    char *dir = scratch_new(), model[256], trained[256];
    struct outcome o;

    (void)state;
    (void)snprintf(model, sizeof(model), "%s", tiny_model_write(&tied, 4));
    (void)snprintf(trained, sizeof(trained), "%s", tiny_model_write(&tied, 40));
    put_state(trained, "{'context':{'length':100,'rope':{'rope_type':'linear','rope_theta':10000.0,"
                       "'factor':2}}}");
    o = run(dir, export_spec(model, trained, "{'export':{'dtype':'f32'}}"));
    assert_true(logit_error(&o) < 1e-5);
    assert_int_equal(lh_json_i64(exported(&o), "max_position_embeddings", 0), 100);
    json_decref(o.result);
    for (int i = 0; i < 2; i++) { /* the weights are those of `trained` */
        struct model_source *source, *made;
        float a[32], b[32];

        assert_int_equal(model_source_open(i ? trained : model, &source, NULL), 0);
        assert_int_equal(model_source_open(in_dir(dir, "export"), &made, NULL), 0);
        assert_int_equal(model_source_read(source, "model.norm.weight", 0, 32, KN_F32, a, NULL), 0);
        assert_int_equal(model_source_read(made, "model.norm.weight", 0, 32, KN_F32, b, NULL), 0);
        assert_int_equal(memcmp(a, b, sizeof(a)) == 0, i);
        model_source_close(source);
        model_source_close(made);
    }
    o = run(dir, export_spec(model, trained, "{'export':{'format':'adapter'}}"));
    assert_int_equal(o.rc, LH_EJOB);
    assert_string_equal(o.err.pointer, "/export/format");
    json_decref(o.result);
    scratch_free(dir);
    tiny_model_remove(model);
    tiny_model_remove(trained);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_merged_model_has_the_logits_of_base_and_adapter),
        TEST(each_weight_is_the_base_and_the_scaled_product),
        TEST(every_type_passes_and_rounds),
        TEST(an_export_can_be_exported_again),
        TEST(an_adapter_is_exported_with_the_config_of_its_positions),
        TEST(an_adapter_that_cannot_be_taken_up_whole_is_refused),
        TEST(positions_are_those_of_the_checkpoint),
        TEST(a_fully_trained_checkpoint_takes_the_place_of_the_base),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
