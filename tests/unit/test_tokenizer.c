/* test_tokenizer.c - byte-level BPE: words, merges, special tokens, files that lie, and the goldens
 * of a real one. */
#include "tests/unit/real_model.h"
#include "tests/unit/tokenizer_build.h"
#include "worker/formats/source.h"
#include "worker/text/tokenizer.h"
#include "worker/text/utf8.h"

#define BYTE_LEVEL                                                                                 \
    "{'type':'ByteLevel','add_prefix_space':false,'trim_offsets':true,'use_regex':true}"

static struct token_build *abc(void)
{
    struct token_build *t = calloc(1, sizeof(*t));

    assert_non_null(t);
    tb_bytes(t, "z\x04");         /* ids: a byte's number, less one above 4, less two above 'z' */
    tb_merge(t, "a", "b");        /* 254 */
    tb_merge(t, "\xc4\xa0", "a"); /* 255: " a" */
    tb_merge(t, "ab", "c");       /* 256 */
    tb_merge(t, "\xc4\xa0", "\xc4\xa0"); /* 257: two spaces */
    tb_merge(t,
             "\xc4\xa0"
             "a",
             "b");                 /* 258: " ab" */
    tb_add(t, "<|endoftext|>", 3); /* 259 */
    tb_add(t, "<|end", 4);         /* 260 */
    return t;
}

static struct tokenizer *open_gguf(const struct token_build *t, const char *pre)
{
    char *dir = scratch_new();
    struct tokenizer *tok;
    struct lh_err err = {0};

    tb_save_gguf(t, pre, in_dir(dir, "t.gguf"));
    if (tokenizer_open(in_dir(dir, "t.gguf"), &tok, &err) < 0)
        fail_msg("%s", err.text);
    scratch_free(dir);
    return tok;
}

/* Opens the tokenizer.json (stolen); the error text, or "" and *ret. */
static const char *open_json(json_t *root, struct tokenizer **ret)
{
    static struct lh_err err;
    char *dir = scratch_new();

    memset(&err, 0, sizeof(err));
    assert_int_equal(lh_json_save(in_dir(dir, "tokenizer.json"), root, NULL), 0);
    json_decref(root);
    if (tokenizer_open(dir, ret, &err) < 0) {
        assert_true(err.code == LH_EINPUT || err.code == LH_ENOTSUP);
        assert_non_null(strstr(err.text, "tokenizer.json"));
    }
    scratch_free(dir);
    return err.text;
}

static void assert_ids(const struct tokenizer *t, const char *text, bool special,
                       const int32_t *want, size_t n)
{
    struct token_list ids = {0};
    struct lh_err err = {0};

    if (tokenizer_encode(t, text, strlen(text), special, &ids, &err) < 0)
        fail_msg("%s", err.text);
    if (ids.n != n || (n && memcmp(ids.at, want, n * sizeof(*want)) != 0)) {
        for (size_t i = 0; i < ids.n; i++)
            print_message(" %d", ids.at[i]);
        fail_msg("are the ids of '%s'", text);
    }
    token_list_release(&ids);
}

#define IDS(...) (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4

static void merges_are_made_by_rank_within_words(void **state)
{
    struct token_build *b = abc();
    struct tokenizer *t = open_gguf(b, "gpt-2");

    (void)state;
    assert_ids(t, "abc", true, IDS(256));
    assert_ids(t, "abcab", true, IDS(256, 254));
    assert_ids(t, "cab ab", true, IDS('c' - 1, 254, 31, 254)); /* "ab" ranks before " a" */
    assert_ids(t, "a a", true, IDS('a' - 1, 255));
    assert_ids(t, "a  a", true, IDS('a' - 1, 31, 255)); /* the last space belongs to the word */
    assert_ids(t, "a    ", true, IDS('a' - 1, 257, 257));
    assert_ids(t, "a1 12", true, IDS('a' - 1, '1' - 1, 31, '1' - 1, '2' - 1));
    assert_int_equal(tokenizer_vocab(t), 261);
    tokenizer_free(t);
    t = open_gguf(b, "smollm");
    /* Digits go first, so the space before one stands at the end of its own piece. */
    assert_ids(t, "a  1 a", true, IDS('a' - 1, 257, '1' - 1, 255));
    tokenizer_free(t);
    free(b);
}

static void a_byte_without_token_is_dropped_before_merging(void **state)
{
    struct token_build *b = abc();
    struct tokenizer *t = open_gguf(b, "gpt-2");

    (void)state;
    assert_ids(t, "azb", true, IDS(254));
    assert_ids(t, "zz", true, NULL, 0);
    tokenizer_free(t);
    free(b);
}

static void words_that_are_tokens_are_not_merged_for_llama_3(void **state)
{
    struct token_build *b = abc();
    unsigned whole = tb_add(b, "bca", 1); /* no merges lead to it */
    struct tokenizer *t = open_gguf(b, "llama-bpe");

    (void)state;
    assert_ids(t, "bca", true, IDS((int32_t)whole));
    assert_ids(t, "bcab", true, IDS('b' - 1, 'c' - 1, 254));
    assert_ids(t, "1234", true, IDS('1' - 1, '2' - 1, '3' - 1, '4' - 1));
    tokenizer_free(t);
    t = open_gguf(b, "gpt-2");
    assert_ids(t, "bca", true, IDS('b' - 1, 'c' - 1, 'a' - 1));
    tokenizer_free(t);
    free(b);
}

static void special_tokens_are_found_only_when_asked_for(void **state)
{
    struct token_build *b = abc();
    struct tokenizer *t = open_gguf(b, "gpt-2");

    (void)state;
    assert_ids(t, "ab<|endoftext|>c", true, IDS(254, 259, 'c' - 1));
    assert_ids(t, "<|endoftext|><|endoftext|>", true, IDS(259, 259));
    assert_ids(t, "<|end", true, IDS(260)); /* user-defined: always */
    assert_ids(t, "<|end", false, IDS(260));
    assert_ids(t, "<|endoftex", true, IDS(260, 'o' - 1, 'f' - 1, 't' - 1, 'e' - 1, 'x' - 1));
    assert_ids(t, "<|endo", false, IDS(260, 'o' - 1));
    assert_int_equal(tokenizer_separator(t), 259);
    assert_int_equal(tokenizer_eos(t), -1);
    tokenizer_free(t);
    free(b);
}

static void decoding_gives_the_bytes_back(void **state)
{
    static const char text[] = "a\xc3\xa9 \xe6\x97\xa5\n\t<|endoftext|> abc\xf0\x9f\x98\x80";
    struct token_build *b = abc();
    struct tokenizer *t = open_gguf(b, "gpt-2");
    struct token_list ids = {0};
    struct lh_err err = {0};
    int32_t bad[] = {1, 261}, negative[] = {-1};
    char *back;
    size_t len;

    (void)state;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), true, &ids, &err), 0);
    assert_int_equal(tokenizer_decode(t, ids.at, ids.n, &back, &len, &err), 0);
    assert_string_equal(back, text);
    assert_int_equal(len, strlen(text));
    free(back);
    assert_int_equal(tokenizer_decode(t, bad, 2, &back, &len, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "261 at place 1"));
    assert_int_equal(tokenizer_decode(t, negative, 1, &back, &len, &err), LH_EINPUT);
    token_list_release(&ids);
    tokenizer_free(t);
    free(b);
}

static void text_that_is_not_utf8_is_refused_with_the_offset(void **state)
{
    static const char *const cases[] = {"0123456789abc\xff", "0123456789abc\xc3",
                                        "0123456789abc\xed\xa0\x80", "0123456789abc\xc0\xaf",
                                        "0123456789abc\xf4\x90\x80\x80"};
    struct token_build *b = abc();
    struct tokenizer *t = open_gguf(b, "gpt-2");
    struct token_list ids = {0};
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(token_list_append(&ids, 7), 0);
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        assert_int_equal(tokenizer_encode(t, cases[i], strlen(cases[i]), true, &ids, &err),
                         LH_EINPUT);
        assert_non_null(strstr(err.text, "at byte 13"));
        assert_int_equal(ids.n, 1);
    }
    token_list_release(&ids);
    tokenizer_free(t);
    free(b);
}

static void broken_text_is_repaired_as_hugging_face_prints_it(void **state)
{
    size_t n;
    char *s = utf8_lossy("x\x80\x80\x80y\xe6\x97z\xf0\x9f\x98", 11, &n);

    (void)state;
    assert_string_equal(s, "x\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdy\xef\xbf\xbdz\xef\xbf\xbd");
    assert_int_equal(n, strlen(s));
    free(s);
}

/* The plainest way: merge the leftmost pair of lowest rank, one at a time. */
static size_t merge_plainly(const struct token_build *b, int32_t *ids, size_t n)
{
    for (;;) {
        size_t best = b->n_merges, at = 0;

        for (size_t i = 0; i + 1 < n; i++) {
            char pair[64];

            tb_join(pair, sizeof(pair), b->tokens[ids[i]], " ", b->tokens[ids[i + 1]]);
            for (size_t m = 0; m < best; m++) {
                if (strcmp(pair, b->merges[m]) == 0) {
                    best = m;
                    at = i;
                }
            }
        }
        if (best == b->n_merges)
            return n;
        ids[at] = (int32_t)(b->n_tokens - b->n_merges + best); /* the tokens of merges come last */
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof(*ids));
        n--;
    }
}

static void long_and_short_words_merge_like_the_plain_loop(void **state)
{
    uint64_t seed = hostile_seed();

    (void)state;
    for (int round = 0; round < 20; round++) {
        struct token_build *b = calloc(1, sizeof(*b));
        struct tokenizer *t;

        tb_add(b, "a", 1);
        tb_add(b, "b", 1);
        tb_add(b, "c", 1);
        while (b->n_merges < 40) { /* random merges, of which many never come in the order that
                                      training would give */
            const char *l = b->tokens[hostile_random(&seed) % b->n_tokens];
            const char *r = b->tokens[hostile_random(&seed) % b->n_tokens];
            bool known = strlen(l) + strlen(r) > 9;
            char both[64];

            tb_join(both, sizeof(both), l, "", r);
            for (unsigned i = 0; i < b->n_tokens; i++)
                known = known || strcmp(b->tokens[i], both) == 0;
            if (!known)
                tb_merge(b, l, r);
        }
        t = open_gguf(b, "gpt-2");
        for (int k = 0; k < 30; k++) {
            size_t n = hostile_random(&seed) % (k % 2 ? 40 : 300) + 1, m;
            char text[301] = {0};
            int32_t ids[300];

            for (size_t i = 0; i < n; i++) {
                ids[i] = (int32_t)(hostile_random(&seed) % 3);
                text[i] = (char)('a' + ids[i]);
            }
            m = merge_plainly(b, ids, n);
            assert_ids(t, text, true, ids, m);
        }
        tokenizer_free(t);
        free(b);
    }
}

static void a_long_text_may_be_cut_between_words(void **state)
{
    static const char *const words[] = {"abc", " ab",  " a", "'s",        " 12", "!",
                                        "  ",  "\n\n", " z", " \xc3\xa9", "\t",  "I'S"};
    static const char *const kinds[] = {"gpt-2", "smollm", "llama-bpe"};
    struct token_build *b = abc();
    uint64_t seed = hostile_seed();

    (void)state;
    for (unsigned k = 0; k < LH_ARRAY_LEN(kinds); k++) {
        struct tokenizer *t = open_gguf(b, kinds[k]);
        unsigned cuts = 0;

        assert_true(tokenizer_cuts_at_spaces(t));
        for (int round = 0; round < 300; round++) {
            struct token_list whole = {0}, parts = {0};
            char text[512] = "";
            size_t from = 0, n;

            for (uint64_t i = hostile_random(&seed) % 40; i > 0; i--)
                strcat(text, words[hostile_random(&seed) % LH_ARRAY_LEN(words)]);
            n = strlen(text);
            assert_int_equal(tokenizer_encode(t, text, n, true, &whole, NULL), 0);
            for (size_t i = 1; i + 1 < n; i++) {
                if (text[i] != ' ' || !strchr("abczIS", text[i - 1]) ||
                    !strchr("abcz", text[i + 1]))
                    continue;
                assert_int_equal(tokenizer_encode(t, text + from, i - from, true, &parts, NULL), 0);
                from = i;
                cuts++;
            }
            assert_int_equal(tokenizer_encode(t, text + from, n - from, true, &parts, NULL), 0);
            assert_int_equal(parts.n, whole.n);
            if (whole.n)
                assert_memory_equal(parts.at, whole.at, whole.n * sizeof(*whole.at));
            token_list_release(&whole);
            token_list_release(&parts);
        }
        assert_true(cuts > 300);
        tokenizer_free(t);
    }
    free(b);
}

static void gguf_and_tokenizer_json_give_the_same_ids(void **state)
{
    struct token_build *b = abc();
    struct tokenizer *g = open_gguf(b, "smollm"), *j;
    struct token_list x = {0}, y = {0};
    static const char text[] = "abc ab  a12 <|endoftext|>\n\nab's<|end abc \xc3\xa9";

    (void)state;
    assert_string_equal(open_json(tb_json(b, "{'type':'Sequence','pretokenizers':[{'type':'Digits',"
                                             "'individual_digits':true}," BYTE_LEVEL "]}"),
                                  &j),
                        "");
    assert_int_equal(tokenizer_encode(g, text, strlen(text), true, &x, NULL), 0);
    assert_int_equal(tokenizer_encode(j, text, strlen(text), true, &y, NULL), 0);
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.at, y.at, x.n * sizeof(*x.at));
    assert_int_equal(tokenizer_vocab(g), tokenizer_vocab(j));
    assert_int_equal(tokenizer_separator(g), tokenizer_separator(j));
    token_list_release(&x);
    token_list_release(&y);
    tokenizer_free(g);
    tokenizer_free(j);
    free(b);
}

static void the_digest_follows_what_decides_ids(void **state)
{
    struct token_build *b = abc();
    struct tokenizer *t = open_gguf(b, "gpt-2");
    char a[65], c[65];

    (void)state;
    tokenizer_digest(t, a);
    tokenizer_free(t);
    t = open_gguf(b, "gpt-2");
    tokenizer_digest(t, c);
    assert_string_equal(a, c);
    tokenizer_free(t);
    t = open_gguf(b, "smollm");
    tokenizer_digest(t, c);
    assert_string_not_equal(a, c);
    tokenizer_free(t);
    b->types[260] = 3;
    t = open_gguf(b, "gpt-2");
    tokenizer_digest(t, c);
    assert_string_not_equal(a, c);
    tokenizer_free(t);
    free(b);
}

static void ends_of_text_come_from_the_files_beside_tokenizer_json(void **state)
{
    struct token_build *b = abc();
    json_t *root = tb_json(b, BYTE_LEVEL);
    char *dir = scratch_new();
    struct tokenizer *t;

    (void)state;
    assert_int_equal(lh_json_save(in_dir(dir, "tokenizer.json"), root, NULL), 0);
    put_file(dir, "config.json", "{\"bos_token_id\":5,\"eos_token_id\":[6,7]}");
    put_file(dir, "tokenizer_config.json",
             "{\"bos_token\":{\"content\":\"<|endoftext|>\"},\"eos_token\":null}");
    assert_int_equal(tokenizer_open(dir, &t, NULL), 0);
    assert_int_equal(tokenizer_bos(t), 259);
    assert_int_equal(tokenizer_eos(t), 6);
    assert_int_equal(tokenizer_separator(t), 259);
    tokenizer_free(t);
    json_decref(root);
    scratch_free(dir);
    free(b);
}

static void kinds_of_tokenizer_json_that_are_unknown_are_refused_by_name(void **state)
{
    static const char *const pres[][2] = {
        {"{'type':'Metaspace'}", "'Metaspace'"},
        {"{'type':'Sequence','pretokenizers':[{'type':'Whitespace'}]}", "'Whitespace'"},
        {"{'type':'Digits','individual_digits':true}", "no pre-tokenizer ByteLevel"},
        {"{'type':'ByteLevel','add_prefix_space':true}", "add_prefix_space"},
        {"{'type':'Split','pattern':{'Regex':'a'},'behavior':'MergedWithNext'}",
         "'MergedWithNext'"},
        {"{'type':'Split','pattern':{},'behavior':'Isolated'}", "neither a Regex"},
        {"{'type':'Split','pattern':{'Regex':'(a'},'behavior':'Isolated'}", "does not compile"},
        {"{'type':'Split','pattern':{'Regex':'\\\\b'},'behavior':'Isolated'}", "not supported"},
        {"{'type':'Split','pattern':{'Regex':'[a&&b]'},'behavior':'Isolated'}", "not supported"},
        {"{'type':'Split','pattern':{'Regex':'^a'},'behavior':'Isolated'}", "not supported"},
        {"{'type':'Sequence','pretokenizers':[" BYTE_LEVEL ",{'type':'Digits'}]}",
         "after ByteLevel"},
    };
    struct token_build *b = abc();
    struct tokenizer *t = NULL;
    json_t *root;

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(pres); i++) {
        const char *text = open_json(tb_json(b, pres[i][0]), &t);

        if (!strstr(text, pres[i][1]))
            fail_msg("case %u should say '%s': %s", i, pres[i][1], text);
    }
    root = tb_json(b, BYTE_LEVEL);
    json_object_set_new(root, "normalizer", json_pack("{s:s}", "type", "NFC"));
    assert_non_null(strstr(open_json(root, &t), "normalizer 'NFC'"));
    root = tb_json(b, BYTE_LEVEL);
    json_object_set_new(json_object_get(root, "model"), "type", json_string("Unigram"));
    assert_non_null(strstr(open_json(root, &t), "'Unigram'"));
    root = tb_json(b, BYTE_LEVEL);
    json_object_set_new(json_object_get(root, "model"), "byte_fallback", json_true());
    assert_non_null(strstr(open_json(root, &t), "byte_fallback"));
    root = tb_json(b, BYTE_LEVEL);
    json_array_append_new(json_object_get(json_object_get(root, "model"), "merges"),
                          json_string("q q"));
    assert_non_null(strstr(open_json(root, &t), "merge 5"));
    root = tb_json(b, BYTE_LEVEL);
    json_object_set_new(json_object_get(json_object_get(root, "model"), "vocab"), "qq",
                        json_integer(5));
    assert_non_null(strstr(open_json(root, &t), "token id 5 is given to two"));
    root = tb_json(b, BYTE_LEVEL);
    json_object_set_new(json_object_get(json_object_get(root, "model"), "vocab"), "qq",
                        json_integer(1ll << 40));
    assert_non_null(strstr(open_json(root, &t), "token id 1099511627776"));
    free(b);
}

static void gguf_tokenizers_that_are_unknown_are_refused_by_name(void **state)
{
    static const struct {
        const char *model, *pre, *says;
        int code;
    } cases[] = {
        {"llama", "default", "tokenizer.ggml.tokens", LH_EINPUT},
        {"bert", "x", "'bert'", LH_EINPUT},
        {"gpt2", "", "does not name its pre-tokenizer", LH_EINPUT},
        {"gpt2", "deepseek-v9", "'deepseek-v9'", LH_EINPUT},
        {"gpt2", "smollm", "tokenizer.ggml.tokens", LH_EINPUT},
    };
    char *dir = scratch_new();
    const char *path = in_dir(dir, "t.gguf");

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        struct gguf_build g = {0};
        struct tokenizer *t;
        struct lh_err err = {0};
        struct bytes b;

        gb_str(&g, "tokenizer.ggml.model", cases[i].model);
        gb_str(&g, "tokenizer.ggml.pre", cases[i].pre);
        b = gb_finish(&g);
        put_bytes(path, b.at, b.n);
        assert_refused(tokenizer_open(path, &t, &err), &err, path);
        assert_int_equal(err.code, cases[i].code);
        if (!strstr(err.text, cases[i].says))
            fail_msg("case %u: %s", i, err.text);
        free(b.at);
    }
    scratch_free(dir);
}

static void use(const char *path, void *arg)
{
    struct token_list ids = {0};
    struct tokenizer *t;
    struct lh_err err = {0};
    int rc = tokenizer_open(arg ? arg : path, &t, &err);
    size_t len;
    char *text;

    if (rc < 0) {
        assert_refused(rc, &err, arg ? arg : path);
        return;
    }
    rc = tokenizer_encode(t, "abc  ab <|endoftext|> 12 \xc3\xa9", 25, true, &ids, &err);
    if (rc == 0) {
        for (size_t i = 0; i < ids.n; i++)
            assert_in_range(ids.at[i], 0, tokenizer_vocab(t) - 1);
        assert_int_equal(tokenizer_decode(t, ids.at, ids.n, &text, &len, &err), 0);
        free(text);
    }
    token_list_release(&ids);
    tokenizer_free(t);
}

static void damaged_tokenizers_never_crash_the_reader(void **state)
{
    struct token_build *b = calloc(1, sizeof(*b));
    char *dir = scratch_new(), *text, path[1024];
    struct gguf_build g = {0};
    struct bytes file;
    json_t *root;

    (void)state;
    tb_add(b, "a", 1);
    tb_add(b, "b", 1);
    tb_add(b, "\xc4\xa0", 1);
    tb_merge(b, "a", "b");
    tb_add(b, "<|endoftext|>", 3);
    tb_gguf_keys(&g, b, "smollm");
    file = gb_finish(&g);
    hostile_each(in_dir(dir, "t.gguf"), file.at, file.n, file.n, 3000, use, NULL);
    root = tb_json(
        b,
        "{'type':'Sequence','pretokenizers':[{'type':'Digits','individual_digits':true},{'type':'"
        "Split',"
        "'pattern':{'Regex':'[^\\\\s]+|x'},'behavior':'Isolated','invert':false}," BYTE_LEVEL "]}");
    text = lh_json_text(root, 0);
    (void)snprintf(path, sizeof(path), "%s", in_dir(dir, "tokenizer.json"));
    hostile_each(path, text, strlen(text), strlen(text), 3000, use, dir);
    json_decref(root);
    free(text);
    free(file.at);
    free(b);
    scratch_free(dir);
}

static void assert_line(const struct tokenizer *t, json_t *line, const char *key, bool special)
{
    const json_t *text = json_object_get(line, "text"), *want = json_object_get(line, key);
    struct token_list ids = {0};
    struct lh_err err = {0};
    char *bytes, *printed;
    size_t len;

    if (!want)
        want = json_object_get(line, "ids");
    if (tokenizer_encode(t, json_string_value(text), json_string_length(text), special, &ids,
                         &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(ids.n, json_array_size(want));
    for (size_t i = 0; i < ids.n; i++)
        assert_int_equal(ids.at[i], json_integer_value(json_array_get(want, i)));
    if (special) {
        assert_int_equal(tokenizer_decode(t, ids.at, ids.n, &bytes, &len, &err), 0);
        printed = utf8_lossy(bytes, len, &len);
        assert_int_equal(len, json_string_length(json_object_get(line, "decoded")));
        assert_memory_equal(printed, json_string_value(json_object_get(line, "decoded")), len);
        free(printed);
        free(bytes);
    }
    token_list_release(&ids);
}

static void the_real_tokenizer_gives_the_golden_ids(void **state)
{
    const char *lines = golden_file("tokenizer-smollm2/ids.jsonl"), *model = real_model();
    struct tokenizer *t;
    struct lh_err err = {0};
    char *line = NULL;
    size_t cap = 0;
    unsigned n = 0;
    FILE *f;

    (void)state;
    if (!lines || !model)
        skip();
    if (tokenizer_open(model, &t, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(tokenizer_vocab(t), 49152);
    f = fopen(lines, "re");
    assert_non_null(f);
    for (; getline(&line, &cap, f) > 0; n++) {
        json_t *object = json_loads(line, JSON_ALLOW_NUL, NULL);

        assert_non_null(object);
        assert_line(t, object, "ids", true);
        assert_line(t, object, "plain_ids", false);
        json_decref(object);
    }
    assert_int_equal(n, 268);
    free(line);
    (void)fclose(f);
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(merges_are_made_by_rank_within_words),
        TEST(a_byte_without_token_is_dropped_before_merging),
        TEST(words_that_are_tokens_are_not_merged_for_llama_3),
        TEST(special_tokens_are_found_only_when_asked_for),
        TEST(decoding_gives_the_bytes_back),
        TEST(text_that_is_not_utf8_is_refused_with_the_offset),
        TEST(broken_text_is_repaired_as_hugging_face_prints_it),
        TEST(long_and_short_words_merge_like_the_plain_loop),
        TEST(a_long_text_may_be_cut_between_words),
        TEST(gguf_and_tokenizer_json_give_the_same_ids),
        TEST(the_digest_follows_what_decides_ids),
        TEST(ends_of_text_come_from_the_files_beside_tokenizer_json),
        TEST(kinds_of_tokenizer_json_that_are_unknown_are_refused_by_name),
        TEST(gguf_tokenizers_that_are_unknown_are_refused_by_name),
        TEST(damaged_tokenizers_never_crash_the_reader),
        TEST(the_real_tokenizer_gives_the_golden_ids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
