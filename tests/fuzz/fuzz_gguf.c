/* fuzz_gguf.c - any bytes as a GGUF file: as a model and as a tokenizer. */
#include "tests/fuzz/fuzz_file.h"
#include "worker/formats/source.h"
#include "worker/text/tokenizer.h"

static void use_model(const char *path)
{
    struct model_source *s;
    const struct model_config *c;
    uint16_t *out;

    if (model_source_open(path, &s, NULL) < 0)
        return;
    c = model_source_config(s);
    out = calloc((size_t)(c->heads * c->head_dim * c->hidden), sizeof(*out));
    FUZZ_ASSERT(out);
    FUZZ_ASSERT(model_source_read(s, "model.layers.0.self_attn.q_proj.weight", 0,
                                  c->heads * c->head_dim, KN_BF16, out, NULL) == 0);
    free(out);
    model_source_close(s);
}

static void use_tokenizer(const char *path)
{
    struct token_list ids = {0};
    struct tokenizer *t;

    if (tokenizer_open(path, &t, NULL) < 0)
        return;
    if (tokenizer_encode(t, "ab ab 12\n<|x|> abab", 19, true, &ids, NULL) == 0) {
        for (size_t i = 0; i < ids.n; i++)
            FUZZ_ASSERT(ids.at[i] >= 0 && ids.at[i] < tokenizer_vocab(t));
    }
    token_list_release(&ids);
    tokenizer_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file("x.gguf", data, size);

    use_model(path);
    use_tokenizer(path);
    return 0;
}
