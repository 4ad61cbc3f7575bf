/* test_source.c - Hugging Face directories as model sources: both config layouts, one file or
 * shards, what is refused. */
#include "tests/unit/hostile.h"
#include "worker/formats/hf_config.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/source.h"
#include <math.h>
#include <sys/stat.h>

#define CONFIG                                                                                     \
    "'architectures':['LlamaForCausalLM'],'model_type':'llama','hidden_act':'silu','num_hidden_"   \
    "layers':1,"                                                                                   \
    "'hidden_size':8,'intermediate_size':12,'num_attention_heads':2,'vocab_size':10"

static void put_json(const char *dir, const char *name, const char *text)
{
    json_t *value = json_of(text);

    assert_int_equal(lh_json_save(in_dir(dir, name), value, NULL), 0);
    json_decref(value);
}

static const struct st_entry tensors[] = {
    {"model.embed_tokens.weight", ST_F32, 2, {10, 8}},
    {"model.layers.0.input_layernorm.weight", ST_BF16, 1, {8}},
    {"model.layers.0.post_attention_layernorm.weight", ST_F32, 1, {8}},
    {"model.layers.0.self_attn.q_proj.weight", ST_F16, 2, {8, 8}},
    {"model.layers.0.self_attn.k_proj.weight", ST_F32, 2, {8, 8}},
    {"model.layers.0.self_attn.v_proj.weight", ST_F32, 2, {8, 8}},
    {"model.layers.0.self_attn.o_proj.weight", ST_F32, 2, {8, 8}},
    {"model.layers.0.mlp.gate_proj.weight", ST_F32, 2, {12, 8}},
    {"model.layers.0.mlp.up_proj.weight", ST_F64, 2, {12, 8}},
    {"model.layers.0.mlp.down_proj.weight", ST_F32, 2, {8, 12}},
    {"model.norm.weight", ST_F32, 1, {8}},
    {"lm_head.weight", ST_F32, 2, {10, 8}},
};

/* Tensors [first, end) with 1.5 everywhere. */
static void put_weights(const char *path, unsigned first, unsigned end)
{
    struct st_writer *w;

    assert_int_equal(st_create(path, tensors + first, end - first, NULL, &w, NULL), 0);
    for (unsigned i = first; i < end; i++) {
        static const struct {
            enum st_dtype type;
            uint8_t bytes[8];
        } one_and_a_half[] = {{ST_F32, {0, 0, 0xc0, 0x3f}},
                              {ST_F16, {0, 0x3e}},
                              {ST_BF16, {0xc0, 0x3f}},
                              {ST_F64, {0, 0, 0, 0, 0, 0, 0xf8, 0x3f}}};
        int64_t n = tensors[i].shape[0] * (tensors[i].n_dims == 2 ? tensors[i].shape[1] : 1);

        for (unsigned t = 0; t < LH_ARRAY_LEN(one_and_a_half); t++) {
            for (int64_t k = 0; k < n && one_and_a_half[t].type == tensors[i].dtype; k++)
                assert_int_equal(
                    st_write(w, one_and_a_half[t].bytes, st_dtype_bytes(tensors[i].dtype), NULL),
                    0);
        }
    }
    assert_int_equal(st_finish(w, NULL), 0);
}

static char *model(const char *config)
{
    char *dir = scratch_new();

    put_json(dir, "config.json", config);
    put_weights(in_dir(dir, "model.safetensors"), 0, 12);
    return dir;
}

static void a_directory_of_one_file_opens_and_reads_every_type(void **state)
{
    char *dir = model("{" CONFIG "}");
    struct model_source *s;
    struct lh_err err = {0};
    const struct model_config *c;
    float out[96];
    uint16_t half[96];

    (void)state;
    if (model_source_open(dir, &s, &err) < 0)
        fail_msg("%s", err.text);
    c = model_source_config(s);
    assert_string_equal(model_source_path(s), dir);
    assert_int_equal(c->kv_heads, 2); /* defaults of LlamaConfig */
    assert_int_equal(c->head_dim, 4);
    assert_int_equal(c->max_positions, 2048);
    assert_true(c->norm_eps == 1e-6);
    assert_true(c->rope.theta == 10000);
    assert_false(c->tied);
    for (unsigned i = 0; i < LH_ARRAY_LEN(tensors); i++) {
        int64_t rows = tensors[i].shape[0], cols = tensors[i].n_dims == 2 ? tensors[i].shape[1] : 0;

        assert_int_equal(model_source_check(s, tensors[i].name, rows, cols, &err), 0);
        assert_int_equal(model_source_read(s, tensors[i].name, 1, rows - 1, KN_F32, out, &err), 0);
        assert_int_equal(model_source_read(s, tensors[i].name, 1, rows - 1, KN_BF16, half, &err),
                         0);
        for (int64_t k = 0; k < (rows - 1) * (cols ? cols : 1); k++) {
            assert_true(out[k] == 1.5f);
            assert_int_equal(half[k], 0x3fc0);
        }
    }
    model_source_close(s);
    scratch_free(dir);
}

static void shards_are_found_by_the_index(void **state)
{
    char *dir = scratch_new(), digest[65], other[65];
    json_t *map = json_object(), *index;
    struct model_source *s;
    struct lh_err err = {0};

    (void)state;
    put_json(dir, "config.json", "{" CONFIG "}");
    put_weights(in_dir(dir, "model-00001-of-00002.safetensors"), 0, 5);
    put_weights(in_dir(dir, "model-00002-of-00002.safetensors"), 5, 12);
    for (unsigned i = 0; i < 12; i++)
        json_object_set_new(map, tensors[i].name,
                            json_string(i < 5 ? "model-00001-of-00002.safetensors"
                                              : "model-00002-of-00002.safetensors"));
    index = json_pack("{s:{s:i}, s:O}", "metadata", "total_size", 1, "weight_map", map);
    assert_int_equal(lh_json_save(in_dir(dir, "model.safetensors.index.json"), index, NULL), 0);
    if (model_source_open(dir, &s, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(model_source_has(s, "lm_head.weight"));
    assert_int_equal(model_source_digest(s, digest, &err), 0);
    model_source_close(s);
    put_file(dir, "tokenizer.json", "{}");
    assert_int_equal(model_source_open(dir, &s, &err), 0);
    assert_int_equal(model_source_digest(s, other, &err), 0);
    assert_string_not_equal(digest, other); /* it covers the tokenizer */
    model_source_close(s);

    json_object_set_new(map, "lm_head.weight", json_string("model-00001-of-00002.safetensors"));
    assert_int_equal(lh_json_save(in_dir(dir, "model.safetensors.index.json"), index, NULL), 0);
    assert_int_equal(model_source_open(dir, &s, &err), LH_EINPUT);
    assert_non_null(
        strstr(err.text, "'lm_head.weight' is in 'model-00001-of-00002.safetensors', but"));
    json_object_set_new(map, "lm_head.weight", json_string("../secret.safetensors"));
    assert_int_equal(lh_json_save(in_dir(dir, "model.safetensors.index.json"), index, NULL), 0);
    assert_int_equal(model_source_open(dir, &s, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "'../secret.safetensors'"));
    json_object_set_new(map, "lm_head.weight", json_string("model-00003-of-00002.safetensors"));
    assert_int_equal(lh_json_save(in_dir(dir, "model.safetensors.index.json"), index, NULL), 0);
    assert_int_equal(model_source_open(dir, &s, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "which is not there"));
    json_decref(map);
    json_decref(index);
    scratch_free(dir);
}

static struct model_config parse(const char *text)
{
    json_t *raw = json_of(text);
    struct model_config c;
    struct lh_err err = {0};

    if (hf_config_parse(raw, "config.json", &c, &err) < 0)
        fail_msg("%s", err.text);
    json_decref(c.raw);
    json_decref(raw);
    return c;
}

static void both_layouts_of_position_scaling_mean_the_same(void **state)
{
    static const char *const pairs[][2] = {
        {"{" CONFIG ",'rope_theta':500000,'rope_scaling':null}",
         "{" CONFIG ",'rope_parameters':{'rope_theta':500000.0}}"},
        {"{" CONFIG ",'rope_scaling':{'type':'linear','factor':2}}",
         "{" CONFIG ",'rope_parameters':{'rope_type':'linear','factor':2.0,'rope_theta':10000.0}}"},
        {"{" CONFIG
         ",'rope_theta':5e5,'rope_scaling':{'rope_type':'llama3','factor':8,'low_freq_factor':1,"
         "'high_freq_factor':4,'original_max_position_embeddings':8192}}",
         "{" CONFIG
         ",'rope_parameters':{'rope_theta':5e5,'rope_type':'llama3','factor':8,'low_freq_factor':1,"
         "'high_freq_factor':4,'original_max_position_embeddings':8192}}"},
        {"{" CONFIG ",'rope_scaling':{'rope_type':'yarn','factor':4,'original_max_position_"
                    "embeddings':16,'beta_fast':4,"
         "'attention_factor':1.25,'mscale':0.5}}",
         "{" CONFIG
         ",'rope_parameters':{'rope_type':'yarn','factor':4,'original_max_position_embeddings':16,"
         "'beta_fast':4,'attention_factor':1.25,'mscale':0.5}}"},
        {"{" CONFIG ",'original_max_position_embeddings':512,'rope_scaling':{'type':'longrope','"
                    "short_factor':[1,1.5],"
         "'long_factor':[2,3]}}",
         "{" CONFIG ",'rope_parameters':{'rope_type':'longrope','original_max_position_embeddings':"
                    "512,'factor':4,"
         "'short_factor':[1,1.5],'long_factor':[2,3]}}"},
    };

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(pairs); i++) {
        struct model_config a = parse(pairs[i][0]), b = parse(pairs[i][1]);

        assert_memory_equal(&a.rope, &b.rope, sizeof(a.rope));
    }
    assert_int_equal(parse(pairs[3][0]).rope.type, LH_ROPE_YARN);
    assert_true(parse(pairs[3][0]).rope.beta_slow == 1);
    assert_true(parse(pairs[4][0]).rope.long_factor[1] == 3);
    assert_int_equal(parse(pairs[4][0]).rope.n_factors, 2);
}

static void ids_of_the_config_may_be_lists_or_null(void **state)
{
    struct model_config c =
        parse("{" CONFIG ",'bos_token_id':null,'eos_token_id':[3,4],'pad_token_id':-1}");

    (void)state;
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.eos_id, 3);
    assert_int_equal(c.pad_id, -1);
}

static void configs_of_something_else_are_refused_by_name(void **state)
{
    static const char *const cases[][2] = {
        {"[]", "not a JSON object"},
        {"{}", "'architectures'"},
        {"{'model_type':'llama'}", "num_hidden_layers"},
        {"{'architectures':['Qwen2ForCausalLM'],'model_type':'qwen2'}", "Qwen2ForCausalLM"},
        {"{'model_type':'mistral'}", "'mistral'"},
        {"{" CONFIG ",'attention_bias':true}", "attention_bias"},
        {"{" CONFIG ",'mlp_bias':true}", "mlp_bias"},
        {"{'model_type':'llama','hidden_act':'gelu'}", "'gelu'"},
        {"{" CONFIG ",'quantization_config':{}}", "quantization_config"},
        {"{" CONFIG ",'num_key_value_heads':3}", "no multiple of num_key_value_heads"},
        {"{" CONFIG ",'head_dim':3}", "odd"},
        {"{" CONFIG ",'head_dim':0}", "head_dim"},
        {"{" CONFIG ",'rms_norm_eps':0}", "rms_norm_eps"},
        {"{" CONFIG ",'rms_norm_eps':'1e-5'}", "rms_norm_eps"},
        {"{" CONFIG ",'max_position_embeddings':-1}", "max_position_embeddings"},
        {"{" CONFIG ",'eos_token_id':10}", "eos_token_id"},
        {"{" CONFIG ",'rope_theta':0}", "rope_theta"},
        {"{" CONFIG ",'rope_scaling':[]}", "not an object"},
        {"{" CONFIG ",'rope_scaling':{'type':'su','factor':2}}", "'su'"},
        {"{" CONFIG ",'rope_scaling':{'factor':2}}", "rope_type"},
        {"{" CONFIG ",'rope_scaling':{'type':'linear'}}", "'factor'"},
        {"{" CONFIG ",'rope_scaling':{'type':'linear','factor':0.5}}", "'factor'"},
        {"{" CONFIG ",'rope_scaling':{'type':'llama3','factor':8}}", "low_freq_factor"},
        {"{" CONFIG
         ",'rope_scaling':{'type':'llama3','factor':8,'low_freq_factor':4,'high_freq_factor':4,"
         "'original_max_position_embeddings':8}}",
         "high_freq_factor"},
        {"{" CONFIG
         ",'rope_scaling':{'type':'longrope','factor':8,'short_factor':[1],'long_factor':[1,1]}}",
         "'short_factor' must be a list of 2"},
        {"{" CONFIG
         ",'rope_scaling':{'type':'longrope','factor':8,'short_factor':[1,1],'long_factor':[1,0],"
         "'original_max_position_embeddings':8}}",
         "'long_factor'"},
        {"{" CONFIG ",'rope_parameters':{'rope_theta':1e4,'partial_rotary_factor':0.5}}",
         "partial_rotary_factor"},
    };

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        json_t *raw = json_of(cases[i][0]);
        struct model_config c;
        struct lh_err err = {0};

        assert_refused(hf_config_parse(raw, "config.json", &c, &err), &err, "config.json");
        if (!strstr(err.text, cases[i][1]))
            fail_msg("case %u should say '%s': %s", i, cases[i][1], err.text);
        json_decref(raw);
    }
}

static void what_is_no_model_is_refused_with_the_way_out(void **state)
{
    char *dir = scratch_new();
    struct model_source *s;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(model_source_open(in_dir(dir, "absent"), &s, &err), LH_EINPUT);
    assert_int_equal(model_source_open(dir, &s, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "no config.json"));
    put_file(dir, "model.bin", "x");
    assert_int_equal(model_source_open(in_dir(dir, "model.bin"), &s, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "neither a directory"));
    put_json(dir, "config.json", "{" CONFIG "}");
    assert_int_equal(model_source_open(dir, &s, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "model.safetensors.index.json"));
    put_weights(in_dir(dir, "model.safetensors"), 0, 11);
    assert_int_equal(model_source_open(dir, &s, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "no tensor 'lm_head.weight'"));
    put_json(dir, "config.json", "{" CONFIG ",'tie_word_embeddings':true}");
    assert_int_equal(model_source_open(dir, &s, &err), 0);
    model_source_close(s);
    put_json(dir, "config.json", "{" CONFIG ",'tie_word_embeddings':true,'num_key_value_heads':1}");
    assert_int_equal(model_source_open(dir, &s, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "k_proj.weight' is 8 x 8 where the config asks for 4 x 8"));
    put_json(dir, "config.json", "{" CONFIG ",'tie_word_embeddings':true}");
    put_weights(in_dir(dir, "model.safetensors"), 0, 12); /* the head is there again, and ignored */
    assert_int_equal(model_source_open(dir, &s, &err), 0);
    assert_false(model_source_has(s, "lm_head.weight"));
    model_source_close(s);
    scratch_free(dir);
}

static void use_config(const char *path, void *arg)
{
    struct model_source *s;
    struct lh_err err = {0};
    int rc = model_source_open(arg, &s, &err);

    (void)path;
    if (rc < 0)
        assert_refused(rc, &err, arg);
    else
        model_source_close(s);
}

static void damaged_configs_never_crash_the_reader(void **state)
{
    char *dir = model("{" CONFIG ",'rope_scaling':{'rope_type':'yarn','factor':4}}"), *text;
    char path[1024];
    size_t n;

    (void)state;
    (void)snprintf(path, sizeof(path), "%s", in_dir(dir, "config.json"));
    assert_int_equal(lh_read_file(path, 1 << 20, &text, &n, NULL), 0);
    hostile_each(path, text, n, n, 2000, use_config, dir);
    free(text);
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_directory_of_one_file_opens_and_reads_every_type),
        TEST(shards_are_found_by_the_index),
        TEST(both_layouts_of_position_scaling_mean_the_same),
        TEST(ids_of_the_config_may_be_lists_or_null),
        TEST(configs_of_something_else_are_refused_by_name),
        TEST(what_is_no_model_is_refused_with_the_way_out),
        TEST(damaged_configs_never_crash_the_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
