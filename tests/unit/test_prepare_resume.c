/* test_prepare_resume.c - a preparation that is killed is gone on with, and two at once share one (JOB-50).
 *
 * Each preparation runs in a process of its own, because faults are read once a process; what it
 * saw comes back through shared memory.
 */
#include "proto/base/clock.h"
#include "proto/base/sha256.h"
#include "proto/base/str.h"
#include "proto/manifest.h"
#include "tests/unit/tokenizer_build.h"
#include "worker/data/dataset.h"
#include "worker/data/mark.h"
#include "worker/data/shards.h"
#include <dirent.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#define TEXT_BYTES ((size_t)16 << 20) /* two marks and some: a token a byte of what is text */
#define SLEEP_MS 1500
#define FORM "{\"user\":\"{content}:\",\"answer\":\"{content}.\"}"

struct place {
    char *dir; /* inputs, and caches below it */
    struct tokenizer *t;
};

/* What a child saw. */
struct seen {
    char dir[1024];
    uint64_t start_bytes; /* of the first call with something to do */
    unsigned waits;       /* calls that said that another process is at it */
    unsigned units;
    struct lh_err err;
};

static struct place place_new(void)
{
    struct place p = {.dir = scratch_new()};
    struct token_build *b = calloc(1, sizeof(*b));
    struct lh_err err = {0};

    tb_bytes(b, "");
    assert_int_equal(tb_add(b, "<|endoftext|>", 3), 256);
    tb_save_gguf(b, "gpt-2", in_dir(p.dir, "t.gguf"));
    if (tokenizer_open(in_dir(p.dir, "t.gguf"), &p.t, &err) < 0)
        fail_msg("%s", err.text);
    free(b);
    return p;
}

static void place_free(struct place *p)
{
    tokenizer_free(p->t);
    scratch_free(p->dir);
}

/* Lines and words of changing length, for a kind of file. */
static char *some_text(const char *name, size_t *ret_n)
{
    bool lines = lh_ends_with(name, ".jsonl.gz") || lh_ends_with(name, ".jsonl");
    bool list = lh_ends_with(name, ".json");
    char *text = malloc(TEXT_BYTES + 4096), *at = text;

    assert_non_null(text);
    if (list)
        *at++ = '[';
    for (unsigned i = 0; at < text + TEXT_BYTES; i++) {
        int n = (int)(i * i % 97) + 1;

        if (lines)
            at += sprintf(at, "{\"text\":\"%*u\"}\n", n, i);
        else if (list)
            at += sprintf(at, "{\"instruction\":\"a\",\"output\":\"%*u\"},\n", n, i);
        else
            at += sprintf(at, "%*u two words\n", n, i);
    }
    if (list)
        at += sprintf(at, "{\"instruction\":\"a\",\"output\":\"b\"}]");
    *ret_n = (size_t)(at - text);
    return text;
}

static void put_text(const struct place *p, const char *name)
{
    size_t n;
    char *text = some_text(name, &n);
    const char *path = in_dir(p->dir, name);

    if (lh_ends_with(name, ".gz")) {
        gzFile f = gzopen(path, "wb1");

        assert_non_null(f);
        assert_int_equal(gzwrite(f, text, (unsigned)n), (int)n);
        assert_int_equal(gzclose(f), Z_OK);
    } else {
        put_bytes(path, text, n);
    }
    free(text);
}

static void on_progress(void *arg, uint64_t done, uint64_t all, uint64_t documents)
{
    struct seen *s = arg;

    (void)documents;
    if (all == 0)
        s->waits++;
    else if (s->units++ == 0)
        s->start_bytes = done;
}

/* Prepares the file in a process of its own. seen: in shared memory. */
static pid_t start(const struct place *p, const char *name, const char *cache, const char *fault,
                   struct seen *seen)
{
    pid_t pid;

    memset(seen, 0, sizeof(*seen));
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const char *path = in_dir(p->dir, name);
        struct lh_job job = {.data = {.field = "text", .template_ = FORM}};
        enum lh_data_format format = lh_ends_with(name, ".json") ? LH_DATA_SFT : LH_DATA_TEXT;

        (void)setenv("LONGHAUL_FAULT", fault, 1);
        _exit(prepare_shards(&(struct lh_strings){&path, 1}, format, &job, p->t,
                             in_dir(p->dir, cache), 2, on_progress, seen, seen->dir,
                             &seen->err) == 0
                  ? 0
                  : 1);
    }
    return pid;
}

static int end(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static struct seen *seen_new(unsigned n)
{
    struct seen *s =
        mmap(NULL, n * sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(s != MAP_FAILED);
    return s;
}

/* Names in CACHE/shards that begin with a dot (unfinished) or not. */
static unsigned count_entries(const struct place *p, const char *cache, bool unfinished)
{
    char path[1200];
    DIR *d;
    unsigned n = 0;
    struct dirent *e;

    (void)snprintf(path, sizeof(path), "%s/%s/shards", p->dir, cache);
    d = opendir(path);
    while (d && (e = readdir(d)) != NULL)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
             (e->d_name[0] == '.') == unfinished;
    if (d)
        (void)closedir(d);
    return n;
}

static void assert_same_files(const char *a, const char *b)
{
    DIR *d = opendir(a);
    struct dirent *e;
    unsigned n = 0;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        char hex[2][LH_SHA256_HEX];

        if (e->d_name[0] == '.' || strcmp(e->d_name, "manifest.json") == 0)
            continue;
        assert_int_equal(lh_sha256_file(in_dir(a, e->d_name), hex[0], NULL, NULL), 0);
        assert_int_equal(lh_sha256_file(in_dir(b, e->d_name), hex[1], NULL, NULL), 0);
        assert_string_equal(hex[0], hex[1]);
        n++;
    }
    (void)closedir(d);
    assert_true(n >= 2);
    assert_int_equal(lh_manifest_verify(b, NULL), 0);
}

static void a_killed_preparation_goes_on_from_its_last_mark_to_the_same_shards(void **state)
{
    static const char *const names[] = {"plain.txt", "lines.jsonl", "lines.jsonl.gz", "list.json"};
    struct place p = place_new();
    struct seen *seen = seen_new(2);

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(names); i++) {
        uint64_t before = 0;

        put_text(&p, names[i]);
        if (end(start(&p, names[i], "whole", "", &seen[0])) != 0)
            fail_msg("%s: %s", names[i], seen[0].err.text);
        assert_int_equal(seen[0].start_bytes, 0);
        /* Killed at its first mark; gone on with and killed at the next; and once more, between the
         * last unit and the end. */
        assert_true(WIFSIGNALED(end(start(&p, names[i], "cut", "shards.marked:1", &seen[1]))));
        assert_int_equal(seen[1].start_bytes, 0);
        assert_int_equal(count_entries(&p, "cut", true), 1);
        assert_true(WIFSIGNALED(end(start(&p, names[i], "cut", "shards.marked:1", &seen[1]))));
        assert_true(seen[1].start_bytes > before);
        before = seen[1].start_bytes;
        assert_true(WIFSIGNALED(end(start(&p, names[i], "cut", "shards.written", &seen[1]))));
        assert_true(seen[1].start_bytes > before);
        if (end(start(&p, names[i], "cut", "", &seen[1])) != 0)
            fail_msg("%s: %s", names[i], seen[1].err.text);
        assert_same_files(seen[0].dir, seen[1].dir);
        assert_int_equal(count_entries(&p, "cut", true), 0);
        assert_int_equal(count_entries(&p, "cut", false), i + 1);
    }
    assert_int_equal(munmap(seen, 2 * sizeof(*seen)), 0);
    place_free(&p);
}

/* The name of the unfinished directory of a cache with one. */
static const char *unfinished(const struct place *p, const char *cache)
{
    static char path[2048];
    char shards[1200];
    struct dirent *e;
    DIR *d;

    (void)snprintf(shards, sizeof(shards), "%s/%s/shards", p->dir, cache);
    d = opendir(shards);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL && (e->d_name[0] != '.' || strlen(e->d_name) < 3))
        continue;
    assert_non_null(e);
    (void)snprintf(path, sizeof(path), "%s/%s", shards, e->d_name);
    (void)closedir(d);
    return path;
}

static void a_mark_that_says_more_than_there_is_is_not_gone_on_with(void **state)
{
    struct place p = place_new();
    struct seen *seen = seen_new(2);
    const char *left;

    (void)state;
    put_text(&p, "plain.txt");
    assert_int_equal(end(start(&p, "plain.txt", "whole", "", &seen[0])), 0);
    assert_true(WIFSIGNALED(end(start(&p, "plain.txt", "cut", "shards.marked", &seen[1]))));
    left = unfinished(&p, "cut");
    assert_int_equal(truncate(in_dir(left, "tokens-00000.bin"), 4096), 0);
    assert_int_equal(end(start(&p, "plain.txt", "cut", "", &seen[1])), 0);
    assert_int_equal(seen[1].start_bytes, 0);
    assert_same_files(seen[0].dir, seen[1].dir);

    assert_true(WIFSIGNALED(end(start(&p, "plain.txt", "torn", "shards.marked", &seen[1]))));
    put_file(unfinished(&p, "torn"), MARK_NAME, "{\"file\": 0");
    assert_int_equal(end(start(&p, "plain.txt", "torn", "", &seen[1])), 0);
    assert_int_equal(seen[1].start_bytes, 0);
    assert_same_files(seen[0].dir, seen[1].dir);
    assert_int_equal(munmap(seen, 2 * sizeof(*seen)), 0);
    place_free(&p);
}

static void two_at_once_prepare_the_same_data_once(void **state)
{
    struct place p = place_new();
    struct seen *seen = seen_new(2);
    char fault[64];
    pid_t first, second;

    (void)state;
    put_text(&p, "plain.txt");
    (void)snprintf(fault, sizeof(fault), "shards.marked:1:sleep%d", SLEEP_MS);
    first = start(&p, "plain.txt", "cache", fault, &seen[0]);
    for (uint64_t until = lh_mono_ms() + 60000;
         !lh_path_exists(in_dir(p.dir, "cache/shards")) && lh_mono_ms() < until;)
        (void)usleep(10000);
    (void)usleep(100000);
    second = start(&p, "plain.txt", "cache", "", &seen[1]);
    assert_int_equal(end(second), 0);
    assert_int_equal(end(first), 0);
    /* Whoever came later did nothing but wait. */
    assert_true((seen[0].units > 1) != (seen[1].units > 1));
    assert_true(seen[0].units > 1 ? seen[1].waits > 0 : seen[0].waits > 0);
    assert_string_equal(seen[0].dir, seen[1].dir);
    assert_int_equal(count_entries(&p, "cache", true), 0);
    assert_int_equal(count_entries(&p, "cache", false), 1);
    assert_int_equal(munmap(seen, 2 * sizeof(*seen)), 0);
    place_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_killed_preparation_goes_on_from_its_last_mark_to_the_same_shards),
        TEST(a_mark_that_says_more_than_there_is_is_not_gone_on_with),
        TEST(two_at_once_prepare_the_same_data_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
