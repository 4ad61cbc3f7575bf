/* test_sentencepiece.c - Llama's tokenizers: the library on tokenizer.model and our merges on GGUF
 * give the same ids, those that the library gave when the fixtures were made. */
#include "tests/unit/gguf_build.h"
#include "tests/unit/hostile.h"
#include "worker/data/dialog.h"
#include "worker/text/spm.h"
#include "worker/text/tokenizer.h"
#include <errno.h>
#include <math.h>

#define FIXTURES LH_SOURCE_DIR "/tests/fixtures/sentencepiece"

static bool has_library(void)
{
    struct spm_model *m;
    struct spm_info info;
    char why[SPM_WHY_MAX];
    int rc = spm_open("", 0, &m, &info, why);

    if (rc == 0)
        spm_free(m);
    return rc != -ENOSYS;
}

static struct tokenizer *open_path(const char *path)
{
    struct tokenizer *t;
    struct lh_err err = {0};

    if (tokenizer_open(path, &t, &err) < 0)
        fail_msg("%s", err.text);
    return t;
}

static struct tokenizer *open_gguf(void)
{
    return open_path(FIXTURES "/tokenizer.gguf");
}

/* A directory with tokenizer.model and what else a test puts there. */
static char *model_dir(void)
{
    char *dir = scratch_new(), *bytes;
    size_t n;

    assert_int_equal(lh_read_file(FIXTURES "/tokenizer.model", 1 << 20, &bytes, &n, NULL), 0);
    put_bytes(in_dir(dir, "tokenizer.model"), bytes, n);
    free(bytes);
    return dir;
}

static struct token_list encode(const struct tokenizer *t, const char *text, size_t n,
                                struct tokenizer_part part)
{
    struct tokenizer_scratch *s = tokenizer_scratch_new();
    struct token_list ids = {0};
    struct lh_err err = {0};

    if (tokenizer_encode_part(t, s, text, n, &part, &ids, &err) < 0)
        fail_msg("%s", err.text);
    tokenizer_scratch_free(s);
    return ids;
}

static void same_ids(struct token_list a, struct token_list b, const char *text)
{
    if (a.n != b.n || (a.n && memcmp(a.at, b.at, a.n * sizeof(*a.at)) != 0))
        fail_msg("%zu ids and %zu ids of '%s' differ", a.n, b.n, text);
    token_list_release(&a);
    token_list_release(&b);
}

static void gives_expected_ids(const struct tokenizer *t)
{
    char *lines = get_file(FIXTURES, "expected.jsonl"), *save = NULL;
    unsigned n = 0;

    for (char *line = strtok_r(lines, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        json_t *value = json_loads(line, 0, NULL), *list = json_object_get(value, "ids");
        const json_t *text = json_object_get(value, "text");
        const char *s = json_string_value(text);
        struct token_list want = {0}, is;
        struct lh_err err = {0};
        char *back;
        size_t len;

        for (size_t i = 0; i < json_array_size(list); i++)
            assert_int_equal(
                token_list_append(&want, (int32_t)json_integer_value(json_array_get(list, i))), 0);
        is = encode(t, s, strlen(s), (struct tokenizer_part){0});
        assert_int_equal(tokenizer_decode(t, is.at, is.n, &back, &len, &err), 0);
        if (!strstr(s, "\xe2\x96\x81")) /* which comes back as a space */
            assert_string_equal(back, s);
        free(back);
        same_ids(is, want, s);
        json_decref(value);
        n++;
    }
    assert_true(n > 100);
    free(lines);
}

static void pieces_of_a_gguf_file_merge_by_score(void **state)
{
    struct tokenizer *t = open_gguf();

    (void)state;
    gives_expected_ids(t);
    assert_int_equal(tokenizer_vocab(t), 900);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_int_equal(tokenizer_separator(t), 2);
    assert_true(tokenizer_adds_bos(t));
    assert_true(tokenizer_cuts_at_spaces(t));
    tokenizer_free(t);
}

static void the_library_reads_tokenizer_model(void **state)
{
    char *dir = model_dir();
    struct tokenizer *t;
    struct lh_err err = {0};

    (void)state;
    if (!has_library()) {
        assert_int_equal(tokenizer_open(dir, &t, &err), LH_ENOTSUP);
        assert_non_null(strstr(err.text, "libsentencepiece-dev"));
        scratch_free(dir);
        return;
    }
    t = open_path(dir);
    gives_expected_ids(t);
    assert_int_equal(tokenizer_vocab(t), 900);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_true(tokenizer_adds_bos(t));
    assert_true(tokenizer_cuts_at_spaces(t));
    tokenizer_free(t);
    scratch_free(dir);
}

/* Random texts of pieces, spaces, broken-off words and what is in no vocabulary. */
static size_t random_text(const struct tokenizer *t, uint64_t *seed, char *out, size_t cap)
{
    static const char *const odd[] = {" ",   "  ", "\xe2\x96\x81", "\n",     "\xf0\x9f\xa6\x99",
                                      "<s>", "1",  "\xd0\x96",     "<0x0A>", "\t"};
    size_t n = 0;

    for (uint64_t k = hostile_random(seed) % 60; k > 0 && n + 64 < cap; k--) {
        int32_t id = (int32_t)(hostile_random(seed) % 900);
        const char *word = odd[hostile_random(seed) % LH_ARRAY_LEN(odd)];
        char *text = NULL;
        size_t len = strlen(word);

        if (hostile_random(seed) % 3 && id >= 259) {
            assert_int_equal(tokenizer_decode(t, (const int32_t[]){259, id}, 2, &text, &len, NULL),
                             0);
            word = text;
        }
        memcpy(out + n, word, len);
        n += len;
        free(text);
    }
    out[n] = '\0';
    return n;
}

static int put_ids(void *arg, const int *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(token_list_append(arg, ids[i]), 0);
    return 0;
}

static struct spm_model *open_library(const char *dir, struct spm_info *info)
{
    struct spm_model *m;
    char *bytes, why[SPM_WHY_MAX];
    size_t n;

    assert_int_equal(lh_read_file(in_dir(dir, "tokenizer.model"), 1 << 20, &bytes, &n, NULL), 0);
    assert_int_equal(spm_open(bytes, n, &m, info, why), 0);
    free(bytes);
    return m;
}

static void both_ways_give_the_same_ids_for_any_text(void **state)
{
    struct tokenizer *ours = open_gguf(), *model;
    uint64_t seed = hostile_seed();
    char *dir = model_dir();
    struct spm_model *library;
    struct spm_info info;

    (void)state;
    if (!has_library()) {
        tokenizer_free(ours);
        scratch_free(dir);
        print_message("skipped: built without SentencePiece\n");
        skip();
    }
    library = open_library(dir, &info);
    model = open_path(dir);
    assert_true(info.merges && info.as_it_is && info.space_prefix);
    for (int round = 0; round < 500; round++) {
        char text[4096];
        size_t n = random_text(ours, &seed, text, sizeof(text));
        struct tokenizer_part part = {.continues = round % 3 == 0};
        struct token_list ids = {0};

        assert_int_equal(spm_encode(library, text, n, !part.continues, put_ids, &ids), 0);
        same_ids(ids, encode(ours, text, n, part), text);
        part.special = true;
        same_ids(encode(ours, text, n, part), encode(model, text, n, part), text);
    }
    spm_free(library);
    tokenizer_free(model);
    tokenizer_free(ours);
    scratch_free(dir);
}

/* The same model, changed by what is put behind it: a later field of a message counts. */
static void models_that_need_the_library_are_encoded_by_it(void **state)
{
    static const struct {
        const char *more;
        size_t n;
        bool as_it_is;
        const char *text, *same_as;
    } cases[] = {
        {"\x1a\x02\x20\x01", 4, false, "  the   worker ", "the worker"}, /* trims */
        /* a user-defined piece */
        {"\x0a\x0b\x0a\x02zz\x15\0\0\0\0\x18\x04", 13, true, "the  worker", "the  worker"},
    };

    (void)state;
    if (!has_library()) {
        print_message("skipped: built without SentencePiece\n");
        skip();
    }
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        char *dir = model_dir(), *bytes, *both;
        struct tokenizer *t, *plain = open_gguf();
        struct spm_model *library;
        struct spm_info info;
        struct token_list whole, parts, rest;
        size_t n;

        assert_int_equal(lh_read_file(in_dir(dir, "tokenizer.model"), 1 << 20, &bytes, &n, NULL),
                         0);
        both = malloc(n + cases[i].n);
        memcpy(both, bytes, n);
        memcpy(both + n, cases[i].more, cases[i].n);
        put_bytes(in_dir(dir, "tokenizer.model"), both, n + cases[i].n);
        library = open_library(dir, &info);
        assert_false(info.merges);
        assert_int_equal(info.as_it_is, cases[i].as_it_is);
        t = open_path(dir);
        assert_int_equal(tokenizer_cuts_at_spaces(t), cases[i].as_it_is);
        same_ids(
            encode(t, cases[i].text, strlen(cases[i].text), (struct tokenizer_part){0}),
            encode(plain, cases[i].same_as, strlen(cases[i].same_as), (struct tokenizer_part){0}),
            cases[i].text);
        /* Continued behind other text, the space still belongs to the word. */
        whole = encode(t, "the worker", 10, (struct tokenizer_part){0});
        parts = encode(t, "the", 3, (struct tokenizer_part){0});
        rest = encode(t, " worker", 7, (struct tokenizer_part){.continues = true});
        for (size_t k = 0; k < rest.n; k++)
            assert_int_equal(token_list_append(&parts, rest.at[k]), 0);
        token_list_release(&rest);
        same_ids(parts, whole, "the worker");
        spm_free(library);
        tokenizer_free(t);
        tokenizer_free(plain);
        free(bytes);
        free(both);
        scratch_free(dir);
    }
}

static void a_text_may_be_cut_before_spaces_and_continued(void **state)
{
    static const char text[] = "the worker  takes a checkpoint of <s> all that it has";
    struct tokenizer *t = open_gguf();
    struct token_list whole = encode(t, text, strlen(text), (struct tokenizer_part){0});
    struct token_list a, b;

    (void)state;
    for (size_t at = 1; text[at]; at++) {
        if (text[at] != ' ' || text[at - 1] == ' ')
            continue;
        a = encode(t, text, at, (struct tokenizer_part){0});
        b = encode(t, text + at, strlen(text) - at, (struct tokenizer_part){.continues = true});
        for (size_t i = 0; i < b.n; i++)
            assert_int_equal(token_list_append(&a, b.at[i]), 0);
        assert_int_equal(a.n, whole.n);
        assert_memory_equal(a.at, whole.at, whole.n * sizeof(*whole.at));
        token_list_release(&a);
        token_list_release(&b);
    }
    token_list_release(&whole);
    tokenizer_free(t);
}

static void a_space_goes_before_texts_and_behind_special_tokens(void **state)
{
    struct tokenizer *t = open_gguf();
    struct token_list a = encode(t, "a<s>b", 5, (struct tokenizer_part){.special = true});
    struct token_list b = encode(t, "a<s>b", 5, (struct tokenizer_part){.special = false});
    struct token_list c =
        encode(t, "a<s>b", 5, (struct tokenizer_part){.special = true, .continues = true});
    char *text;
    size_t n;

    (void)state;
    assert_int_equal(a.n, 3);
    assert_int_equal(a.at[1], 1);
    assert_true(b.n > 3);
    assert_int_equal(tokenizer_decode(t, a.at, a.n, &text, &n, NULL), 0);
    assert_string_equal(text, "a<s> b");
    free(text);
    assert_int_equal(c.n, 3);
    assert_int_not_equal(c.at[0], a.at[0]); /* "a" for "\u2581a" */
    assert_int_equal(c.at[2], a.at[2]);
    assert_int_equal(tokenizer_decode(t, c.at, 1, &text, &n, NULL), 0);
    assert_string_equal(text, "a");
    free(text);
    token_list_release(&a);
    token_list_release(&b);
    token_list_release(&c);
    tokenizer_free(t);
}

/* What Llama 2 was tuned with: each exchange between <s> and </s>, encoded as one text. */
static void dialogues_in_the_form_of_llama_2_are_encoded_as_one_text(void **state)
{
    struct tokenizer *t = open_gguf();
    struct dialog_scratch *s = dialog_scratch_new();
    struct tokenizer_scratch *words = tokenizer_scratch_new();
    json_t *record = json_of("{'messages':[{'role':'user','content':' who? '},{'role':'assistant',"
                             "'content':'the worker'},{'role':'user','content':'why'},"
                             "{'role':'assistant','content':'a </s> job'}]}");
    struct token_list ids = {0}, want = {0};
    static const char *const parts[] = {"[INST] who? [/INST] the worker ",
                                        "[INST] why [/INST] a </s> job "};
    struct dialog *d;
    struct lh_err err = {0};

    (void)state;
    if (dialog_open("llama2", t, &d, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(dialog_encode(d, s, words, record, &ids, &err), 1);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(token_list_append(&want, 1), 0);
        assert_int_equal(tokenizer_encode(t, parts[i], strlen(parts[i]), false, &want, &err), 0);
        assert_int_equal(token_list_append(&want, 2), 0);
    }
    assert_int_equal(ids.at[0], 1);
    assert_int_equal(ids.at[ids.n - 1], 2 | DIALOG_TRAINED);
    for (size_t i = 0; i < ids.n; i++)
        ids.at[i] &= ~DIALOG_TRAINED;
    same_ids(ids, want, "the dialogue");
    json_decref(record);
    dialog_free(d);
    dialog_scratch_free(s);
    tokenizer_scratch_free(words);
    tokenizer_free(t);
}

static void tokens_beside_the_model_are_read_from_the_files_beside_it(void **state)
{
    static const struct {
        const char *name, *text;
    } files[] = {
        {"tokenizer_config.json",
         "{\"add_bos_token\":false,\"eos_token\":\"<|im_end|>\",\"added_tokens_decoder\":{\"1\":{"
         "\"content\":\"<s>\",\"special\":true},\"900\":{\"content\":\"<|im_end|>\",\"special\":"
         "true}}}"},
        {"added_tokens.json", "{\"<|im_end|>\":900}"},
        {"tokenizer.json",
         "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{}},\"added_tokens\":[{"
         "\"id\":1,"
         "\"content\":\"<s>\",\"special\":true},{\"id\":900,\"content\":\"<|im_end|>\"}]}"},
    };

    (void)state;
    if (!has_library()) {
        print_message("skipped: built without SentencePiece\n");
        skip();
    }
    for (unsigned i = 0; i < LH_ARRAY_LEN(files); i++) {
        char *dir = model_dir();
        struct token_list ids;
        struct tokenizer *t;
        size_t at = 0, len = 0;

        put_file(dir, files[i].name, files[i].text);
        t = open_path(dir);
        assert_int_equal(tokenizer_vocab(t), 901);
        assert_int_equal(tokenizer_find_control(t, "x<|im_end|>", 11, &at, &len), 900);
        assert_int_equal(at, 1);
        ids = encode(t, "<s>a<|im_end|>", 14, (struct tokenizer_part){.special = true});
        assert_int_equal(ids.n, 3);
        assert_int_equal(ids.at[0], 1);
        assert_int_equal(ids.at[2], 900);
        assert_int_equal(tokenizer_eos(t), i == 0 ? 900 : 2);
        assert_int_equal(tokenizer_adds_bos(t), i != 0);
        token_list_release(&ids);
        tokenizer_free(t);
        scratch_free(dir);
    }
}

/* ---- files that lie ---- */

struct pieces {
    const char *text[300];
    float score[300];
    int32_t type[300];
    unsigned n;
};

static void add_piece(struct pieces *p, const char *text, float score, int32_t type)
{
    p->text[p->n] = text;
    p->score[p->n] = score;
    p->type[p->n++] = type;
}

static struct pieces *small(void)
{
    static char bytes[256][8];
    struct pieces *p = calloc(1, sizeof(*p));

    for (unsigned b = 0; b < 256; b++) {
        (void)snprintf(bytes[b], sizeof(bytes[b]), "<0x%02X>", b);
        add_piece(p, bytes[b], 0, SP_BYTE);
    }
    add_piece(p, "a", -10, SP_NORMAL);            /* 256 */
    add_piece(p, "b", -11, SP_NORMAL);            /* 257 */
    add_piece(p, "aa", -1, SP_NORMAL);            /* 258 */
    add_piece(p, "aab", -2, SP_NORMAL);           /* 259 */
    add_piece(p, "baa", -2, SP_NORMAL);           /* 260: the same score */
    add_piece(p, "\xe2\x96\x81", -12, SP_NORMAL); /* 261 */
    add_piece(p,
              "a\xe2\x96\x81"
              "b",
              -3, SP_NORMAL);                     /* 262: merges over words */
    add_piece(p, "a\xe2\x96\x81", -4, SP_NORMAL); /* 263 */
    add_piece(p, "zz", 0, SP_USER);               /* 264 */
    return p;
}

static int open_pieces(const struct pieces *p, bool prefix, struct tokenizer **ret,
                       struct lh_err *err)
{
    char *dir = scratch_new();
    struct gguf_build g = {0};
    struct bytes file;
    int rc;

    gb_str(&g, "tokenizer.ggml.model", "llama");
    gb_strings(&g, "tokenizer.ggml.tokens", p->text, p->n);
    gb_f32s(&g, "tokenizer.ggml.scores", p->score, p->n);
    gb_i32s(&g, "tokenizer.ggml.token_type", p->type, p->n);
    gb_bool(&g, "tokenizer.ggml.add_space_prefix", prefix);
    file = gb_finish(&g);
    put_bytes(in_dir(dir, "t.gguf"), file.at, file.n);
    rc = tokenizer_open(in_dir(dir, "t.gguf"), ret, err);
    if (rc < 0 && !strstr(err->text, "t.gguf"))
        fail_msg("no file is named: %s", err->text);
    free(file.at);
    scratch_free(dir);
    return rc;
}

static void has_ids(const struct tokenizer *t, const char *text, const int32_t *want, size_t n)
{
    struct token_list copy = {0};

    for (size_t i = 0; i < n; i++)
        assert_int_equal(token_list_append(&copy, want[i]), 0);
    same_ids(encode(t, text, strlen(text), (struct tokenizer_part){0}), copy, text);
}

#define IDS(...) (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4

static void merges_follow_scores_and_then_places(void **state)
{
    struct pieces *p = small();
    struct tokenizer *t;
    struct lh_err err = {0};

    (void)state;
    if (open_pieces(p, false, &t, &err) < 0)
        fail_msg("%s", err.text);
    assert_false(tokenizer_cuts_at_spaces(t));
    has_ids(t, "aabaa", IDS(259, 258)); /* the leftmost of two pairs with one score */
    has_ids(t, "baaba", IDS(260, 257, 256));
    has_ids(t, "aaaaa", IDS(258, 258, 256));
    has_ids(t, "c\xc3\xa9", IDS('c', 0xc3, 0xa9));
    has_ids(t, "a bb", IDS(262, 257));
    has_ids(t, "bzzzb", IDS(257, 264, 'z', 257)); /* user-defined: before any merge */
    tokenizer_free(t);
    free(p);
}

static void vocabularies_that_lie_are_refused(void **state)
{
    static const struct {
        unsigned id;
        const char *text, *says;
        float score;
        int32_t type;
    } cases[] = {
        {7, "<0x08>", "no token for the byte 0x07", 0, SP_BYTE},
        {7, "<0x7>", "is a byte, but is written '<0x7>'", 0, SP_BYTE},
        {7, "x", "no token for the byte 0x07", 0, SP_NORMAL},
        {256, "b", "the same text", 0, SP_NORMAL},
        {256, "", "is empty", 0, SP_NORMAL},
        {256, "\xff", "not valid UTF-8", 0, SP_NORMAL},
        {256, "a", "unknown type 9", 0, 9},
        {256, "a", "score of token 256 is not finite", (float)INFINITY, SP_NORMAL},
    };

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        struct pieces *p = small();
        struct tokenizer *t;
        struct lh_err err = {0};

        p->text[cases[i].id] = cases[i].text;
        p->score[cases[i].id] = cases[i].score;
        p->type[cases[i].id] = cases[i].type;
        assert_int_equal(open_pieces(p, true, &t, &err), LH_EINPUT);
        if (!strstr(err.text, cases[i].says))
            fail_msg("case %u should say '%s': %s", i, cases[i].says, err.text);
        free(p);
    }
}

static void a_damaged_model_is_refused(void **state)
{
    char *dir = model_dir(), *bytes;
    struct tokenizer *t;
    struct lh_err err = {0};
    size_t n;

    (void)state;
    if (!has_library()) {
        scratch_free(dir);
        print_message("skipped: built without SentencePiece\n");
        skip();
    }
    assert_int_equal(lh_read_file(in_dir(dir, "tokenizer.model"), 1 << 20, &bytes, &n, NULL), 0);
    for (size_t len = 0; len < n; len += 997) {
        put_bytes(in_dir(dir, "tokenizer.model"), bytes, len);
        if (tokenizer_open(dir, &t, &err) == 0) /* a file cut between two pieces is a model */
            tokenizer_free(t);
        else
            assert_non_null(strstr(err.text, "tokenizer.model"));
    }
    put_bytes(in_dir(dir, "tokenizer.model"), "hello", 5);
    assert_int_equal(tokenizer_open(dir, &t, &err), LH_EINPUT);
    free(bytes);
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pieces_of_a_gguf_file_merge_by_score),
        TEST(the_library_reads_tokenizer_model),
        TEST(both_ways_give_the_same_ids_for_any_text),
        TEST(models_that_need_the_library_are_encoded_by_it),
        TEST(a_text_may_be_cut_before_spaces_and_continued),
        TEST(a_space_goes_before_texts_and_behind_special_tokens),
        TEST(dialogues_in_the_form_of_llama_2_are_encoded_as_one_text),
        TEST(tokens_beside_the_model_are_read_from_the_files_beside_it),
        TEST(merges_follow_scores_and_then_places),
        TEST(vocabularies_that_lie_are_refused),
        TEST(a_damaged_model_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
