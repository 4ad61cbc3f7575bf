/* gguf_build.h - writes small GGUF files for tests, byte by byte and without the code under test.
 */
#pragma once
#include "tests/unit/hostile.h"

#define GB_TENSORS_MAX 64

struct gguf_build {
    struct bytes keys, directory, data;
    uint64_t n_keys, n_tensors;
    uint32_t version, align;
};

static inline void gb_string(struct bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    bytes_put(b, s, strlen(s));
}

static inline void gb_key(struct gguf_build *g, const char *key, uint32_t type)
{
    gb_string(&g->keys, key);
    put_u32(&g->keys, type);
    g->n_keys++;
}

static inline LH_UNUSED void gb_u32(struct gguf_build *g, const char *key, uint32_t v)
{
    gb_key(g, key, 4);
    put_u32(&g->keys, v);
}

static inline LH_UNUSED void gb_f32(struct gguf_build *g, const char *key, float v)
{
    gb_key(g, key, 6);
    bytes_put(&g->keys, &v, 4);
}

static inline LH_UNUSED void gb_str(struct gguf_build *g, const char *key, const char *v)
{
    gb_key(g, key, 8);
    gb_string(&g->keys, v);
}

static inline LH_UNUSED void gb_strings(struct gguf_build *g, const char *key, const char *const *v,
                                        unsigned n)
{
    gb_key(g, key, 9);
    put_u32(&g->keys, 8);
    put_u64(&g->keys, n);
    for (unsigned i = 0; i < n; i++)
        gb_string(&g->keys, v[i]);
}

static inline LH_UNUSED void gb_i32s(struct gguf_build *g, const char *key, const int32_t *v,
                                     unsigned n)
{
    gb_key(g, key, 9);
    put_u32(&g->keys, 5);
    put_u64(&g->keys, n);
    bytes_put(&g->keys, v, 4 * (size_t)n);
}

static inline LH_UNUSED void gb_f32s(struct gguf_build *g, const char *key, const float *v,
                                     unsigned n)
{
    gb_key(g, key, 9);
    put_u32(&g->keys, 6);
    put_u64(&g->keys, n);
    bytes_put(&g->keys, v, 4 * (size_t)n);
}

static inline LH_UNUSED void gb_bool(struct gguf_build *g, const char *key, bool v)
{
    gb_key(g, key, 7);
    bytes_put(&g->keys, &(char){v}, 1);
}

/* cols 0: a vector. data: bytes of the tensor. */
static inline LH_UNUSED void gb_tensor(struct gguf_build *g, const char *name, uint32_t type,
                                       uint64_t rows, uint64_t cols, const void *data, size_t bytes)
{
    static const uint8_t zeros[64];
    uint32_t align = g->align ? g->align : 32;

    bytes_put(&g->data, zeros, (align - g->data.n % align) % align);
    gb_string(&g->directory, name);
    put_u32(&g->directory, cols ? 2 : 1);
    if (cols)
        put_u64(&g->directory, cols);
    put_u64(&g->directory, rows);
    put_u32(&g->directory, type);
    put_u64(&g->directory, g->data.n);
    bytes_put(&g->data, data, bytes);
    g->n_tensors++;
}

/* The file's bytes; free .at. */
static inline LH_UNUSED struct bytes gb_finish(struct gguf_build *g)
{
    static const uint8_t zeros[64];
    uint32_t align = g->align ? g->align : 32;
    struct bytes b = {0};

    bytes_put(&b, "GGUF", 4);
    put_u32(&b, g->version ? g->version : 3);
    put_u64(&b, g->n_tensors);
    put_u64(&b, g->n_keys);
    bytes_put(&b, g->keys.at, g->keys.n);
    bytes_put(&b, g->directory.at, g->directory.n);
    bytes_put(&b, zeros, (align - b.n % align) % align);
    bytes_put(&b, g->data.at, g->data.n);
    free(g->keys.at);
    free(g->directory.at);
    free(g->data.at);
    memset(g, 0, sizeof(*g));
    return b;
}

/* A Llama of one layer: hidden 64, 4 heads, 2 key-value heads of 16, ff 96, vocabulary 40, no
 * tokenizer, tied. The numbers of q, k (rows as GGUF orders them) and the embedding count up, so
 * that a test can tell rows apart. */
static inline LH_UNUSED void gb_llama_keys(struct gguf_build *g)
{
    gb_str(g, "general.architecture", "llama");
    gb_u32(g, "llama.block_count", 1);
    gb_u32(g, "llama.embedding_length", 64);
    gb_u32(g, "llama.feed_forward_length", 96);
    gb_u32(g, "llama.attention.head_count", 4);
    gb_u32(g, "llama.attention.head_count_kv", 2);
    gb_u32(g, "llama.context_length", 128);
    gb_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gb_f32(g, "llama.rope.freq_base", 10000);
}

static inline LH_UNUSED void gb_counting(struct gguf_build *g, const char *name, uint64_t rows,
                                         uint64_t cols)
{
    size_t n = rows * (cols ? cols : 1);
    float *v = malloc(n * sizeof(*v));

    assert_non_null(v);
    for (size_t i = 0; i < n; i++)
        v[i] = (float)i;
    gb_tensor(g, name, 0, rows, cols, v, n * sizeof(*v));
    free(v);
}

static inline LH_UNUSED void gb_llama_tensors(struct gguf_build *g)
{
    gb_counting(g, "token_embd.weight", 40, 64);
    gb_counting(g, "blk.0.attn_norm.weight", 64, 0);
    gb_counting(g, "blk.0.attn_q.weight", 64, 64);
    gb_counting(g, "blk.0.attn_k.weight", 32, 64);
    gb_counting(g, "blk.0.attn_v.weight", 32, 64);
    gb_counting(g, "blk.0.attn_output.weight", 64, 64);
    gb_counting(g, "blk.0.ffn_norm.weight", 64, 0);
    gb_counting(g, "blk.0.ffn_gate.weight", 96, 64);
    gb_counting(g, "blk.0.ffn_up.weight", 96, 64);
    gb_counting(g, "blk.0.ffn_down.weight", 64, 96);
    gb_counting(g, "output_norm.weight", 64, 0);
}
