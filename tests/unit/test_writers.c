/* test_writers.c - what exports are written with: packed numbers, safetensors shards, GGUF,
 * tokenizer files. Each is read again by the readers, which other tests hold to files made without
 * them. */
#include "tests/unit/real_model.h"
#include "tests/unit/tokenizer_build.h"
#include "worker/formats/gguf_llama.h"
#include "worker/formats/hf_writer.h"
#include "worker/text/tokenizer_export.h"
#include <math.h>

/* ---- numbers ---- */

static void every_half_precision_number_packs_to_itself(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float x = quant_f16_to_f32((uint16_t)h);

        if (isnan(x))
            assert_true(isnan(quant_f16_to_f32(quant_f32_to_f16(x))));
        else
            assert_int_equal(quant_f32_to_f16(x), h);
    }
}

/* Between two neighbours the nearer one, and the even one in the middle: over all of them. */
static void half_precision_rounds_to_the_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double lo = (double)quant_f16_to_f32((uint16_t)h);
        double hi = (double)quant_f16_to_f32((uint16_t)(h + 1)), middle = (lo + hi) / 2;

        assert_int_equal(quant_f32_to_f16((float)middle), h % 2 ? h + 1 : h);
        assert_int_equal(quant_f32_to_f16(nextafterf((float)middle, 0)), h);
        assert_int_equal(quant_f32_to_f16(nextafterf((float)middle, INFINITY)), h + 1);
        assert_int_equal(quant_f32_to_f16(-(float)middle), 0x8000u | (h % 2 ? h + 1 : h));
    }
    assert_int_equal(quant_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(quant_f32_to_f16(65520), 0x7c00);
}

static void fill(float *x, int64_t n, uint64_t seed, float scale)
{
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u + seed * 0xbf58476d1ce4e5b9u;

        (void)hostile_random(&r);
        x[i] = scale * ((float)(r >> 40) * 0x1p-23f - 1);
    }
}

static void packed_values_lie_within_the_error_that_is_stated(void **state)
{
    static const enum quant_type types[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0};
    static const float scales[] = {1, 1e-3f, 1e-7f, 3e4f, 1e-30f};
    float x[1024], y[1024];
    uint8_t packed[4096];

    (void)state;
    for (unsigned t = 0; t < LH_ARRAY_LEN(types); t++) {
        unsigned block = quant_info(types[t])->block;
        bool rounds = false;

        for (unsigned s = 0; s < LH_ARRAY_LEN(scales); s++) {
            fill(x, 1024, s, scales[s]);
            assert_int_equal(quant_pack(types[t], x, 1024, packed), -1);
            quant_expand(types[t], packed, 1024, KN_F32, y);
            for (unsigned i = 0; i < 1024; i++) {
                double largest = 0;

                for (unsigned k = i / block * block; k < (i / block + 1) * block; k++)
                    largest = fmax(largest, fabs((double)x[k]));
                if (!(fabs((double)x[i] - (double)y[i]) <= quant_error(types[t], largest)))
                    fail_msg("%s: %g became %g", quant_info(types[t])->name, (double)x[i],
                             (double)y[i]);
                rounds = rounds || x[i] != y[i];
            }
        }
        assert_int_equal(rounds, types[t] != QUANT_F32);
    }
}

static void a_value_beyond_the_type_is_told_by_its_place(void **state)
{
    float x[64] = {1, 2, 70000};
    uint8_t packed[256];

    (void)state;
    assert_int_equal(quant_pack(QUANT_F16, x, 64, packed), 2);
    assert_int_equal(quant_pack(QUANT_BF16, x, 64, packed), -1);
    assert_int_equal(quant_pack(QUANT_Q8_0, x, 64, packed), -1);
    x[40] = 1e8f; /* its block's scale is beyond half precision */
    assert_int_equal(quant_pack(QUANT_Q8_0, x, 64, packed), 32);
    x[2] = INFINITY; /* not our rounding */
    assert_int_equal(quant_pack(QUANT_F16, x, 40, packed), -1);
}

/* ---- a model of counting numbers ---- */

#define HIDDEN 64
#define HEADS 4
#define KV_HEADS 2
#define HEAD 16
#define FF 96
#define VOCAB 300

static const struct weights_entry entries[] = {
    {"model.embed_tokens.weight", VOCAB, HIDDEN},
    {"model.layers.0.input_layernorm.weight", HIDDEN, 0},
    {"model.layers.0.self_attn.q_proj.weight", HEADS *HEAD, HIDDEN},
    {"model.layers.0.self_attn.k_proj.weight", KV_HEADS *HEAD, HIDDEN},
    {"model.layers.0.self_attn.v_proj.weight", KV_HEADS *HEAD, HIDDEN},
    {"model.layers.0.self_attn.o_proj.weight", HIDDEN, HEADS *HEAD},
    {"model.layers.0.post_attention_layernorm.weight", HIDDEN, 0},
    {"model.layers.0.mlp.gate_proj.weight", FF, HIDDEN},
    {"model.layers.0.mlp.up_proj.weight", FF, HIDDEN},
    {"model.layers.0.mlp.down_proj.weight", HIDDEN, FF},
    {"model.norm.weight", HIDDEN, 0},
    {"lm_head.weight", VOCAB, HIDDEN},
};

/* Exact in every type but Q8_0; no two rows are alike. */
static float value(unsigned i, int64_t r, int64_t c)
{
    return (float)((7 * (int64_t)i + 13 * r + 29 * c) % 127 - 63) / 64;
}

static int read_value(void *arg, unsigned i, int64_t r0, int64_t rows, float *out,
                      struct lh_err *reterr)
{
    int64_t cols = weights_cols(&entries[i]);

    (void)arg;
    (void)reterr;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            out[r * cols + c] = value(i, r0 + r, c);
    return 0;
}

static const struct weights weights = {entries, LH_ARRAY_LEN(entries), read_value, NULL};

static json_t *config_json(void)
{
    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:i}",
                     "architectures", "LlamaForCausalLM", "model_type", "llama", "hidden_size",
                     HIDDEN, "intermediate_size", FF, "num_attention_heads", HEADS,
                     "num_key_value_heads", KV_HEADS, "head_dim", HEAD, "num_hidden_layers", 1,
                     "vocab_size", VOCAB, "max_position_embeddings", 128, "rms_norm_eps", 1e-5,
                     "rope_theta", 10000.0, "tie_word_embeddings", 0, "eos_token_id", 2);
}

static void is_the_model(const char *path, double error)
{
    struct model_source *s;
    struct lh_err err = {0};

    if (model_source_open(path, &s, &err) < 0)
        fail_msg("%s", err.text);
    for (unsigned i = 0; i < weights.n; i++) {
        int64_t cols = weights_cols(&entries[i]);
        float *got = malloc((size_t)(entries[i].rows * cols) * sizeof(*got));

        assert_int_equal(
            model_source_check(s, entries[i].name, entries[i].rows, entries[i].cols, &err), 0);
        assert_int_equal(
            model_source_read(s, entries[i].name, 0, entries[i].rows, KN_F32, got, &err), 0);
        for (int64_t k = 0; k < entries[i].rows * cols; k++)
            if (fabs((double)got[k] - (double)value(i, k / cols, k % cols)) > error)
                fail_msg("%s[%d] is %g", entries[i].name, (int)k, (double)got[k]);
        free(got);
    }
    model_source_close(s);
}

/* ---- safetensors ---- */

static unsigned write_hf(const char *dir, enum quant_type type, uint64_t shard_bytes)
{
    struct model_config base = {.raw = config_json(), .rope = {.theta = 10000}};
    json_t *rope = json_of("{'rope_type':'yarn','rope_theta':10000.0,'factor':4,"
                           "'original_max_position_embeddings':128,'beta_fast':32,'beta_slow':1}");
    json_t *config = hf_writer_config(&base, rope, 512, hf_writer_dtype(type));
    unsigned files = 0;

    assert_int_equal(lh_json_save(in_dir(dir, "config.json"), config, NULL), 0);
    assert_int_equal(hf_writer_weights(dir, &weights, type, shard_bytes, &files, NULL), 0);
    json_decref(base.raw);
    json_decref(rope);
    json_decref(config);
    return files;
}

/* CKPT-23. */
static void a_directory_in_one_file_or_many_holds_the_model(void **state)
{
    static const enum quant_type types[] = {QUANT_F32, QUANT_F16, QUANT_BF16};

    (void)state;
    for (unsigned t = 0; t < LH_ARRAY_LEN(types); t++) {
        char *dir = scratch_new();

        assert_int_equal(write_hf(dir, types[t], 1u << 30), 1);
        assert_true(lh_path_exists(in_dir(dir, "model.safetensors")));
        is_the_model(dir, 0);
        scratch_free(dir);
        dir = scratch_new();
        /* A tensor that is larger than a shard has one of its own; the others share. */
        assert_in_range(write_hf(dir, types[t], 30000), 3, 9);
        assert_true(lh_path_exists(in_dir(dir, "model.safetensors.index.json")));
        assert_false(lh_path_exists(in_dir(dir, "model.safetensors")));
        is_the_model(dir, 0);
        scratch_free(dir);
    }
}

/* CKPT-24. */
static void a_written_config_says_positions_and_window_in_both_layouts(void **state)
{
    char *dir = scratch_new();
    struct model_source *s;
    json_t *config = NULL;

    (void)state;
    (void)write_hf(dir, QUANT_BF16, 1u << 30);
    assert_int_equal(lh_json_load(in_dir(dir, "config.json"), 1 << 20, &config, NULL), 0);
    assert_int_equal(lh_json_i64(config, "max_position_embeddings", 0), 512);
    assert_string_equal(lh_json_str(config, "torch_dtype", ""), "bfloat16");
    assert_string_equal(lh_json_str(json_object_get(config, "rope_parameters"), "rope_type", ""),
                        "yarn");
    assert_string_equal(lh_json_str(json_object_get(config, "rope_scaling"), "type", ""), "yarn");
    assert_true(lh_json_num(json_object_get(config, "rope_scaling"), "factor", 0) == 4);
    assert_true(lh_json_num(config, "rope_theta", 0) == 10000);
    json_decref(config);
    assert_int_equal(model_source_open(dir, &s, NULL), 0);
    assert_int_equal(model_source_config(s)->max_positions, 512);
    assert_int_equal(model_source_config(s)->rope.type, LH_ROPE_YARN);
    assert_true(model_source_config(s)->rope.original_length == 128);
    model_source_close(s);
    scratch_free(dir);
}

static int read_large(void *arg, unsigned i, int64_t r0, int64_t rows, float *out,
                      struct lh_err *reterr)
{
    int rc = read_value(arg, i, r0, rows, out, reterr);

    out[0] = 1e6f;
    return rc;
}

static void more_shards_than_readers_take_and_values_beyond_a_type_are_refused(void **state)
{
    const struct weights large = {entries, LH_ARRAY_LEN(entries), read_large, NULL};
    static struct weights_entry many[HF_SHARDS_MAX + 1];
    const struct weights too_many = {many, HF_SHARDS_MAX + 1, read_value, NULL};
    char *dir = scratch_new();
    struct lh_err err = {0};
    unsigned files;

    (void)state;
    for (unsigned i = 0; i <= HF_SHARDS_MAX; i++)
        many[i] = (struct weights_entry){"x", 1024, 0};
    assert_int_equal(hf_writer_weights(dir, &too_many, QUANT_F32, 1024, &files, &err), LH_EJOB);
    assert_string_equal(err.pointer, "/export/shard_bytes");
    assert_int_equal(hf_writer_weights(dir, &large, QUANT_F16, 1u << 30, &files, &err), LH_EJOB);
    assert_string_equal(err.pointer, "/export/dtype");
    assert_non_null(strstr(err.text, "model.embed_tokens.weight"));
    assert_false(lh_path_exists(in_dir(dir, "model.safetensors")));
    scratch_free(dir);
}

/* ---- GGUF ---- */

static void write_gguf(const char *path, enum quant_type type, const struct rope_config *rope,
                       const double *inv_freq, double scaling)
{
    struct model_config config;
    const struct gguf_llama m = {.config = &config,
                                 .rope = rope,
                                 .inv_freq = inv_freq,
                                 .scaling = scaling,
                                 .context = 512,
                                 .type = type,
                                 .name = "counting"};
    struct gguf_writer *w;
    struct lh_err err = {0};

    config = (struct model_config){.n_layers = 1,
                                   .hidden = HIDDEN,
                                   .heads = HEADS,
                                   .kv_heads = KV_HEADS,
                                   .head_dim = HEAD,
                                   .ff = FF,
                                   .vocab = VOCAB,
                                   .norm_eps = 1e-5};
    assert_int_equal(gguf_writer_new(path, &w, &err), 0);
    assert_int_equal(gguf_llama_keys(w, &m, &err), 0);
    assert_int_equal(gguf_llama_tensors(w, &m, &weights, &err), 0);
    assert_int_equal(gguf_writer_finish(w, &err), 0);
}

static const struct rope_config plain = {.type = LH_ROPE_DEFAULT, .theta = 10000, .factor = 1};

static void a_gguf_of_every_type_holds_the_model(void **state)
{
    char *dir = scratch_new();
    const char *path = in_dir(dir, MODEL_GGUF_NAME);

    (void)state;
    write_gguf(path, QUANT_F32, &plain, NULL, 1);
    is_the_model(path, 0);
    is_the_model(dir, 0); /* a directory with nothing else stands for it */
    write_gguf(path, QUANT_F16, &plain, NULL, 1);
    is_the_model(path, 0);
    write_gguf(path, QUANT_BF16, &plain, NULL, 1);
    is_the_model(path, 0);
    write_gguf(path, QUANT_Q8_0, &plain, NULL, 1);
    is_the_model(path, 0.005);
    scratch_free(dir);
}

/* What llama.cpp computes with: dimension i turns with its neighbour. */
static void rows_of_q_and_k_are_neighbour_pairs_in_a_gguf(void **state)
{
    char *dir = scratch_new();
    const char *path = in_dir(dir, "m.gguf");
    const struct gguf_tensor *t;
    struct gguf_file *f;
    float row;

    (void)state;
    write_gguf(path, QUANT_F32, &plain, NULL, 1);
    assert_int_equal(gguf_open(path, &f, NULL), 0);
    t = gguf_tensor_find(f, "blk.0.attn_k.weight");
    assert_non_null(t);
    assert_int_equal(t->dims[0], HIDDEN);
    assert_int_equal(t->dims[1], KV_HEADS * HEAD);
    for (int64_t r = 0; r < KV_HEADS * HEAD; r++) {
        int64_t i = r % HEAD, from = r - i + i / 2 + (i % 2) * HEAD / 2;

        memcpy(&row, t->data + r * HIDDEN * 4, 4);
        assert_true(row == value(3, from, 0));
    }
    t = gguf_tensor_find(f, "blk.0.attn_v.weight");
    memcpy(&row, t->data + HIDDEN * 4, 4);
    assert_true(row == value(4, 1, 0));
    gguf_close(f);
    scratch_free(dir);
}

/* Scalings that GGUF has keys or tensors for come back as they went. */
/* CKPT-24. */
static void positions_come_back_from_a_gguf(void **state)
{
    struct rope_config ropes[] = {
        {.type = LH_ROPE_LINEAR, .theta = 5e5, .factor = 6},
        {.type = LH_ROPE_YARN,
         .theta = 1e4,
         .factor = 4,
         .original_length = 128,
         .beta_fast = 30,
         .beta_slow = 2},
        {.type = LH_ROPE_LLAMA3,
         .theta = 5e5,
         .factor = 8,
         .original_length = 8192,
         .low_freq_factor = 1,
         .high_freq_factor = 4},
        {.type = LH_ROPE_LONGROPE,
         .theta = 1e4,
         .factor = 4,
         .original_length = 128,
         .n_factors = HEAD / 2},
    };
    char *dir = scratch_new();
    const char *path = in_dir(dir, "m.gguf");
    double inv_freq[HEAD / 2];

    (void)state;
    for (unsigned i = 0; i < HEAD / 2; i++)
        ropes[3].short_factor[i] = 1 + i, ropes[3].long_factor[i] = 2 + 3 * i;
    for (unsigned k = 0; k < LH_ARRAY_LEN(ropes); k++) {
        const struct rope_config *was = &ropes[k], *is;
        double scaling = was->type == LH_ROPE_YARN       ? 0.1 * log(4) + 1
                         : was->type == LH_ROPE_LONGROPE ? 1.25
                                                         : 1;
        struct model_source *s;

        for (int i = 0; i < HEAD / 2; i++) {
            double wave = 2 * M_PI * pow(was->theta, 2.0 * i / HEAD);
            double keep = (8192 / wave - 1) / 3;

            inv_freq[i] = 2 * M_PI / wave;
            if (was->type == LH_ROPE_LLAMA3 && wave > 8192)
                inv_freq[i] /= 8;
            else if (was->type == LH_ROPE_LLAMA3 && wave > 2048)
                inv_freq[i] = (1 - keep) * inv_freq[i] / 8 + keep * inv_freq[i];
        }
        write_gguf(path, QUANT_F16, was, inv_freq, scaling);
        assert_int_equal(model_source_open(path, &s, NULL), 0);
        is = &model_source_config(s)->rope;
        assert_int_equal(model_source_config(s)->max_positions, 512);
        assert_int_equal(is->type, was->type);
        assert_true(is->theta == was->theta);
        if (was->type != LH_ROPE_LONGROPE)
            assert_true(fabs(is->factor / was->factor - 1) < 1e-6);
        if (was->type != LH_ROPE_LINEAR)
            assert_true(is->original_length == was->original_length);
        if (was->type == LH_ROPE_YARN)
            assert_true(is->beta_fast == 30 && is->beta_slow == 2 && is->attention_factor == 0);
        if (was->type == LH_ROPE_LONGROPE)
            assert_true(is->long_factor[3] == 11 && is->short_factor[3] == 4 &&
                        is->attention_factor == 1.25);
        model_source_close(s);
    }
    scratch_free(dir);
}

/* ---- tokenizers ---- */

static void build_tokens(struct token_build *t)
{
    tb_add(t, "<|endoftext|>", 3);
    tb_add(t, "<|im_start|>", 3);
    tb_bytes(t, "");
    tb_merge(t, "t", "h");
    tb_merge(t, "th", "e");
    tb_merge(t, "\xc4\xa0", "t");
    tb_merge(t, "1", "2");
    tb_add(t, "<tool>", 4);
    tb_add(t, "  end", 4);
}

static void save_gguf(const struct token_build *t, const char *pre, const char *path)
{
    struct gguf_build g = {0};
    struct bytes b;

    tb_gguf_keys(&g, t, pre);
    gb_u32(&g, "tokenizer.ggml.bos_token_id", 1);
    gb_u32(&g, "tokenizer.ggml.eos_token_id", 0);
    gb_str(&g, "tokenizer.chat_template", "{{ messages }}");
    b = gb_finish(&g);
    put_bytes(path, b.at, b.n);
    free(b.at);
}

static void same_ids(const char *base, const char *made)
{
    struct lh_err err = {0};

    if (tokenizer_compare(base, made, &err) < 0)
        fail_msg("%s", err.text);
}

static void into_gguf(const char *base, const char *path, int64_t vocab)
{
    struct gguf_writer *w;
    struct lh_err err = {0};
    const char *why;
    bool carried;

    assert_int_equal(gguf_writer_new(path, &w, &err), 0);
    if (tokenizer_export_gguf(base, vocab, w, &carried, &why, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(carried);
    assert_int_equal(gguf_writer_begin(w, &err), 0);
    assert_int_equal(gguf_writer_finish(w, &err), 0);
}

/* GGUF to tokenizer.json, that to GGUF, GGUF to GGUF: the ids stay. */
/* CKPT-25. */
static void a_tokenizer_goes_round_through_both_kinds_of_files(void **state)
{
    static const char *const kinds[] = {"gpt-2", "smollm", "llama-bpe"};

    (void)state;
    for (unsigned k = 0; k < LH_ARRAY_LEN(kinds); k++) {
        struct token_build t = {.n_tokens = 0};
        char *dir = scratch_new(), *text;
        char first[1024], again[1024], copy[1024];
        json_t *config = NULL;
        struct gguf_file *f;
        const char *why;
        bool carried;

        (void)snprintf(first, sizeof(first), "%s/first.gguf", dir);
        (void)snprintf(again, sizeof(again), "%s/again.gguf", dir);
        (void)snprintf(copy, sizeof(copy), "%s/copy.gguf", dir);
        build_tokens(&t);
        save_gguf(&t, kinds[k], first);
        assert_int_equal(tokenizer_export_hf(first, dir, 4096, &carried, &why, NULL), 0);
        assert_true(carried);
        same_ids(first, dir);
        assert_int_equal(lh_json_load(in_dir(dir, "tokenizer_config.json"), 1 << 20, &config, NULL),
                         0);
        assert_string_equal(lh_json_str(config, "bos_token", ""), "<|im_start|>");
        assert_int_equal(lh_json_i64(config, "model_max_length", 0), 4096);
        assert_string_equal(lh_json_str(config, "chat_template", ""), "{{ messages }}");
        json_decref(config);
        into_gguf(dir, again, t.n_tokens + 5); /* an embedding with rows to spare */
        same_ids(first, again);
        into_gguf(again, copy, t.n_tokens + 5);
        same_ids(first, copy);
        assert_int_equal(gguf_open(again, &f, NULL), 0);
        assert_int_equal(gguf_find(f, "tokenizer.ggml.tokens")->n, t.n_tokens + 5);
        assert_int_equal(gguf_array_i64(gguf_find(f, "tokenizer.ggml.token_type"), t.n_tokens), 5);
        gguf_close(f);
        text = get_file(dir, "tokenizer.json");
        assert_int_equal(strstr(text, "TemplateProcessing") != NULL, k == 2); /* Llama 3 puts bos */
        free(text);
        scratch_free(dir);
    }
}

static void tokenizers_that_differ_are_told_apart(void **state)
{
    struct token_build t = {.n_tokens = 0};
    char *dir = scratch_new();
    char one[1024], other[1024];
    struct lh_err err = {0};

    (void)state;
    (void)snprintf(one, sizeof(one), "%s/one.gguf", dir);
    (void)snprintf(other, sizeof(other), "%s/other.gguf", dir);
    build_tokens(&t);
    save_gguf(&t, "gpt-2", one);
    save_gguf(&t, "llama-bpe", other);
    assert_int_equal(tokenizer_compare(one, other, &err), LH_EINTERNAL);
    t.n_merges--; /* 1 and 2 stay apart */
    save_gguf(&t, "gpt-2", other);
    assert_int_equal(tokenizer_compare(one, other, &err), LH_EINTERNAL);
    assert_non_null(strstr(err.text, "other ids"));
    scratch_free(dir);
}

/* CKPT-25. */
static void files_of_a_directory_are_copied_and_its_window_is_raised(void **state)
{
    char *from = scratch_new(), *to = scratch_new(), *text;
    const char *why;
    json_t *config = NULL;
    bool carried;

    (void)state;
    put_file(from, "config.json", "{}");
    put_file(from, "merges.txt", "#version\nt h\n");
    assert_int_equal(tokenizer_export_hf(from, to, 4096, &carried, &why, NULL), 0);
    assert_false(carried); /* merges alone are no tokenizer */
    put_file(from, "tokenizer.json", "{ \"odd\" : 1}");
    put_file(from, "tokenizer_config.json", "{\"model_max_length\": 2048, \"x\": 1}");
    assert_int_equal(tokenizer_export_hf(from, to, 4096, &carried, &why, NULL), 0);
    assert_true(carried);
    text = get_file(to, "tokenizer.json");
    assert_string_equal(text, "{ \"odd\" : 1}");
    free(text);
    assert_int_equal(lh_json_load(in_dir(to, "tokenizer_config.json"), 1 << 20, &config, NULL), 0);
    assert_int_equal(lh_json_i64(config, "model_max_length", 0), 4096);
    assert_int_equal(lh_json_i64(config, "x", 0), 1);
    json_decref(config);
    assert_false(lh_path_exists(in_dir(to, "config.json"))); /* the export's own */
    scratch_free(from);
    scratch_free(to);
}

static void a_pre_tokenizer_without_a_name_in_gguf_is_refused(void **state)
{
    struct token_build t = {.n_tokens = 0};
    char *dir = scratch_new();
    struct gguf_writer *w;
    struct lh_err err = {0};
    const char *why;
    json_t *json;
    bool carried;

    (void)state;
    build_tokens(&t);
    json = tb_json(&t, "{'type':'Sequence','pretokenizers':[{'type':'Digits','individual_digits':"
                       "false},{'type':'ByteLevel','add_prefix_space':false}]}");
    assert_int_equal(lh_json_save(in_dir(dir, "tokenizer.json"), json, NULL), 0);
    json_decref(json);
    assert_int_equal(gguf_writer_new(in_dir(dir, "x.gguf"), &w, &err), 0);
    assert_int_equal(tokenizer_export_gguf(dir, 300, w, &carried, &why, &err), LH_ENOTSUP);
    assert_non_null(strstr(err.text, "pre-tokenizer"));
    gguf_writer_abort(w);
    scratch_free(dir);
}

/* SentencePiece: GGUF to tokenizer.model, with a token beside it to GGUF, and on to GGUF. */
static void a_sentencepiece_tokenizer_goes_round(void **state)
{
    const char *first = LH_SOURCE_DIR "/tests/fixtures/sentencepiece/tokenizer.gguf", *why;
    char *dir = scratch_new(), again[1024], copy[1024];
    struct tokenizer *t;
    struct lh_err err = {0};
    json_t *config = NULL;
    bool carried;

    (void)state;
    (void)snprintf(again, sizeof(again), "%s/again.gguf", dir);
    (void)snprintf(copy, sizeof(copy), "%s/copy.gguf", dir);
    assert_int_equal(tokenizer_export_hf(first, dir, 4096, &carried, &why, &err), 0);
    assert_true(carried);
    assert_int_equal(lh_json_load(in_dir(dir, "tokenizer_config.json"), 1 << 20, &config, NULL), 0);
    assert_string_equal(lh_json_str(config, "tokenizer_class", ""), "LlamaTokenizer");
    assert_string_equal(lh_json_str(config, "bos_token", ""), "<s>");
    json_decref(config);
    if (tokenizer_compare(first, dir, &err) == LH_ENOTSUP) {
        print_message("[  note    ] skipped: built without the SentencePiece library\n");
        scratch_free(dir);
        return;
    }
    same_ids(first, dir);
    put_file(dir, "added_tokens.json", "{\"<|im_end|>\": 900}");
    into_gguf(dir, again, 910);
    same_ids(dir, again);
    into_gguf(again, copy, 910);
    same_ids(dir, copy);
    assert_int_equal(tokenizer_compare(first, again, &err), LH_EINTERNAL); /* the token beside */
    assert_int_equal(tokenizer_open(again, &t, &err), 0);
    assert_int_equal(tokenizer_vocab(t), 910);
    assert_true(tokenizer_adds_bos(t));
    tokenizer_free(t);
    scratch_free(dir);
}

static void the_real_tokenizer_goes_round(void **state)
{
    const char *model = real_model(), *why;
    char *dir;
    bool carried;

    (void)state;
    if (!model)
        return;
    dir = scratch_new();
    assert_int_equal(tokenizer_export_hf(model, dir, 8192, &carried, &why, NULL), 0);
    same_ids(model, dir);
    into_gguf(dir, in_dir(dir, "again.gguf"), 49152);
    same_ids(model, in_dir(dir, "again.gguf"));
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_half_precision_number_packs_to_itself),
        TEST(half_precision_rounds_to_the_nearest_even),
        TEST(packed_values_lie_within_the_error_that_is_stated),
        TEST(a_value_beyond_the_type_is_told_by_its_place),
        TEST(a_directory_in_one_file_or_many_holds_the_model),
        TEST(a_written_config_says_positions_and_window_in_both_layouts),
        TEST(more_shards_than_readers_take_and_values_beyond_a_type_are_refused),
        TEST(a_gguf_of_every_type_holds_the_model),
        TEST(rows_of_q_and_k_are_neighbour_pairs_in_a_gguf),
        TEST(positions_come_back_from_a_gguf),
        TEST(a_tokenizer_goes_round_through_both_kinds_of_files),
        TEST(tokenizers_that_differ_are_told_apart),
        TEST(files_of_a_directory_are_copied_and_its_window_is_raised),
        TEST(a_pre_tokenizer_without_a_name_in_gguf_is_refused),
        TEST(a_sentencepiece_tokenizer_goes_round),
        TEST(the_real_tokenizer_goes_round),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
