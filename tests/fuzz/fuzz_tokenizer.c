/* fuzz_tokenizer.c - any bytes as a tokenizer.json, and then as the text that it encodes. */
#include "proto/base/str.h"
#include "tests/fuzz/fuzz_file.h"
#include "worker/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct token_list ids = {0};
    struct tokenizer *t;
    char *text;
    size_t len;

    (void)fuzz_file("tokenizer.json", data, size);
    if (tokenizer_open(fuzz_folder(), &t, NULL) < 0)
        return 0;
    if (tokenizer_encode(t, (const char *)data, size, size % 2, &ids, NULL) == 0) {
        FUZZ_ASSERT(lh_utf8_valid(data, size));
        FUZZ_ASSERT(tokenizer_decode(t, ids.at, ids.n, &text, &len, NULL) == 0);
        FUZZ_ASSERT(text[len] == '\0');
        free(text);
    }
    token_list_release(&ids);
    tokenizer_free(t);
    return 0;
}
