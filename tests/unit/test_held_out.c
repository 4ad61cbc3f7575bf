/* test_held_out.c - windows of held-out texts: which there are and what is scored of them, by the
 * definition, whatever the texts come from.
 */
#include "proto/manifest.h"
#include "tests/unit/tiny_model.h"
#include "tests/unit/unit.h"
#include "worker/data/shard_writer.h"
#include "worker/formats/safetensors.h"
#include "worker/kinds/held_out.h"

#define SPANS_MAX 6
#define TOKENS_MAX 4000

/* Prepared data: token i of all is i. */
struct texts {
    char *dir;
    int64_t begin[SPANS_MAX + 1];
    unsigned n;
};

static void texts_write(struct texts *t, const int64_t *lengths, unsigned n)
{
    static int32_t ids[TOKENS_MAX];
    struct shard_writer w;
    json_t *about;

    t->dir = scratch_new();
    t->n = n;
    for (int i = 0; i < TOKENS_MAX; i++)
        ids[i] = i;
    assert_int_equal(shard_writer_open(&w, t->dir, 97, false, NULL), 0);
    for (unsigned i = 0; i < n; i++) {
        t->begin[i + 1] = t->begin[i] + lengths[i];
        assert_true(t->begin[i + 1] <= TOKENS_MAX);
        assert_int_equal(shard_writer_append(&w, ids + t->begin[i], (uint64_t)lengths[i], NULL), 0);
        assert_int_equal(shard_writer_end(&w, NULL), 0);
    }
    about = json_pack("{s:i, s:I, s:I, s:I, s:I}", "format", SHARDS_FORMAT, "tokens",
                      (json_int_t)w.n_tokens, "documents", (json_int_t)w.n_documents,
                      "shard_tokens", (json_int_t)w.shard_tokens, "max_id", (json_int_t)w.max_id);
    assert_int_equal(shard_writer_finish(&w, NULL), 0);
    assert_int_equal(lh_manifest_write(t->dir, SHARDS_KIND, about, NULL, NULL), 0);
    json_decref(about);
}

#define ROW_TOKENS 210
static int64_t row_ids[SPANS_MAX / 2][ROW_TOKENS], row_labels[SPANS_MAX / 2][ROW_TOKENS];
static int64_t row_documents[SPANS_MAX / 2][ROW_TOKENS];

/* The same as a file of tokens, two texts a sequence. unlabelled: a token that is nobody's target;
 * -1: none. */
static void texts_write_tokens(const struct texts *t, int64_t unlabelled)
{
    int64_t rows = (t->n + 1) / 2, lengths[SPANS_MAX / 2] = {0};
    const struct st_entry entries[] = {{"input_ids", ST_I64, 2, {rows, ROW_TOKENS}},
                                       {"labels", ST_I64, 2, {rows, ROW_TOKENS}},
                                       {"documents", ST_I64, 2, {rows, ROW_TOKENS}},
                                       {"lengths", ST_I64, 1, {rows}}};
    uint64_t bytes = (uint64_t)(rows * ROW_TOKENS) * sizeof(int64_t);
    struct st_writer *w;

    memset(row_ids, 0, sizeof(row_ids));
    memset(row_labels, 0, sizeof(row_labels));
    memset(row_documents, 0, sizeof(row_documents));
    for (unsigned i = 0; i < t->n; i++) {
        int64_t *n = &lengths[i / 2];

        for (int64_t id = t->begin[i]; id < t->begin[i + 1]; id++, ++*n) {
            assert_true(*n < ROW_TOKENS);
            row_ids[i / 2][*n] = id;
            row_labels[i / 2][*n] = id == unlabelled ? -100 : id;
            row_documents[i / 2][*n] = i % 2;
        }
    }
    assert_int_equal(st_create(in_dir(t->dir, "tokens.safetensors"), entries, LH_ARRAY_LEN(entries),
                               NULL, &w, NULL),
                     0);
    assert_int_equal(st_write(w, row_ids, bytes, NULL), 0);
    assert_int_equal(st_write(w, row_labels, bytes, NULL), 0);
    assert_int_equal(st_write(w, row_documents, bytes, NULL), 0);
    assert_int_equal(st_write(w, lengths, (uint64_t)rows * sizeof(int64_t), NULL), 0);
    assert_int_equal(st_finish(w, NULL), 0);
}

/* What is scored of the window that begins at a token: targets [from, to). */
struct scored {
    int64_t from, to;
};

/* By the loops that the published evaluations have, window by window. */
static void by_definition(const struct lh_job *job, int64_t length, int64_t begin, int64_t end,
                          struct scored *ret)
{
    int64_t n = end - begin, S = job->eval.stride, previous = 1, last = -1;

    for (int64_t at = 0; n > 1;
         at += job->eval.mode == LH_EVAL_PREFIXES ? job->context.length : S) {
        int64_t stop = LH_MIN(at + length, n);

        if (job->eval.mode == LH_EVAL_PREFIXES && at + job->context.length > n)
            return;
        if ((job->eval.mode == LH_EVAL_STRIDE || job->eval.mode == LH_EVAL_COMPATIBLE) &&
            at >= n - length)
            break;
        last = begin + at;
        ret[last] = (struct scored){begin + at + 1, begin + stop};
        if (job->eval.mode != LH_EVAL_SLIDING)
            continue;
        ret[last].from = begin + previous;
        previous = stop;
        if (stop == n)
            return;
    }
    if (job->eval.mode == LH_EVAL_COMPATIBLE && last >= 0)
        ret[last] = (struct scored){0, 0};
}

/* Every window of every round stands in `want` for each length, and nothing more does. */
static void compare_windows(struct held_out *h, struct scored *const *want)
{
    static int32_t ids[TOKENS_MAX], labels[TOKENS_MAX], documents[TOKENS_MAX];
    struct held_out_window w = {ids, labels, documents, 0, 0};
    int64_t from, to;

    for (unsigned r = 0; r < held_out_rounds(h); r++) {
        held_out_begin(h, r);
        for (int64_t i = 0; i < held_out_windows(h); i++) {
            assert_int_equal(held_out_take(h, i, &w, NULL), 0);
            for (int64_t t = 1; t < w.tokens; t++)
                assert_int_equal(ids[t], ids[0] + t);
            for (unsigned l = 0; l < h->n_lengths; l++) {
                struct scored *s = &want[l][ids[0]];

                held_out_scored(h, &w, l, &from, &to);
                if (to == 0)
                    continue;
                if (s->from != ids[0] + from + 1 || s->to != ids[0] + to + 1)
                    fail_msg("length %d, window at %d: %d to %d is scored, %d to %d should be",
                             (int)h->lengths[l], ids[0], (int)(ids[0] + from + 1),
                             (int)(ids[0] + to + 1), (int)s->from, (int)s->to);
                *s = (struct scored){0, 0};
                for (int64_t t = from; t < to; t++)
                    assert_int_equal(labels[t], ids[t + 1]);
            }
        }
    }
    for (unsigned l = 0; l < h->n_lengths; l++)
        for (int64_t at = 0; at < TOKENS_MAX; at++)
            if (want[l][at].to > 0)
                fail_msg("length %d: no window at %d", (int)h->lengths[l], (int)at);
}

/* dir: of the texts as shards; NULL: as the file of tokens that the job names. */
static void check_windows(const struct lh_job *job, const struct texts *t, const char *dir)
{
    struct lh_err err = {0};
    struct held_out *h;
    struct scored *want[3];

    if (held_out_open(job, dir, TOKENS_MAX, &h, &err) != 0)
        fail_msg("%s", err.text);
    for (unsigned l = 0; l < 3; l++) {
        want[l] = calloc(TOKENS_MAX, sizeof(*want[l]));
        for (unsigned i = 0; i < (job->eval.join ? 1 : t->n); i++)
            by_definition(job, job->eval.lengths.at[l], t->begin[i],
                          t->begin[job->eval.join ? t->n : i + 1], want[l]);
    }
    assert_int_equal(held_out_tokens(h), t->begin[t->n]);
    compare_windows(h, want);
    for (unsigned l = 0; l < 3; l++)
        free(want[l]);
    held_out_close(h);
}

/* One random set of texts in one mode. */
static void try_windows(enum lh_eval_mode mode, uint64_t seed)
{
    struct lh_job job;
    struct texts t = {0};
    int64_t spans[SPANS_MAX], lengths[3];
    const char *file;
    unsigned n = 1 + (unsigned)(tiny_random(seed, 1) * 2 + 2); /* 1 to 5 */

    memset(&job, 0, sizeof(job));
    job.context.length = 20 + (int64_t)(tiny_random(seed, 2) * 10);
    job.eval.mode = mode;
    job.eval.join = tiny_random(seed, 3) > 0 || mode == LH_EVAL_COMPATIBLE;
    for (int i = 0; i < 3; i++)
        lengths[i] = 5 + (int64_t)((tiny_random(seed, 4 + (uint64_t)i) + 1) / 2 *
                                   (double)(job.context.length - 5));
    job.eval.stride = 1 + (int64_t)((tiny_random(seed, 8) + 1) * 1.9);
    job.eval.lengths = (struct lh_lengths){lengths, 3};
    for (unsigned i = 0; i < n; i++)
        spans[i] = 1 + (int64_t)((tiny_random(seed, 10 + i) + 1) * 40);
    spans[0] += 40; /* one is long enough */
    texts_write(&t, spans, n);
    check_windows(&job, &t, t.dir);
    texts_write_tokens(&t, -1);
    file = in_dir(t.dir, "tokens.safetensors");
    job.eval.perplexity = (struct lh_strings){.at = &file, .n = 1};
    if (mode != LH_EVAL_PREFIXES || job.eval.join) /* else sequences are windows */
        check_windows(&job, &t, NULL);
    scratch_free(t.dir);
}

/* JOB-40, JOB-52: two texts; the window that begins the second holds nothing of the first. */
static void labels_and_documents_of_a_file_of_tokens_hold_in_every_window(void **state)
{
    static int32_t ids[64], labels[64], documents[64];
    static const int64_t spans[] = {30, 40};
    int64_t lengths[] = {20};
    struct held_out_window w = {ids, labels, documents, 0, 0};
    struct texts t = {0};
    struct lh_job job;
    struct held_out *h;
    int64_t unlabelled = 0;
    const char *file;

    (void)state;
    memset(&job, 0, sizeof(job));
    job.context.length = 20;
    job.eval.mode = LH_EVAL_STRIDE;
    job.eval.stride = 5;
    job.eval.lengths = (struct lh_lengths){lengths, 1};
    texts_write(&t, spans, 2);
    texts_write_tokens(&t, 37);
    file = in_dir(t.dir, "tokens.safetensors");
    job.eval.perplexity = (struct lh_strings){.at = &file, .n = 1};
    assert_int_equal(held_out_open(&job, NULL, TOKENS_MAX, &h, NULL), 0);
    assert_int_equal(held_out_windows(h), 2 + 4); /* from 0, 5; 30, 35, 40, 45 */
    assert_false(held_out_has_documents(h));
    for (int64_t i = 0; i < 6; i++) {
        assert_int_equal(held_out_take(h, i, &w, NULL), 0);
        assert_int_equal(ids[0], i < 2 ? 5 * i : 30 + 5 * (i - 2));
        for (int t1 = 0; t1 + 1 < 20; t1++) {
            assert_int_equal(labels[t1], ids[t1 + 1] == 37 ? -100 : ids[t1 + 1]);
            unlabelled += labels[t1] == -100;
        }
    }
    assert_int_equal(unlabelled, 2);
    held_out_close(h);
    scratch_free(t.dir);
}

/* JOB-40 */
static void windows_are_those_of_the_definition_over_random_texts(void **state)
{
    const char *given = getenv("LONGHAUL_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 4711;

    (void)state;
    print_message("LONGHAUL_SEED=%llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < 40; i++)
        for (int mode = LH_EVAL_PREFIXES; mode <= LH_EVAL_SLIDING; mode++)
            try_windows((enum lh_eval_mode)mode, seed + i);
}

/* JOB-43: evenly spread, and windows of the longest length. */
static void some_windows_are_spread_over_all_texts(void **state)
{
    static int32_t ids[64], labels[64], documents[64];
    static const int64_t spans[] = {25, 9, 40};
    int64_t lengths[] = {4, 10};
    struct held_out_window w = {ids, labels, documents, 0, 0};
    struct texts t = {0};
    struct lh_job job;
    struct held_out *h;
    /* Starts of 10 tokens, 3 apart: 0 to 12 of the first text, none of the second, 34 to 61. */
    static const int32_t want[] = {0, 9, 40, 52};

    (void)state;
    memset(&job, 0, sizeof(job));
    job.context.length = 10;
    job.eval.mode = LH_EVAL_STRIDE;
    job.eval.stride = 3;
    job.eval.windows = 4;
    job.eval.lengths = (struct lh_lengths){lengths, 2};
    texts_write(&t, spans, 3);
    assert_int_equal(held_out_open(&job, t.dir, TOKENS_MAX, &h, NULL), 0);
    assert_int_equal(held_out_windows(h), 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(held_out_take(h, i, &w, NULL), 0);
        assert_int_equal(w.tokens, 10);
        assert_int_equal(ids[0], want[i]);
    }
    held_out_close(h);
    job.context.length = lengths[1] = 41;
    struct lh_err err = {0};
    assert_int_equal(held_out_open(&job, t.dir, TOKENS_MAX, &h, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "the longest has 40"));
    assert_string_equal(err.pointer, "/eval/perplexity");
    job.context.length = lengths[1] = 10;
    assert_int_equal(held_out_open(&job, t.dir, 60, &h, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "the model's vocabulary has 60"));
    scratch_free(t.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(labels_and_documents_of_a_file_of_tokens_hold_in_every_window),
        TEST(windows_are_those_of_the_definition_over_random_texts),
        TEST(some_windows_are_spread_over_all_texts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
