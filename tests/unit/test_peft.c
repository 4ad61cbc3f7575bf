/* test_peft.c - adapter directories: the config we write, what we read, what must agree with the
 * job. */
#include "tests/unit/hostile.h"
#include "worker/formats/peft.h"
#include <sys/stat.h>

#define ADAPTER                                                                                    \
    "'peft_type':'LORA','r':4,'lora_alpha':8,'target_modules':['q_proj','v_proj'],'bias':'none'"

static struct lh_job job_of(void)
{
    struct lh_job job;

    memset(&job, 0, sizeof(job));
    job.adapter.rank = 4;
    job.adapter.alpha = 8;
    job.adapter.targets = LH_TARGET_Q | LH_TARGET_V;
    return job;
}

static char *adapter_of(const char *config)
{
    const struct st_entry entry = {
        PEFT_PREFIX "model.layers.0.self_attn.q_proj.lora_A.weight", ST_F32, 2, {1, 1}};
    const float zero = 0;
    char *dir = scratch_new();
    json_t *value = json_of(config);
    struct st_writer *w;

    assert_int_equal(lh_json_save(in_dir(dir, "adapter_config.json"), value, NULL), 0);
    json_decref(value);
    assert_int_equal(st_create(in_dir(dir, "adapter_model.safetensors"), &entry, 1, NULL, &w, NULL),
                     0);
    assert_int_equal(st_write(w, &zero, 4, NULL), 0);
    assert_int_equal(st_finish(w, NULL), 0);
    return dir;
}

static void the_config_we_write_passes_our_own_check(void **state)
{
    struct lh_pattern ranks[] = {{"layers.1.mlp.down_proj", 7}}, alphas[] = {{"q_proj", 2.5}};
    struct peft_adapter a;
    struct lh_err err = {0};

    (void)state;
    for (unsigned i = 0; i < 32; i++) {
        struct lh_job job = job_of();
        char *dir, *text;
        json_t *config;

        job.adapter.embeddings = i & 1;
        job.adapter.norms = i & 2;
        job.adapter.use_rslora = i & 4;
        job.adapter.rank_pattern = ranks;
        job.adapter.n_rank_pattern = i >> 3 & 1;
        job.adapter.alpha_pattern = alphas;
        job.adapter.n_alpha_pattern = i >> 3 & 1;
        config = peft_config(&job, "base", i & 16);
        text = lh_json_text(config, 0);
        dir = adapter_of(text);
        if (peft_open(dir, &a, &err) < 0 || peft_check(&a, &job, &err) < 0)
            fail_msg("%u: %s in %s", i, err.text, text);
        peft_close(&a);
        json_decref(config);
        free(text);
        scratch_free(dir);
    }
}

static void a_tied_base_is_written_as_peft_writes_it(void **state)
{
    struct lh_job job = job_of();
    json_t *config,
        *want = json_of("['embed_tokens','input_layernorm','model.embed_tokens','norm',"
                        "'post_attention_layernorm']"),
        *targets = json_of("['q_proj','v_proj']");

    (void)state;
    job.adapter.embeddings = job.adapter.norms = true;
    config = peft_config(&job, "/models/x", true);
    assert_true(json_equal(json_object_get(config, "modules_to_save"), want));
    assert_true(json_is_true(json_object_get(config, "ensure_weight_tying")));
    assert_true(json_equal(json_object_get(config, "target_modules"), targets));
    assert_string_equal(lh_json_str(config, "base_model_name_or_path", ""), "/models/x");
    assert_true(json_is_integer(json_object_get(config, "lora_alpha")));
    json_decref(config);
    config = peft_config(&job, "/models/x", false);
    assert_int_equal(json_array_size(json_object_get(config, "modules_to_save")), 4);
    assert_true(json_is_false(json_object_get(config, "ensure_weight_tying")));
    json_decref(config);
    json_decref(want);
    json_decref(targets);
}

static void an_adapter_that_differs_from_the_job_names_the_member_and_both_values(void **state)
{
    static const char *const cases[][3] = {
        {"{" ADAPTER ",'r':8}", "/adapter/rank", "8"},
        {"{'peft_type':'LORA','r':4,'lora_alpha':16,'target_modules':['q_proj','v_proj']}",
         "/adapter/alpha", "16"},
        {"{'peft_type':'LORA','r':4,'lora_alpha':8,'target_modules':['q_proj']}",
         "/adapter/targets", "has LoRA on q_proj, the job asks for q_proj, v_proj"},
        {"{'peft_type':'LORA','r':4,'lora_alpha':8,'target_modules':['lm_head']}",
         "/adapter/targets", "lm_head"},
        {"{" ADAPTER ",'use_rslora':true}", "/adapter/use_rslora", "true"},
        {"{" ADAPTER ",'rank_pattern':{'q_proj':2}}", "/adapter/rank_pattern", "1 entries"},
        {"{" ADAPTER ",'alpha_pattern':{'q_proj':2}}", "/adapter/alpha_pattern", "1 entries"},
        {"{" ADAPTER ",'modules_to_save':['embed_tokens']}", "/adapter/embeddings", "embeddings"},
        {"{" ADAPTER ",'modules_to_save':['norm']}", "/adapter/norms", "norms"},
        {"{" ADAPTER ",'modules_to_save':['input_layernorm']}", "/adapter/norms", "some norms"},
        {"{" ADAPTER ",'modules_to_save':['lm_head']}", "/model/adapter", "lm_head"},
    };
    struct lh_job job = job_of();

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        json_t *merged; /* the first case gives r twice on purpose: take the later one */
        char *copy = strdup(cases[i][0]), *dir;
        struct peft_adapter a;
        struct lh_err err = {0};

        for (char *c = copy; *c; c++)
            *c = *c == '\'' ? '"' : *c;
        merged = json_loads(copy, 0, NULL);
        free(copy);
        copy = lh_json_text(merged, 0);
        dir = adapter_of(copy);
        if (peft_open(dir, &a, &err) < 0)
            fail_msg("case %u: %s", i, err.text);
        assert_int_equal(peft_check(&a, &job, &err), LH_EJOB);
        assert_string_equal(err.pointer, cases[i][1]);
        if (!strstr(err.text, cases[i][2]))
            fail_msg("case %u should say '%s': %s", i, cases[i][2], err.text);
        peft_close(&a);
        json_decref(merged);
        free(copy);
        scratch_free(dir);
    }
}

static void adapters_of_other_kinds_are_refused(void **state)
{
    static const char *const cases[][2] = {
        {"{'peft_type':'IA3'}", "'IA3'"},
        {"{}", "peft_type"},
        {"{" ADAPTER ",'use_dora':true}", "use_dora"},
        {"{'peft_type':'LORA','bias':'all','target_modules':[]}", "'all'"},
        {"{'peft_type':'LORA','target_modules':'all-linear'}", "target_modules"},
        {"{'peft_type':'LORA'}", "target_modules"},
        {"{" ADAPTER ",'layers_to_transform':[1]}", "layers_to_transform"},
        {"{" ADAPTER ",'init_lora_weights':'pissa'}", "'pissa'"},
        {"{" ADAPTER ",'modules_to_save':[1]}", "modules_to_save"},
        {"{'peft_type':'LORA','r':0,'target_modules':[]}", "'r'"},
        {"{" ADAPTER ",'rank_pattern':{'q_proj':0}}", "'rank_pattern' of 'q_proj'"},
        {"{" ADAPTER ",'rank_pattern':{'q_proj':1048577}}", "1048576"},
        {"{" ADAPTER ",'rank_pattern':['q_proj']}", "'rank_pattern' must be"},
        {"{" ADAPTER ",'alpha_pattern':{'q_proj':'4'}}", "'alpha_pattern' of 'q_proj'"},
    };

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        char *dir = adapter_of(cases[i][0]);
        struct peft_adapter a;
        struct lh_err err = {0};

        assert_refused(peft_open(dir, &a, &err), &err, dir);
        assert_int_equal(err.code, LH_EINPUT);
        if (!strstr(err.text, cases[i][1]))
            fail_msg("case %u should say '%s': %s", i, cases[i][1], err.text);
        scratch_free(dir);
    }
}

static void missing_files_and_foreign_keys_are_refused(void **state)
{
    const struct st_entry entry = {"model.layers.0.self_attn.q_proj.lora_A.weight", ST_F32, 1, {0}};
    char *dir = adapter_of("{" ADAPTER "}");
    struct peft_adapter a;
    struct st_writer *w;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(st_create(in_dir(dir, "adapter_model.safetensors"), &entry, 1, NULL, &w, NULL),
                     0);
    assert_int_equal(st_finish(w, NULL), 0);
    assert_int_equal(peft_open(dir, &a, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "does not begin with 'base_model.model.'"));
    assert_int_equal(lh_remove_tree(in_dir(dir, "adapter_model.safetensors"), NULL), 0);
    assert_int_equal(peft_open(dir, &a, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "no adapter_model.safetensors"));
    assert_int_equal(lh_remove_tree(in_dir(dir, "adapter_config.json"), NULL), 0);
    assert_int_equal(peft_open(dir, &a, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "no adapter_config.json"));
    scratch_free(dir);
}

static void use(const char *path, void *arg)
{
    struct lh_job job = job_of();
    struct peft_adapter a;
    struct lh_err err = {0};
    int rc = peft_open(arg, &a, &err);

    (void)path;
    if (rc < 0) {
        assert_refused(rc, &err, arg);
        return;
    }
    if (peft_check(&a, &job, &err) < 0)
        assert_int_equal(err.code, LH_EJOB);
    peft_close(&a);
}

static void damaged_adapter_configs_never_crash_the_reader(void **state)
{
    struct lh_job job = job_of();
    char *dir, *text, path[1024];
    json_t *config;

    (void)state;
    job.adapter.norms = true;
    config = peft_config(&job, "base", false);
    text = lh_json_text(config, 0);
    dir = adapter_of(text);
    (void)snprintf(path, sizeof(path), "%s", in_dir(dir, "adapter_config.json"));
    hostile_each(path, text, strlen(text), strlen(text), 1000, use, dir);
    json_decref(config);
    free(text);
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_config_we_write_passes_our_own_check),
        TEST(a_tied_base_is_written_as_peft_writes_it),
        TEST(an_adapter_that_differs_from_the_job_names_the_member_and_both_values),
        TEST(adapters_of_other_kinds_are_refused),
        TEST(missing_files_and_foreign_keys_are_refused),
        TEST(damaged_adapter_configs_never_crash_the_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
