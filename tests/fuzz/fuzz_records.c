/* fuzz_records.c - any bytes as a .json file of records: found the same whether they come at once
 * or in pieces, and whatever a record holds, it becomes tokens or a message.
 */
#include "tests/fuzz/fuzz.h"
#include "worker/data/dialog.h"
#include "worker/data/record_scan.h"
#include <string.h>

#define TOKENIZER LH_SOURCE_DIR "/tests/fixtures/sentencepiece/tokenizer.gguf"

static size_t scan(const char *text, size_t n, size_t piece, uint64_t *ret_records, bool *ret_whole)
{
    struct record_scan s = {0};
    size_t at = 0;

    *ret_records = 0;
    while (at < n) {
        size_t want = piece < n - at ? piece : n - at, end, m;
        uint64_t some;

        m = record_scan(&s, text + at, want, &end, &some);
        FUZZ_ASSERT(end <= m && (end > 0) == (some > 0));
        *ret_records += some;
        at += m;
        if (m < want)
            break;
    }
    *ret_whole = record_scan_whole(&s);
    return at;
}

static void encode(const struct tokenizer *t, const struct dialog *d, const json_t *record)
{
    static struct dialog_scratch *scratch;
    static struct tokenizer_scratch *words;
    struct token_list ids = {0};
    int rc;

    if (!scratch) {
        scratch = dialog_scratch_new();
        words = tokenizer_scratch_new();
    }
    rc = dialog_encode(d, scratch, words, record, &ids, NULL);
    FUZZ_ASSERT(rc == 1 || ids.n == 0);
    FUZZ_ASSERT(rc != 1 || ids.at[ids.n - 1] == (DIALOG_TRAINED | (int32_t)tokenizer_eos(t)));
    for (size_t i = 0; i < ids.n; i++)
        FUZZ_ASSERT((ids.at[i] & ~DIALOG_TRAINED) < tokenizer_vocab(t));
    /* Control tokens are those of the template alone: one <s> before each exchange. */
    FUZZ_ASSERT(rc != 1 || ids.at[0] == tokenizer_bos(t) || json_object_get(record, "messages"));
    token_list_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    static struct dialog *d;
    const char *text = (const char *)data;
    uint64_t records, again, seen = 0;
    bool whole, whole_again;
    size_t n;

    if (!t) {
        FUZZ_ASSERT(tokenizer_open(TOKENIZER, &t, NULL) == 0);
        FUZZ_ASSERT(dialog_open("llama2", t, &d, NULL) == 0);
    }
    n = scan(text, size, size, &records, &whole);
    FUZZ_ASSERT(n == scan(text, size, 1 + size / 7, &again, &whole_again));
    FUZZ_ASSERT(records == again && whole == whole_again);
    for (size_t at = 0; n == size && whole && at < size;) {
        const char *brace = memchr(text + at, '{', size - at);
        json_error_t je;
        json_t *record;

        if (!brace)
            break;
        at = (size_t)(brace - text);
        record = json_loadb(brace, size - at, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &je);
        if (!record)
            return 0;
        encode(t, d, record);
        json_decref(record);
        at += (size_t)je.position;
        seen++;
    }
    FUZZ_ASSERT(n < size || !whole || seen == records);
    return 0;
}
