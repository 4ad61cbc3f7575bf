/* test_prepare.c - texts to shards: kinds of files, threads, keys, bad input, a kill in the middle.
 */
#include "proto/base/json.h"
#include "proto/manifest.h"
#include "tests/unit/tokenizer_build.h"
#include "worker/data/dataset.h"
#include "worker/data/shards.h"
#include "worker/data/tokenize.h"
#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define SEPARATOR 256

struct place {
    char *dir; /* inputs, and the cache below "cache" */
    struct tokenizer *t;
    struct lh_job job;
};

static struct place place_new(void)
{
    struct place p = {.dir = scratch_new()};
    struct token_build *b = calloc(1, sizeof(*b));
    struct lh_err err = {0};

    tb_bytes(b, "");
    assert_int_equal(tb_add(b, "<|endoftext|>", 3), SEPARATOR);
    tb_merge(b, "a", "b");
    tb_merge(b, "\xc4\xa0", "ab");
    tb_save_gguf(b, "gpt-2", in_dir(p.dir, "t.gguf"));
    if (tokenizer_open(in_dir(p.dir, "t.gguf"), &p.t, &err) < 0)
        fail_msg("%s", err.text);
    p.job.data.field = "text";
    free(b);
    return p;
}

static void place_free(struct place *p)
{
    tokenizer_free(p->t);
    scratch_free(p->dir);
}

/* Prepares the files of that pattern below the directory; 0 and the shard directory, or the error.
 */
static int prepare(const struct place *p, const char *pattern, int threads, char ret_dir[1024],
                   struct lh_err *err)
{
    char cache[1024], path[1024];
    const char *uris[1] = {path};
    struct lh_strings list = {uris, 1};

    (void)snprintf(cache, sizeof(cache), "%s/cache", p->dir);
    (void)snprintf(path, sizeof(path), "%s/%s", p->dir, pattern);
    return prepare_shards(&list, p->job.data.format, &p->job, p->t, cache, threads, NULL, NULL,
                          ret_dir, err);
}

/* Names in CACHE/shards, hidden ones included. */
static unsigned count_entries(const struct place *p)
{
    DIR *d = opendir(in_dir(p->dir, "cache/shards"));
    unsigned n = 0;
    struct dirent *e;

    while (d && (e = readdir(d)) != NULL)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d)
        (void)closedir(d);
    return n;
}

static void assert_documents(const char *dir, const char *const *texts, unsigned n)
{
    struct shards s;
    struct lh_err err = {0};

    if (shards_open(dir, &s, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(s.n_documents, n);
    for (unsigned d = 0; d < n; d++) {
        uint64_t from = shards_document(&s, d), tokens = shards_document(&s, d + 1) - from;
        int32_t ids[256];

        assert_int_equal(tokens, strlen(texts[d]) + 1); /* texts without "ab": a byte a token */
        shards_copy(&s, from, tokens, ids);
        for (unsigned i = 0; i + 1 < tokens; i++)
            assert_int_equal(ids[i], (uint8_t)texts[d][i]);
        assert_int_equal(ids[tokens - 1], SEPARATOR);
    }
    shards_close(&s);
}

static void put_gz(const char *path, const char *text, unsigned members)
{
    (void)unlink(path);
    for (unsigned m = 0; m < members; m++) {
        gzFile f = gzopen(path, "ab");

        assert_non_null(f);
        assert_int_equal(gzwrite(f, text, (unsigned)strlen(text)), strlen(text));
        assert_int_equal(gzclose(f), Z_OK);
    }
}

static void put_zst(const char *path, const char *text)
{
    size_t cap = ZSTD_compressBound(strlen(text)), n;
    void *out = malloc(cap);

    n = ZSTD_compress(out, cap, text, strlen(text), 3);
    assert_false(ZSTD_isError(n));
    put_bytes(path, out, n);
    free(out);
}

/* First of all tests: the fault is read once a process, and only the child must have it. */
static void a_kill_before_the_end_leaves_nothing_that_is_taken_for_data(void **state)
{
    struct place p = place_new();
    char dir[1024];
    struct lh_err err = {0};
    int status;
    pid_t pid;

    (void)state;
    put_file(p.dir, "a.txt", "hello");
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)setenv("LONGHAUL_FAULT", "shards.written", 1);
        _exit(prepare(&p, "a.txt", 1, dir, &err) == 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(count_entries(&p), 1); /* under a hidden name */
    assert_int_equal(prepare(&p, "a.txt", 1, dir, &err), 0);
    assert_documents(dir, (const char *const[]){"hello"}, 1);
    place_free(&p);
}

/* JOB-16. */
static void plain_files_are_documents_in_sorted_order(void **state)
{
    struct place p = place_new();
    char dir[1024], uri[1200];
    const char *uris[2] = {uri, in_dir(p.dir, "z.txt")};
    struct lh_strings list = {uris, 2};
    struct lh_err err = {0};

    (void)state;
    put_file(p.dir, "b.txt", "second");
    put_file(p.dir, "a.txt", "first\n");
    put_file(p.dir, "B.txt", "capital");
    put_file(p.dir, "z.txt", "by name");
    put_file(p.dir, "[a].txt", "odd");
    (void)snprintf(uri, sizeof(uri), "file://%s/[!z]*.txt", p.dir);
    if (prepare_shards(&list, p.job.data.format, &p.job, p.t, p.dir, 2, NULL, NULL, dir, &err) < 0)
        fail_msg("%s", err.text);
    assert_documents(dir, (const char *const[]){"capital", "odd", "first\n", "second", "by name"},
                     5);
    assert_int_equal(prepare(&p, "[a].txt", 1, dir, &err),
                     0); /* a name that exists is no pattern */
    assert_documents(dir, (const char *const[]){"odd"}, 1);
    place_free(&p);
}

static void lines_of_jsonl_are_documents(void **state)
{
    struct place p = place_new();
    char dir[1024];
    struct lh_err err = {0};

    (void)state;
    put_file(
        p.dir, "a.jsonl",
        "{\"text\":\"one\"}\n\n  "
        "\r\n{\"id\":1,\"text\":\"t\\u00e9w\\u0000o\"}\r\n{\"text\":\"\"}\n{\"text\":\"last\"}");
    assert_int_equal(prepare(&p, "a.jsonl", 2, dir, &err), 0);
    {
        struct shards s;
        int32_t ids[32];

        assert_int_equal(shards_open(dir, &s, &err), 0);
        assert_int_equal(s.n_documents, 3); /* the empty one is left out */
        assert_int_equal(s.n_tokens, 4 + 7 + 5);
        shards_copy(&s, 4, 7, ids);
        assert_memory_equal(ids, ((int32_t[]){'t', 0xc3, 0xa9, 'w', 0, 'o', SEPARATOR}), 28);
        assert_int_equal(s.max_id, SEPARATOR);
        shards_close(&s);
    }
    p.job.data.field = "content";
    put_file(p.dir, "b.jsonl", "{\"content\":\"x\",\"text\":\"y\"}\n");
    assert_int_equal(prepare(&p, "b.jsonl", 2, dir, &err), 0);
    assert_documents(dir, (const char *const[]){"x"}, 1);
    place_free(&p);
}

/* JOB-16. */
static void compressed_files_are_read_as_what_they_hold(void **state)
{
    struct place p = place_new();
    char dir[1024];
    struct lh_err err = {0};

    (void)state;
    put_gz(in_dir(p.dir, "a.txt.gz"), "hello\n", 1);
    put_gz(in_dir(p.dir, "b.jsonl.gz"), "{\"text\":\"x\"}\n", 2);
    put_zst(in_dir(p.dir, "c.txt.zst"), "zst");
    put_zst(in_dir(p.dir, "d.jsonl.zst"), "{\"text\":\"1\"}\n{\"text\":\"2\"}");
    if (prepare(&p, "[a-d].*", 2, dir, &err) < 0)
        fail_msg("%s", err.text);
    assert_documents(dir, (const char *const[]){"hello\n", "x", "x", "zst", "1", "2"}, 6);
    place_free(&p);
}

/* 3000 words; as .jsonl 20 a line. */
static struct bytes some_text(bool lines, uint64_t *seed)
{
    static const char *const words[] = {
        " ab",          " abab",         " x", "ab", " \xc3\xa9t\xc3\xa9", "12 ", "\n",
        "\xe6\x96\x87", "\xe3\x80\x82\n"};
    struct bytes b = {0};

    for (int w = 0; w < 3000; w++) {
        const char *word = words[hostile_random(seed) % (lines ? 6 : 9)];

        if (lines && w % 20 == 0)
            bytes_put(&b, "{\"text\":\"", 9);
        bytes_put(&b, word, strlen(word));
        if (lines && w % 20 == 19)
            bytes_put(&b, "\"}\n", 3);
    }
    return b;
}

static void a_document_without_spaces_is_read_in_lines(void **state)
{
    struct place p = place_new();
    struct bytes text = {0};
    char path[1024], *paths[1] = {path};
    struct input_list list = {.paths = paths, .n = 1};
    struct unit_reader r = {.list = &list, .cut_documents = true, .cut_lines = true, .target = 600};
    struct unit u = {0};
    size_t at = 0, units = 0;

    (void)state;
    assert_true(tokenizer_cuts_at_lines(p.t));
    for (int line = 0; line < 200; line++)
        bytes_put(&text, "\xe6\x96\x87\xe5\xad\x97\xe3\x80\x82\n", 10);
    (void)snprintf(path, sizeof(path), "%s/a.txt", p.dir);
    put_bytes(path, text.at, text.n);
    while (unit_next(&r, &u, NULL) == 1) {
        assert_true(u.len <= 600);
        assert_true(u.len == 0 || u.text[u.len - 1] == '\n');
        assert_memory_equal(u.text, text.at + at, u.len);
        at += u.len;
        units++;
    }
    assert_int_equal(at, text.n);
    assert_true(units >= 4);
    unit_reader_release(&r);
    free(u.text);
    free(text.at);
    place_free(&p);
}

static void shards_do_not_depend_on_threads_or_units(void **state)
{
    static const size_t unit_bytes[] = {16, 100, 1 << 20};
    struct place p = place_new();
    uint64_t seed = hostile_seed();
    char first[2][LH_SHA256_HEX] = {{0}};
    struct input_list list;
    char glob[1200];
    const char *uris[1] = {glob};

    (void)state;
    for (int f = 0; f < 6; f++) {
        struct bytes text = some_text(f % 2, &seed);
        char name[16];

        (void)snprintf(name, sizeof(name), "%d.%s", f, f % 2 ? "jsonl" : "txt");
        put_bytes(in_dir(p.dir, name), text.at, text.n);
        free(text.at);
    }
    (void)snprintf(glob, sizeof(glob), "%s/[0-9].*", p.dir);
    assert_int_equal(input_list_expand(&(struct lh_strings){uris, 1}, &list, NULL), 0);
    assert_int_equal(list.n, 6);
    for (unsigned u = 0; u < LH_ARRAY_LEN(unit_bytes); u++) {
        for (int threads = 1; threads <= 3; threads++) {
            char *out = scratch_new(), hex[2][LH_SHA256_HEX];
            struct shard_writer w;
            struct lh_err err = {0};
            const struct tokenize_job job = {.inputs = &list,
                                             .tokenizer = p.t,
                                             .field = "text",
                                             .threads = threads,
                                             .unit_bytes = unit_bytes[u]};

            assert_int_equal(shard_writer_open(&w, out, 1 << 20, false, NULL), 0);
            if (tokenize_inputs(&job, &w, &err) < 0)
                fail_msg("%s", err.text);
            assert_int_equal(w.n_documents, 3 + 3 * 150);
            assert_int_equal(shard_writer_finish(&w, NULL), 0);
            assert_int_equal(lh_sha256_file(in_dir(out, "tokens-00000.bin"), hex[0], NULL, NULL),
                             0);
            assert_int_equal(lh_sha256_file(in_dir(out, SHARDS_DOCUMENTS_NAME), hex[1], NULL, NULL),
                             0);
            if (!first[0][0])
                memcpy(first, hex, sizeof(first));
            assert_string_equal(first[0], hex[0]);
            assert_string_equal(first[1], hex[1]);
            scratch_free(out);
        }
    }
    input_list_release(&list);
    place_free(&p);
}

static void count_calls(void *arg, uint64_t done, uint64_t all, uint64_t documents)
{
    assert_true(done <= all);
    assert_true(all > 0);
    assert_true((documents > 0) == (done > 0));
    ++*(int *)arg;
}

static void the_same_data_is_prepared_once_and_changed_data_anew(void **state)
{
    struct place p = place_new();
    char first[1024], again[1024], path[1024], cache[1024], gone[2048];
    const char *uris[1] = {path};
    struct lh_strings list = {uris, 1};
    struct lh_err err = {0};
    int calls = 0;

    (void)state;
    put_file(p.dir, "a.txt", "hello");
    (void)snprintf(path, sizeof(path), "%s/a.txt", p.dir);
    (void)snprintf(cache, sizeof(cache), "%s/cache", p.dir);
    assert_int_equal(prepare_shards(&list, p.job.data.format, &p.job, p.t, cache, 1, count_calls,
                                    &calls, first, &err),
                     0);
    assert_int_equal(calls, 2); /* the start, and one unit */
    p.job.data.field = "other"; /* no matter for plain files */
    assert_int_equal(prepare_shards(&list, p.job.data.format, &p.job, p.t, cache, 1, count_calls,
                                    &calls, again, &err),
                     0);
    assert_int_equal(calls, 2);
    assert_string_equal(first, again);
    assert_int_equal(lh_manifest_verify(first, &err), 0);
    put_file(p.dir, "a.txt", "hellO");
    assert_int_equal(prepare_shards(&list, p.job.data.format, &p.job, p.t, cache, 1, count_calls,
                                    &calls, again, &err),
                     0);
    assert_int_equal(calls, 4);
    assert_string_not_equal(first, again);
    assert_int_equal(count_entries(&p), 2);
    /* A broken directory at the key is replaced. */
    (void)snprintf(gone, sizeof(gone), "%s/%s", again, LH_MANIFEST_NAME);
    assert_int_equal(lh_remove_tree(gone, NULL), 0);
    assert_int_equal(prepare_shards(&list, p.job.data.format, &p.job, p.t, cache, 1, count_calls,
                                    &calls, again, &err),
                     0);
    assert_int_equal(calls, 6);
    assert_documents(again, (const char *const[]){"hellO"}, 1);
    assert_int_equal(count_entries(&p), 2);
    place_free(&p);
}

static void bad_inputs_are_refused_by_file_and_line(void **state)
{
    static const struct {
        const char *name, *text, *says;
    } cases[] = {
        {"a.txt", "", "is empty"},
        {"a.jsonl", "\n\n", "no text"},
        {"b.txt", "0123456789\xff", "not valid UTF-8 at byte 10"},
        {"b.jsonl", "{\"text\":\"x\"}\n{\"text\":\"\xff\"}\n", "line 2: it is not valid UTF-8"},
        {"c.jsonl", "{\"text\":\"x\"}\n{\"text\":\"x\"\n", "line 2: not valid JSON"},
        {"d.jsonl", "{\"text\":\"x\"}\n\n{\"txt\":\"x\"}\n",
         "line 3: it has no member 'text'; data.field"},
        {"e.jsonl", "{\"text\":7}\n", "line 1: there is no text in member 'text'"},
        {"f.jsonl", "[\"text\"]\n", "line 1: it has no member"},
        {"g.txt.gz", "hello", "g.txt.gz' is damaged"},
        {"h.txt.zst", "hello", "h.txt.zst' is damaged"},
    };
    struct place p = place_new();
    char dir[1024], text[64];
    struct lh_err err = {0};

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        put_file(p.dir, cases[i].name, cases[i].text);
        assert_refused(prepare(&p, cases[i].name, 2, dir, &err), &err, cases[i].name);
        assert_int_equal(err.code, LH_EINPUT);
        if (!strstr(err.text, cases[i].says))
            fail_msg("case %u should say '%s': %s", i, cases[i].says, err.text);
    }
    assert_int_equal(count_entries(&p), 0); /* nothing is left behind */
    assert_int_equal(prepare(&p, "absent.txt", 1, dir, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "there is no file"));
    assert_int_equal(prepare(&p, "*.md", 1, dir, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "no file matches"));
    assert_int_equal(prepare(&p, "cache", 1, dir, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "is a directory"));
    (void)snprintf(text, sizeof(text), "s3://bucket/key");
    assert_int_equal(prepare_shards(&(struct lh_strings){(const char *[]){text}, 1}, LH_DATA_TEXT,
                                    &p.job, p.t, p.dir, 1, NULL, NULL, dir, &err),
                     LH_EINPUT);
    assert_non_null(strstr(err.text, "not a local file"));
    place_free(&p);
}

/* ---- records (data.format sft) ---- */

#define FORM "{\"user\":\"{content}:\",\"answer\":\"{content}.\"}"

static void as_samples(struct place *p)
{
    p->job.data.format = LH_DATA_SFT;
    p->job.data.template_ = FORM;
}

/* Each sample as text, what is trained in brackets, all in one string. */
static void assert_samples(const char *dir, const char *want, int dropped, int records)
{
    struct lh_manifest m;
    struct shards s;
    struct lh_err err = {0};
    char text[1024];
    size_t n = 0;
    uint64_t trained = 0;

    if (shards_open(dir, &s, &err) < 0 || lh_manifest_read(dir, &m, &err) < 0)
        fail_msg("%s", err.text);
    for (uint64_t d = 0; d < s.n_documents; d++) {
        uint64_t from = shards_document(&s, d), tokens = shards_document(&s, d + 1) - from;
        int32_t ids[256], labels[256];

        assert_true(tokens < 256);
        shards_copy(&s, from, tokens, ids);
        shards_copy_labels(&s, from, tokens, labels);
        for (uint64_t i = 0; i < tokens; i++) {
            if (labels[i] && (i == 0 || !labels[i - 1]))
                text[n++] = '[';
            text[n++] = (char)ids[i];
            if (labels[i] && (i + 1 == tokens || !labels[i + 1]))
                text[n++] = ']';
            trained += labels[i] != 0;
        }
        text[n++] = ' ';
    }
    text[n] = '\0';
    assert_string_equal(text, want);
    assert_int_equal(s.n_labels, trained);
    assert_int_equal(shards_count_labels(&s, 0, s.n_tokens), trained);
    assert_int_equal(lh_json_i64(m.about, "labels", -1), trained);
    assert_int_equal(lh_json_i64(m.about, "dropped", -1), dropped);
    assert_int_equal(lh_json_i64(m.about, "records", -1), records);
    assert_string_equal(lh_json_str(m.about, "template", ""), FORM);
    lh_manifest_release(&m);
    shards_close(&s);
}

/* JOB-26, JOB-27 */
static void records_become_samples_whose_answers_are_marked(void **state)
{
    static const char list[] =
        " [\n{\"instruction\":\"q\",\"output\":\"x\"},\n {\"instruction\":\"p\",\"output\":\"\"} ,"
        "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},"
        "{\"role\":\"assistant\",\"content\":\"}]\"}]}\n]\n";
    struct place p = place_new();
    char dir[1024];
    struct lh_err err = {0};

    (void)state;
    as_samples(&p);
    put_file(p.dir, "a.json", list);
    put_gz(in_dir(p.dir, "b.json.gz"), list, 1);
    put_file(p.dir, "c.jsonl", "\n{\"instruction\":\"l\",\"output\":\"m\"}\n");
    put_zst(in_dir(p.dir, "d.json.zst"), "{\"instruction\":\"1\",\"output\":\"2\"}\n"
                                         "{\"instruction\":\"3\",\"output\":\"4\"}");
    if (prepare(&p, "[a-d].*", 2, dir, &err) < 0)
        fail_msg("%s", err.text);
    assert_samples(dir, "q:[x.] u:[}].] q:[x.] u:[}].] l:[m.] 1:[2.] 3:[4.] ", 2, 9);
    place_free(&p);
}

static void records_do_not_depend_on_threads_or_units(void **state)
{
    static const size_t unit_bytes[] = {1, 40, 1000, 1 << 20};
    struct place p = place_new();
    struct dialog *dialog;
    struct input_list inputs;
    const char *path = in_dir(p.dir, "a.json"), *uris[1] = {path};
    struct bytes text = {0};
    char first[3][LH_SHA256_HEX] = {{0}};
    uint64_t seed = hostile_seed();

    (void)state;
    as_samples(&p);
    assert_int_equal(dialog_open(FORM, p.t, &dialog, NULL), 0);
    for (int i = 0; i < 500; i++) {
        char record[256];
        int n = snprintf(
            record, sizeof(record), "%s{\"instruction\":\"%.*s\",\"output\":\"%.*s\"}\n",
            i ? "," : "[", (int)(hostile_random(&seed) % 40),
            "ab abab{[ ab abab{[ ab abab{[ ab abab{[ ", (int)(hostile_random(&seed) % 5), "]}ab]");

        bytes_put(&text, record, (size_t)n);
    }
    bytes_put(&text, "]", 1);
    put_bytes(path, text.at, text.n);
    assert_int_equal(input_list_expand(&(struct lh_strings){uris, 1}, &inputs, NULL), 0);
    for (unsigned u = 0; u < LH_ARRAY_LEN(unit_bytes); u++) {
        for (int threads = 1; threads <= 3; threads += 2) {
            static const char *const names[] = {"tokens-00000.bin", "labels-00000.bin",
                                                SHARDS_DOCUMENTS_NAME};
            char *out = scratch_new(), hex[3][LH_SHA256_HEX];
            struct shard_writer w;
            struct lh_err err = {0};
            const struct tokenize_job job = {.inputs = &inputs,
                                             .tokenizer = p.t,
                                             .dialog = dialog,
                                             .threads = threads,
                                             .unit_bytes = unit_bytes[u]};

            assert_int_equal(shard_writer_open(&w, out, 1 << 20, true, NULL), 0);
            if (tokenize_inputs(&job, &w, &err) < 0)
                fail_msg("%s", err.text);
            assert_int_equal(w.n_records, 500);
            assert_int_equal(w.n_documents + w.n_dropped, 500);
            assert_true(w.n_dropped > 0);
            assert_int_equal(shard_writer_finish(&w, NULL), 0);
            for (unsigned i = 0; i < 3; i++)
                assert_int_equal(lh_sha256_file(in_dir(out, names[i]), hex[i], NULL, NULL), 0);
            if (!first[0][0])
                memcpy(first, hex, sizeof(first));
            assert_memory_equal(first, hex, sizeof(first));
            scratch_free(out);
        }
    }
    free(text.at);
    input_list_release(&inputs);
    dialog_free(dialog);
    place_free(&p);
}

static void samples_have_keys_of_their_own(void **state)
{
    struct place p = place_new();
    char dirs[4][1024];
    struct lh_err err = {0};

    (void)state;
    put_file(p.dir, "a.jsonl", "{\"instruction\":\"a\",\"output\":\"b\",\"text\":\"c\"}\n");
    assert_int_equal(prepare(&p, "a.jsonl", 1, dirs[0], &err), 0);
    as_samples(&p);
    assert_int_equal(prepare(&p, "a.jsonl", 1, dirs[1], &err), 0);
    p.job.data.template_ = "{\"user\":\"{content};\",\"answer\":\"{content}.\"}";
    assert_int_equal(prepare(&p, "a.jsonl", 1, dirs[2], &err), 0);
    p.job.data.template_ = FORM;
    p.job.data.field = "other"; /* no matter for records */
    p.job.context.length = 64;  /* nor is this */
    assert_int_equal(prepare(&p, "a.jsonl", 1, dirs[3], &err), 0);
    assert_string_not_equal(dirs[0], dirs[1]);
    assert_string_not_equal(dirs[1], dirs[2]);
    assert_string_equal(dirs[1], dirs[3]);
    assert_int_equal(count_entries(&p), 3);
    place_free(&p);
}

static void bad_records_are_refused_by_file_and_number(void **state)
{
    static const struct {
        const char *name, *text, *says;
    } cases[] = {
        {"a.txt", "x", "holds no records by its name"},
        {"a.json", "[]", "no record with an answer"},
        {"b.json", "[{\"instruction\":\"x\",\"output\":\"y\"},{\"output\":\"y\"}]",
         "b.json', record 2: it has neither"},
        {"c.json", "[{\"instruction\":\"x\",\"output\":\"y\"}",
         "it is cut short at byte 33, behind record 1"},
        {"d.json", "[{\"instruction\":\"x\",\"output\":\"y\"};]",
         "something else at byte 33, behind record 1"},
        {"e.json", "[{\"instruction\":x}]", "record 1: not valid JSON"},
        {"f.json", "[{\"instruction\":\"\xff\"}]", "record 1: not valid JSON"},
        {"g.jsonl", "\n{\"instruction\":\"x\",\"output\":1}\n", "line 2: its member 'output'"},
    };
    struct place p = place_new();
    char dir[1024];
    struct lh_err err = {0};

    (void)state;
    as_samples(&p);
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        put_file(p.dir, cases[i].name, cases[i].text);
        assert_refused(prepare(&p, cases[i].name, 2, dir, &err), &err, cases[i].name);
        assert_int_equal(err.code, LH_EINPUT);
        if (!strstr(err.text, cases[i].says))
            fail_msg("case %u should say '%s': %s", i, cases[i].says, err.text);
    }
    assert_int_equal(count_entries(&p), 0);
    p.job.data.template_ = "chatml";
    put_file(p.dir, "h.jsonl", "{\"instruction\":\"x\",\"output\":\"y\"}\n");
    assert_int_equal(prepare(&p, "h.jsonl", 2, dir, &err), LH_EINPUT);
    assert_string_equal(err.pointer, "/data/template");
    place_free(&p);
}

static void compressed_files_cut_short_are_refused(void **state)
{
    struct place p = place_new();
    char *bytes, dir[1024];
    size_t n;
    struct lh_err err = {0};

    (void)state;
    put_gz(in_dir(p.dir, "x.txt.gz"), "hello hello hello", 1);
    assert_int_equal(lh_read_file(in_dir(p.dir, "x.txt.gz"), 1 << 20, &bytes, &n, NULL), 0);
    for (size_t len = 0; len < n; len++) {
        put_bytes(in_dir(p.dir, "x.txt.gz"), bytes, len);
        assert_refused(prepare(&p, "x.txt.gz", 1, dir, &err), &err, "x.txt.gz");
    }
    free(bytes);
    put_zst(in_dir(p.dir, "x.txt.zst"), "hello hello hello");
    assert_int_equal(lh_read_file(in_dir(p.dir, "x.txt.zst"), 1 << 20, &bytes, &n, NULL), 0);
    for (size_t len = 0; len < n; len++) {
        put_bytes(in_dir(p.dir, "x.txt.zst"), bytes, len);
        assert_refused(prepare(&p, "x.txt.zst", 1, dir, &err), &err, "x.txt.zst");
    }
    free(bytes);
    place_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_kill_before_the_end_leaves_nothing_that_is_taken_for_data),
        TEST(plain_files_are_documents_in_sorted_order),
        TEST(lines_of_jsonl_are_documents),
        TEST(compressed_files_are_read_as_what_they_hold),
        TEST(a_document_without_spaces_is_read_in_lines),
        TEST(shards_do_not_depend_on_threads_or_units),
        TEST(the_same_data_is_prepared_once_and_changed_data_anew),
        TEST(bad_inputs_are_refused_by_file_and_line),
        TEST(records_become_samples_whose_answers_are_marked),
        TEST(records_do_not_depend_on_threads_or_units),
        TEST(samples_have_keys_of_their_own),
        TEST(bad_records_are_refused_by_file_and_number),
        TEST(compressed_files_cut_short_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
