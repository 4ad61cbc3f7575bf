/* talking_model.h - a tiny random model that can read and write: one token a byte. */
#pragma once
#include "tests/unit/tiny_model.h"
#include "tests/unit/tokenizer_build.h"

#define TALKING_VOCAB 300
#define TALKING_TOKENS                                                                             \
    257 /* a byte each, and one that is special; the rows above are no tokens                      \
         */

static const struct tiny_shape talking = {2, 32, 4, 2, 8, 48, TALKING_VOCAB, false};

/* eos: of its config, or -1. Its directory is static until the next tiny model is written. */
static inline LH_UNUSED const char *talking_model(uint64_t seed, int64_t eos)
{
    const char *dir = tiny_model_write(&talking, seed);
    struct token_build t = {.n_tokens = 0};
    json_t *tokenizer, *config = NULL;

    tb_bytes(&t, "");
    tb_add(&t, "<end>", 3);
    tokenizer = tb_json(&t, "{'type':'ByteLevel','add_prefix_space':false}");
    assert_int_equal(lh_json_save(in_dir(dir, "tokenizer.json"), tokenizer, NULL), 0);
    json_decref(tokenizer);
    assert_int_equal(lh_json_load(in_dir(dir, "config.json"), 1 << 20, &config, NULL), 0);
    json_object_set_new(config, "eos_token_id", json_integer(eos));
    assert_int_equal(lh_json_save(in_dir(dir, "config.json"), config, NULL), 0);
    json_decref(config);
    return dir;
}
