/* fuzz_encode.c - any bytes as text: with a token for every byte, decoding gives the text back, cut
 * anywhere between words or not.
 *
 * The tokenizer: 256 bytes, merges "t h", "th e", "Ġ the", the special token <|x|>, each pattern.
 */
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "tests/fuzz/fuzz_file.h"
#include "worker/text/pretok.h"
#include "worker/text/tokenizer.h"
#include <string.h>

static json_t *byte_vocab(void)
{
    json_t *vocab = json_object();
    unsigned others = 0;

    for (unsigned b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        unsigned code = printable ? b : 256 + others++;
        char letter[3] = {(char)code, 0, 0};

        if (code >= 128) {
            letter[0] = (char)(0xc0 | code >> 6);
            letter[1] = (char)(0x80 | (code & 63));
        }
        json_object_set_new(vocab, letter, json_integer(b));
    }
    json_object_set_new(vocab, "th", json_integer(256));
    json_object_set_new(vocab, "the", json_integer(257));
    json_object_set_new(vocab, "\xc4\xa0the", json_integer(258));
    return vocab;
}

static struct tokenizer *make(const char *pattern)
{
    struct tokenizer *t = NULL;
    json_t *root = json_pack(
        "{s:{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]}, s:[{s:i, s:s, s:b, s:b}], "
        "s:{s:s, s:o, s:[s, s, s]}}",
        "pre_tokenizer", "type", "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex",
        pattern, "behavior", "Isolated", "invert", 0, "type", "ByteLevel", "add_prefix_space", 0,
        "use_regex", 0, "added_tokens", "id", 259, "content", "<|x|>", "special", 1, "normalized",
        0, "model", "type", "BPE", "vocab", byte_vocab(), "merges", "t h", "th e", "\xc4\xa0 the");
    char *text = lh_json_text(root, 0);

    FUZZ_ASSERT(text);
    (void)fuzz_file("tokenizer.json", (const uint8_t *)text, strlen(text));
    FUZZ_ASSERT(tokenizer_open(fuzz_folder(), &t, NULL) == 0);
    FUZZ_ASSERT(tokenizer_cuts_at_spaces(t) && tokenizer_cuts_at_lines(t));
    free(text);
    json_decref(root);
    return t;
}

static bool letter(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* As worker/data/units.c cuts. */
static bool begins_line(const uint8_t *p, size_t i)
{
    if (i < 2 || p[i - 1] != '\n' || !(letter(p[i]) || (p[i] >= 0xe5 && p[i] <= 0xe9)))
        return false;
    return (p[i - 2] > ' ' && p[i - 2] < 0x7f) ||
           (i > 3 &&
            (memcmp(p + i - 4, "\xe3\x80\x82", 3) == 0 || (p[i - 4] >= 0xe5 && p[i - 4] <= 0xe9)));
}

static void check(const struct tokenizer *t, const uint8_t *data, size_t size)
{
    struct token_list ids = {0}, parts = {0};
    char *back;
    size_t len, from = 0;
    int rc = tokenizer_encode(t, (const char *)data, size, true, &ids, NULL);

    FUZZ_ASSERT((rc == 0) == lh_utf8_valid(data, size));
    if (rc < 0)
        return;
    FUZZ_ASSERT(tokenizer_decode(t, ids.at, ids.n, &back, &len, NULL) == 0);
    FUZZ_ASSERT(len == size);
    FUZZ_ASSERT(size == 0 || memcmp(back, data, size) == 0);
    free(back);
    for (size_t i = 1; i + 1 < size; i++) {
        bool space = data[i] == ' ' && letter(data[i - 1]) && letter(data[i + 1]);

        if (!space && !begins_line(data, i))
            continue;
        FUZZ_ASSERT(tokenizer_encode(t, (const char *)data + from, i - from, true, &parts, NULL) ==
                    0);
        from = i;
    }
    FUZZ_ASSERT(tokenizer_encode(t, (const char *)data + from, size - from, true, &parts, NULL) ==
                0);
    FUZZ_ASSERT(parts.n == ids.n);
    FUZZ_ASSERT(ids.n == 0 || memcmp(parts.at, ids.at, ids.n * sizeof(*ids.at)) == 0);
    token_list_release(&ids);
    token_list_release(&parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *gpt2, *llama3; /* kept for the process */

    if (!gpt2) {
        gpt2 = make(PRETOK_GPT2);
        llama3 = make(PRETOK_LLAMA3);
    }
    check(gpt2, data, size);
    check(llama3, data, size);
    return 0;
}
