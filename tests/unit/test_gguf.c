/* test_gguf.c - GGUF files: keys, tensors, element types, Llamas made of them; damage. */
#include "proto/base/sha256.h"
#include "tests/unit/gguf_build.h"
#include "tests/unit/real_model.h"
#include "worker/formats/gguf.h"
#include "worker/formats/source.h"
#include <math.h>

static void every_half_precision_number_expands_exactly(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t bits = (uint16_t)i;
        _Float16 half;
        float got = quant_f16_to_f32(bits), want;

        memcpy(&half, &bits, sizeof(half));
        want = (float)half;
        if (isnan(want))
            assert_true(isnan(got));
        else
            assert_memory_equal(&got, &want, sizeof(got));
    }
}

/* One block each, expected values from the definition: d*(q-8), d*q + m, d*q; d = 0.5, m = -2. */
static void quantised_blocks_expand_by_their_definition(void **state)
{
    uint8_t q4_0[18] = {0x00, 0x38}, q4_1[20] = {0x00, 0x38, 0x00, 0xc0}, q8_0[34] = {0x00, 0x38};
    float out[32];

    (void)state;
    for (int i = 0; i < 16; i++) {
        q4_0[2 + i] = (uint8_t)(i | (15 - i) << 4);
        q4_1[4 + i] = (uint8_t)(i | (15 - i) << 4);
        q8_0[2 + i] = (uint8_t)(i - 128);
        q8_0[18 + i] = (uint8_t)(127 - i);
    }
    quant_expand(QUANT_Q4_0, q4_0, 32, KN_F32, out);
    for (int i = 0; i < 16; i++) {
        assert_true(out[i] == 0.5f * (float)(i - 8));
        assert_true(out[16 + i] == 0.5f * (float)(15 - i - 8));
    }
    quant_expand(QUANT_Q4_1, q4_1, 32, KN_F32, out);
    for (int i = 0; i < 16; i++) {
        assert_true(out[i] == 0.5f * (float)i - 2);
        assert_true(out[16 + i] == 0.5f * (float)(15 - i) - 2);
    }
    quant_expand(QUANT_Q8_0, q8_0, 32, KN_F32, out);
    for (int i = 0; i < 16; i++) {
        assert_true(out[i] == 0.5f * (float)(i - 128));
        assert_true(out[16 + i] == 0.5f * (float)(127 - i));
    }
}

static void expansion_to_bf16_rounds_once_to_the_nearest_even(void **state)
{
    const float in[4] = {1.0f, 1.00390625f /* halfway, down to even */,
                         1.01171875f /* halfway, up */, -3.14159274f};
    uint16_t out[4];
    float many[3000];
    uint16_t few[3000];

    (void)state;
    quant_expand(QUANT_F32, (const uint8_t *)in, 4, KN_BF16, out);
    assert_int_equal(out[0], 0x3f80);
    assert_int_equal(out[1], 0x3f80);
    assert_int_equal(out[2], 0x3f82);
    assert_int_equal(out[3], 0xc049);
    for (int i = 0; i < 3000; i++)
        many[i] = (float)i; /* longer than the inner buffer */
    quant_expand(QUANT_F32, (const uint8_t *)many, 3000, KN_BF16, few);
    for (int i = 0; i < 3000; i++)
        assert_int_equal(few[i], kn_f32_to_bf16((float)i));
}

static void keys_of_every_type_are_read(void **state)
{
    static const char *const words[] = {"a", "", "\xc4\xa0x"};
    static const int32_t numbers[] = {5, -6};
    char *dir = scratch_new(), text[8];
    const char *path = in_dir(dir, "x.gguf");
    struct gguf_build g = {.version = 2};
    struct gguf_file *f;
    struct lh_err err = {0};
    const uint8_t *cursor = NULL;
    struct bytes b;
    int64_t i;
    double x;
    size_t len;

    (void)state;
    gb_u32(&g, "u", 4000000000u);
    gb_f32(&g, "f", 0.5f);
    gb_str(&g, "s", "hello");
    gb_strings(&g, "ss", words, 3);
    gb_i32s(&g, "ii", numbers, 2);
    gb_key(&g, "i8", 1);
    bytes_put(&g.keys, "\xff", 1);
    gb_key(&g, "bool", 7);
    bytes_put(&g.keys, "\1", 1);
    gb_key(&g, "u64", 10);
    put_u64(&g.keys, UINT64_MAX);
    b = gb_finish(&g);
    put_bytes(path, b.at, b.n);
    assert_int_equal(gguf_open(path, &f, &err), 0);
    assert_int_equal(gguf_i64(f, "u", &i, &err), 1);
    assert_int_equal(i, 4000000000);
    assert_int_equal(gguf_i64(f, "i8", &i, &err), 1);
    assert_int_equal(i, -1);
    assert_int_equal(gguf_i64(f, "u64", &i, &err), 1);
    assert_true(i == INT64_MAX);
    assert_int_equal(gguf_num(f, "f", &x, &err), 1);
    assert_true(x == 0.5);
    assert_int_equal(gguf_str(f, "s", text, sizeof(text), &err), 1);
    assert_string_equal(text, "hello");
    assert_int_equal(gguf_str(f, "s", text, 5, &err), LH_EINPUT); /* one byte short of a 0 */
    assert_int_equal(gguf_i64(f, "s", &i, &err), LH_EINPUT);
    assert_int_equal(gguf_i64(f, "bool", &i, &err), LH_EINPUT);
    assert_int_equal(gguf_i64(f, "absent", &i, &err), 0);
    assert_int_equal(gguf_array_i64(gguf_find(f, "ii"), 1), -6);
    assert_string_equal((assert_non_null(gguf_array_str(gguf_find(f, "ss"), &cursor, &len)), "x"),
                        "x");
    assert_int_equal(len, 1);
    (void)gguf_array_str(gguf_find(f, "ss"), &cursor, &len);
    assert_int_equal(len, 0);
    assert_memory_equal(gguf_array_str(gguf_find(f, "ss"), &cursor, &len), "\xc4\xa0x", 3);
    gguf_close(f);
    free(b.at);
    scratch_free(dir);
}

static struct bytes llama(void)
{
    struct gguf_build g = {0};

    gb_llama_keys(&g);
    gb_llama_tensors(&g);
    return gb_finish(&g);
}

static void a_llama_has_hugging_faces_names_and_row_order(void **state)
{
    char *dir = scratch_new();
    const char *path = in_dir(dir, "x.gguf");
    struct bytes b = llama();
    struct model_source *s;
    struct lh_err err = {0};
    const struct model_config *c;
    float rows[64 * 64], one[2 * 64];
    char hex[65], again[65];

    (void)state;
    put_bytes(path, b.at, b.n);
    if (model_source_open(path, &s, &err) < 0)
        fail_msg("%s", err.text);
    c = model_source_config(s);
    assert_int_equal(c->n_layers, 1);
    assert_int_equal(c->head_dim, 16);
    assert_int_equal(c->kv_heads, 2);
    assert_int_equal(c->vocab, 40);
    assert_true(c->tied);
    assert_true(c->norm_eps == 1e-5);
    assert_int_equal(c->bos_id, -1);
    assert_int_equal(model_source_check(s, "model.layers.0.self_attn.k_proj.weight", 32, 64, &err),
                     0);
    assert_int_equal(model_source_check(s, "model.norm.weight", 64, 0, &err), 0);
    assert_int_equal(model_source_check(s, "model.norm.weight", 64, 1, &err), LH_EINPUT);
    assert_false(model_source_has(s, "lm_head.weight"));
    assert_int_equal(
        model_source_read(s, "model.layers.0.self_attn.q_proj.weight", 0, 64, KN_F32, rows, &err),
        0);
    for (int head = 0; head < 4; head++) {
        for (int i = 0; i < 8; i++) {
            /* Row i and row i + 8 of a head turn together; in the file they are neighbours. */
            assert_true(rows[(16 * head + i) * 64] == (float)((16 * head + 2 * i) * 64));
            assert_true(rows[(16 * head + i + 8) * 64] == (float)((16 * head + 2 * i + 1) * 64));
        }
    }
    assert_int_equal(
        model_source_read(s, "model.layers.0.self_attn.q_proj.weight", 23, 2, KN_F32, one, &err),
        0);
    assert_memory_equal(one, rows + 23 * 64, sizeof(one));
    assert_int_equal(
        model_source_read(s, "model.layers.0.self_attn.v_proj.weight", 5, 1, KN_F32, one, &err), 0);
    assert_true(one[0] == 5 * 64);
    assert_int_equal(model_source_read(s, "model.norm.weight", 3, 2, KN_F32, one, &err), 0);
    assert_true(one[1] == 4);
    assert_int_equal(model_source_read(s, "model.norm.weight", 63, 2, KN_F32, one, &err),
                     LH_EINTERNAL);
    assert_int_equal(model_source_read(s, "absent", 0, 1, KN_F32, one, &err), LH_EINPUT);
    assert_int_equal(model_source_digest(s, hex, &err), 0);
    assert_int_equal(model_source_digest(s, again, &err), 0);
    assert_string_equal(hex, again);
    model_source_close(s);
    free(b.at);
    scratch_free(dir);
}

/* Opens the Llama after the keys that `change` adds or replaces; returns the error text, "" when it
 * opens. */
static const char *open_with(void (*change)(struct gguf_build *g), struct model_config *ret)
{
    static struct lh_err err;
    char *dir = scratch_new();
    const char *path = in_dir(dir, "x.gguf");
    struct gguf_build g = {0};
    struct model_source *s;
    struct bytes b;

    change(&g);
    b = gb_finish(&g);
    put_bytes(path, b.at, b.n);
    memset(&err, 0, sizeof(err));
    if (model_source_open(path, &s, &err) == 0) {
        *ret = *model_source_config(s);
        ret->raw = NULL;
        model_source_close(s);
    } else {
        assert_int_equal(err.code, LH_EINPUT);
    }
    free(b.at);
    scratch_free(dir);
    return err.text;
}

static void with_yarn(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_llama_tensors(g);
    gb_str(g, "llama.rope.scaling.type", "yarn");
    gb_f32(g, "llama.rope.scaling.factor", 4);
    gb_u32(g, "llama.rope.scaling.original_context_length", 32);
    gb_f32(g, "llama.rope.scaling.yarn_beta_fast", 16);
}

static void with_linear(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_llama_tensors(g);
    gb_f32(g, "llama.rope.scale_linear", 2.5f);
}

/* The divisors of Llama 3.1's formula (factor 8, 1, 4, 8192) for theta 500000 and a head of 16. */
static void with_rope_freqs(struct gguf_build *g)
{
    float divisor[8];

    gb_str(g, "general.architecture", "llama");
    gb_u32(g, "llama.block_count", 1);
    gb_u32(g, "llama.embedding_length", 64);
    gb_u32(g, "llama.feed_forward_length", 96);
    gb_u32(g, "llama.attention.head_count", 4);
    gb_u32(g, "llama.attention.head_count_kv", 2);
    gb_u32(g, "llama.context_length", 131072);
    gb_f32(g, "llama.rope.freq_base", 500000);
    for (int i = 0; i < 8; i++) {
        double inv = pow(500000, -2.0 * i / 16), wave = 2 * M_PI / inv, s = (8192 / wave - 1) / 3;
        double scaled = wave < 2048 ? inv : wave > 8192 ? inv / 8 : (1 - s) * inv / 8 + s * inv;

        divisor[i] = (float)(inv / scaled);
    }
    gb_llama_tensors(g);
    gb_tensor(g, "rope_freqs.weight", 0, 8, 0, divisor, sizeof(divisor));
}

static void with_odd_rope_freqs(struct gguf_build *g)
{
    static const float divisor[8] = {1, 1, 1.5f, 2, 2, 2, 3, 3};

    gb_llama_keys(g);
    gb_llama_tensors(g);
    gb_tensor(g, "rope_freqs.weight", 0, 8, 0, divisor, sizeof(divisor));
}

static void rope_scaling_keys_become_hugging_faces_scheme(void **state)
{
    struct model_config c;

    (void)state;
    assert_string_equal(open_with(with_yarn, &c), "");
    assert_int_equal(c.rope.type, LH_ROPE_YARN);
    assert_true(c.rope.factor == 4);
    assert_true(c.rope.original_length == 32);
    assert_true(c.rope.beta_fast == 16);
    assert_true(c.rope.beta_slow == 1);
    assert_true(c.rope.attention_factor == 0);
    assert_string_equal(open_with(with_linear, &c), "");
    assert_int_equal(c.rope.type, LH_ROPE_LINEAR);
    assert_true(c.rope.factor == 2.5);
    assert_string_equal(open_with(with_rope_freqs, &c), "");
    assert_int_equal(c.rope.type, LH_ROPE_LLAMA3);
    assert_true(c.rope.factor == 8);
    assert_true(c.rope.original_length == 8192);
    assert_true(c.rope.high_freq_factor == 4);
    assert_string_equal(open_with(with_odd_rope_freqs, &c), "");
    assert_int_equal(c.rope.type, LH_ROPE_LONGROPE);
    assert_true(c.rope.long_factor[2] == 1.5);
    assert_true(c.rope.attention_factor == 1);
}

static void another_architecture(struct gguf_build *g)
{
    gb_str(g, "general.architecture", "qwen2");
    gb_llama_tensors(g);
}

static void no_layer_count(struct gguf_build *g)
{
    gb_str(g, "general.architecture", "llama");
    gb_llama_tensors(g);
}

static void a_bias(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_llama_tensors(g);
    gb_counting(g, "blk.0.attn_q.bias", 64, 0);
}

static void experts(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_u32(g, "llama.expert_count", 8);
    gb_llama_tensors(g);
}

static void half_the_rotation(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_u32(g, "llama.rope.dimension_count", 8);
    gb_llama_tensors(g);
}

static void a_tensor_missing(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_counting(g, "token_embd.weight", 40, 64);
}

static void a_key_twice(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_u32(g, "llama.block_count", 1);
    gb_llama_tensors(g);
}

static void a_tensor_twice(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_llama_tensors(g);
    gb_counting(g, "output_norm.weight", 64, 0);
}

static void a_k_quant(struct gguf_build *g)
{
    static const uint8_t block[144];

    gb_llama_keys(g);
    gb_llama_tensors(g);
    gb_tensor(g, "output.weight", 12, 1, 256, block, sizeof(block));
}

static void a_row_that_is_no_block(struct gguf_build *g)
{
    static const uint8_t block[34];

    gb_llama_keys(g);
    gb_llama_tensors(g);
    gb_tensor(g, "output.weight", 8, 1, 33, block, sizeof(block));
}

static void a_shape_that_overflows(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_llama_tensors(g);
    gb_tensor(g, "output.weight", 0, 1ull << 40, 1ull << 40, "", 1);
}

static void a_version_of_the_future(struct gguf_build *g)
{
    gb_llama_keys(g);
    g->version = 4;
}

static void the_other_byte_order(struct gguf_build *g)
{
    gb_llama_keys(g);
    g->version = 3u << 24;
}

static void an_odd_alignment(struct gguf_build *g)
{
    gb_llama_keys(g);
    gb_u32(g, "general.alignment", 33);
    gb_llama_tensors(g);
}

static void gguf_files_that_are_no_llama_are_refused_by_name(void **state)
{
    static const struct {
        void (*change)(struct gguf_build *g);
        const char *says;
    } cases[] = {
        {another_architecture, "'qwen2'"},
        {no_layer_count, "llama.block_count"},
        {a_bias, "biases"},
        {experts, "llama.expert_count"},
        {half_the_rotation, "8 of 16"},
        {a_tensor_missing, "model.norm.weight"},
        {a_key_twice, "'llama.block_count' stands twice"},
        {a_tensor_twice, "'output_norm.weight' stands twice"},
        {a_k_quant, "Q4_K"},
        {a_row_that_is_no_block, "no multiple of the 32"},
        {a_shape_that_overflows, "overflows"},
        {a_version_of_the_future, "version 4"},
        {the_other_byte_order, "big-endian"},
        {an_odd_alignment, "general.alignment"},
    };
    struct model_config c;

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        const char *text = open_with(cases[i].change, &c);

        if (!strstr(text, cases[i].says))
            fail_msg("case %u should say '%s': %s", i, cases[i].says, text);
        assert_non_null(strstr(text, "x.gguf"));
    }
}

static void use(const char *path, void *arg)
{
    struct model_source *s;
    struct lh_err err = {0};
    int rc = model_source_open(path, &s, &err);
    float *out = arg;

    if (rc < 0) {
        assert_refused(rc, &err, path);
        return;
    }
    assert_int_equal(
        model_source_read(s, "model.layers.0.self_attn.q_proj.weight", 0, 64, KN_F32, out, &err),
        0);
    assert_int_equal(model_source_read(s, "model.embed_tokens.weight", 0, 40, KN_BF16, out, &err),
                     0);
    model_source_close(s);
}

static void damaged_gguf_files_never_crash_the_reader(void **state)
{
    char *dir = scratch_new();
    struct gguf_build g = {0};
    static uint8_t q8[40 * 2 * 34];
    float *out = malloc(64 * 64 * sizeof(*out));
    struct bytes b;

    (void)state;
    gb_llama_keys(&g);
    gb_llama_tensors(&g);
    gb_tensor(&g, "output.weight", 8, 40, 64, q8, sizeof(q8));
    b = gb_finish(&g);
    hostile_each(in_dir(dir, "x.gguf"), b.at, b.n, 1400, 3000, use,
                 out); /* 1400: keys and directory */
    free(out);
    free(b.at);
    scratch_free(dir);
}

/* Digests of the fp32 bytes as numpy holds them after gguf.quants.dequantize (gguf 0.19.0), with
 * the rows of q and k brought to halves. */
static void the_real_model_expands_as_the_reference_does(void **state)
{
    static const struct {
        const char *name;
        int64_t rows, cols;
        const char *digest;
    } tensors[] = {
        {"model.layers.3.self_attn.q_proj.weight", 576, 576,
         "104838da8b4afb8d4d2032db69cd49cd12b9558520cbca07b47095a03dec7691"},
        {"model.layers.29.self_attn.k_proj.weight", 192, 576,
         "8e99b2450d5f3d53731f52790cc82f80b04341e533306bcfee6669ffa3c79921"},
        {"model.layers.7.mlp.down_proj.weight", 576, 1536,
         "9d3af8b67d13c727ae5ffe470464163b9cac42eb494525392bd3e79c8db73880"},
        {"model.embed_tokens.weight", 49152, 576,
         "3fd491c8066dd9dc1a2bf6796701526c82817d95c0ecabacdef3013c2b8bbbaa"},
    };
    const char *path = real_model();
    struct model_source *s;
    struct lh_err err = {0};

    (void)state;
    if (!path)
        skip();
    if (model_source_open(path, &s, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(model_source_config(s)->vocab, 49152);
    assert_true(model_source_config(s)->norm_eps == 1e-5);
    for (unsigned i = 0; i < LH_ARRAY_LEN(tensors); i++) {
        size_t bytes = (size_t)(tensors[i].rows * tensors[i].cols) * 4;
        float *out = malloc(bytes);
        char hex[LH_SHA256_HEX];

        assert_non_null(out);
        assert_int_equal(
            model_source_read(s, tensors[i].name, 0, tensors[i].rows, KN_F32, out, &err), 0);
        lh_sha256_hex(out, bytes, hex);
        assert_string_equal(hex, tensors[i].digest);
        free(out);
    }
    model_source_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_half_precision_number_expands_exactly),
        TEST(quantised_blocks_expand_by_their_definition),
        TEST(expansion_to_bf16_rounds_once_to_the_nearest_even),
        TEST(keys_of_every_type_are_read),
        TEST(a_llama_has_hugging_faces_names_and_row_order),
        TEST(rope_scaling_keys_become_hugging_faces_scheme),
        TEST(gguf_files_that_are_no_llama_are_refused_by_name),
        TEST(damaged_gguf_files_never_crash_the_reader),
        TEST(the_real_model_expands_as_the_reference_does),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
