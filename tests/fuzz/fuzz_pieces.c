/* fuzz_pieces.c - any bytes as text for a SentencePiece vocabulary: our merges and the library
 * agree, and decoding gives the text back.
 */
#include "proto/base/str.h"
#include "tests/fuzz/fuzz.h"
#include "worker/text/spm.h"
#include "worker/text/tokenizer.h"
#include <stdio.h>
#include <string.h>

#define FIXTURES LH_SOURCE_DIR "/tests/fixtures/sentencepiece"

static struct spm_model *open_library(void)
{
    struct spm_model *m = NULL;
    struct spm_info info;
    char bytes[1 << 16], why[SPM_WHY_MAX];
    FILE *f = fopen(FIXTURES "/tokenizer.model", "re");
    size_t n;

    FUZZ_ASSERT(f);
    n = fread(bytes, 1, sizeof(bytes), f);
    (void)fclose(f);
    return spm_open(bytes, n, &m, &info, why) == 0 ? m : NULL;
}

static int put(void *arg, const int *ids, size_t n)
{
    struct token_list *list = arg;

    for (size_t i = 0; i < n; i++)
        FUZZ_ASSERT(token_list_append(list, ids[i]) == 0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    static struct spm_model *library;
    struct token_list ids = {0}, other = {0};
    const char *text = (const char *)data;
    char *back;
    size_t len;
    int rc;

    if (!t) {
        FUZZ_ASSERT(tokenizer_open(FIXTURES "/tokenizer.gguf", &t, NULL) == 0);
        library = open_library();
    }
    rc = tokenizer_encode(t, text, size, false, &ids, NULL);
    FUZZ_ASSERT((rc == 0) == lh_utf8_valid(data, size));
    if (rc < 0)
        return 0;
    FUZZ_ASSERT(tokenizer_decode(t, ids.at, ids.n, &back, &len, NULL) == 0);
    if (!memmem(text, size, "\xe2\x96\x81", 3)) /* which comes back as a space */
        FUZZ_ASSERT(len == size && (size == 0 || memcmp(back, text, size) == 0));
    free(back);
    if (library) {
        FUZZ_ASSERT(spm_encode(library, text, size, true, put, &other) == 0);
        FUZZ_ASSERT(other.n == ids.n);
        FUZZ_ASSERT(ids.n == 0 || memcmp(ids.at, other.at, ids.n * sizeof(*ids.at)) == 0);
    }
    token_list_release(&ids);
    token_list_release(&other);
    return 0;
}
