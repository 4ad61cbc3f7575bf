/* test_dataset.c - tokens files and windows of prepared text. */
#include "proto/manifest.h"
#include "tests/unit/hostile.h"
#include "worker/data/dataset.h"
#include "worker/data/dialog.h"
#include "worker/data/shard_writer.h"
#include "worker/data/shards.h"
#include "worker/formats/safetensors.h"

#define LENGTH_MAX 64

struct window {
    int32_t ids[LENGTH_MAX], labels[LENGTH_MAX], documents[LENGTH_MAX];
    struct sequence seq;
};

static struct sequence *window_at(const struct dataset *d, int64_t index, struct window *w)
{
    struct lh_err err = {0};

    w->seq = (struct sequence){w->ids, w->labels, w->documents, 0, 0};
    memset(w->ids, 0x55, sizeof(w->ids));
    memset(w->labels, 0x55, sizeof(w->labels));
    memset(w->documents, 0x55, sizeof(w->documents));
    if (dataset_sequence(d, index, &w->seq, &err) < 0)
        fail_msg("%s", err.text);
    return &w->seq;
}

static struct lh_job job_of(enum lh_data_format format, enum lh_pack pack, int64_t length)
{
    struct lh_job job;

    memset(&job, 0, sizeof(job));
    job.data.format = format;
    job.data.pack = pack;
    job.context.length = length;
    job.optim.seed = 17;
    return job;
}

/* Writes shards of documents of the given lengths (0 ends the list); document d, token t has id 100
 * d + t. With prompts, the tokens from prompts[d] on are trained; without, there are no marks. */
static char *write_shards(const int *lengths, uint64_t shard_tokens, const int *prompts)
{
    char *dir = scratch_new();
    struct shard_writer w;
    json_t *about;

    assert_int_equal(shard_writer_open(&w, dir, shard_tokens, prompts != NULL, NULL), 0);
    for (int d = 0; lengths[d]; d++) {
        for (int32_t t = 0; t < lengths[d]; t++) {
            bool trained = prompts && t >= prompts[d];

            assert_int_equal(
                shard_writer_append(&w, &(int32_t){(100 * d + t) | (trained ? DIALOG_TRAINED : 0)},
                                    1, NULL),
                0);
        }
        assert_int_equal(shard_writer_end(&w, NULL), 0);
    }
    assert_int_equal(shard_writer_end(&w, NULL), 0); /* an empty document leaves nothing */
    about = json_pack("{s:i, s:I, s:I, s:I, s:I}", "format", SHARDS_FORMAT, "tokens",
                      (json_int_t)w.n_tokens, "documents", (json_int_t)w.n_documents,
                      "shard_tokens", (json_int_t)w.shard_tokens, "max_id", (json_int_t)w.max_id);
    if (prompts)
        json_object_set_new(about, "labels", json_integer((json_int_t)w.n_labels));
    assert_int_equal(shard_writer_finish(&w, NULL), 0);
    assert_int_equal(lh_manifest_write(dir, SHARDS_KIND, about, NULL, NULL), 0);
    json_decref(about);
    return dir;
}

static char *shards_of(const int *lengths, uint64_t shard_tokens)
{
    return write_shards(lengths, shard_tokens, NULL);
}

static struct dataset *text_of(const char *dir, const struct lh_job *job)
{
    struct dataset *d;
    struct lh_err err = {0};

    if (dataset_open(job, dir, 100000, &d, &err) < 0)
        fail_msg("%s", err.text);
    return d;
}

static void an_epoch_holds_every_document_once_end_to_end(void **state)
{
    static const int lengths[] = {5, 1, 9, 30, 2, 17, 0};
    struct lh_job job = job_of(LH_DATA_TEXT, LH_PACK_MASKED, 8);
    char *dir = shards_of(lengths, 7); /* documents and windows straddle files */
    struct dataset *d = text_of(dir, &job);
    int differs = 0;

    (void)state;
    assert_int_equal(dataset_windows(d), 8); /* 64 tokens */
    assert_int_equal(dataset_tokens(d), 64);
    assert_true(dataset_has_documents(d));
    for (int epoch = 0; epoch < 4; epoch++) {
        int32_t all[64], previous = -1, seen[6] = {0};

        for (int i = 0; i < 8; i++) {
            struct window w;
            struct sequence *s = window_at(d, 8 * epoch + i, &w);

            assert_int_equal(s->length, 8);
            memcpy(all + 8 * i, s->ids, 8 * sizeof(*all));
        }
        for (int i = 0; i < 64; i++) {
            bool starts = all[i] % 100 == 0;

            if (starts) {
                assert_true(previous < 0 || previous % 100 == lengths[previous / 100] - 1);
                seen[all[i] / 100]++;
            } else {
                assert_int_equal(all[i], previous + 1);
            }
            previous = all[i];
        }
        for (int k = 0; k < 6; k++)
            assert_int_equal(seen[k], 1);
        if (epoch > 0) {
            struct window w;

            differs += window_at(d, 0, &w)->ids[0] != all[0];
        }
    }
    assert_true(differs > 0); /* epochs are ordered differently */
    dataset_close(d);
    scratch_free(dir);
}

/* CKPT-20. */
static void a_window_is_a_pure_function_of_its_index(void **state)
{
    static const int lengths[] = {5, 1, 9, 30, 2, 17, 40, 0};
    struct lh_job job = job_of(LH_DATA_TEXT, LH_PACK_MASKED, 8);
    char *dir = shards_of(lengths, 1000);
    struct dataset *a = text_of(dir, &job), *b = text_of(dir, &job);
    uint64_t seed = hostile_seed();
    int other = 0;

    (void)state;
    for (int k = 0; k < 200; k++) {
        int64_t index = (int64_t)(hostile_random(&seed) % 100);
        struct window x, y;

        window_at(a, index, &x);
        window_at(b, (int64_t)(hostile_random(&seed) % 100), &y); /* whatever was asked before */
        window_at(b, index, &y);
        assert_memory_equal(x.ids, y.ids, sizeof(x.ids));
        assert_memory_equal(x.labels, y.labels, sizeof(x.labels));
        assert_memory_equal(x.documents, y.documents, sizeof(x.documents));
        assert_int_equal(x.seq.n_labels, y.seq.n_labels);
    }
    dataset_close(b);
    job.optim.seed = 18;
    b = text_of(dir, &job);
    for (int64_t i = 0; i < 8; i++) {
        struct window x, y;

        window_at(a, i, &x);
        window_at(b, i, &y);
        other += memcmp(x.ids, y.ids, 8 * sizeof(*x.ids)) != 0;
    }
    assert_true(other > 0);
    dataset_close(a);
    dataset_close(b);
    scratch_free(dir);
}

static void labels_are_the_next_token_and_stop_at_documents_and_windows(void **state)
{
    static const int lengths[] = {5, 1, 9, 30, 2, 17, 0};
    struct lh_job job = job_of(LH_DATA_TEXT, LH_PACK_MASKED, 16);
    char *dir = shards_of(lengths, 1000);
    struct dataset *d = text_of(dir, &job), *join;
    struct window w;

    (void)state;
    for (int64_t i = 0; i < 8; i++) {
        struct sequence *s = window_at(d, i, &w);
        int64_t n = 0;

        assert_int_equal(s->documents[0], 0);
        for (int t = 0; t < 16; t++) {
            bool last = t == 15 || s->ids[t + 1] / 100 != s->ids[t] / 100;

            assert_int_equal(s->labels[t], last ? -100 : s->ids[t] + 1);
            n += !last;
            if (t < 15)
                assert_int_equal(s->documents[t + 1], s->documents[t] + last);
        }
        assert_int_equal(s->n_labels, n);
    }
    job.data.pack = LH_PACK_JOIN;
    join = text_of(dir, &job);
    assert_false(dataset_has_documents(join));
    assert_int_equal(window_at(join, 0, &w)->labels[15], -100);
    dataset_close(join);
    dataset_close(d);
    scratch_free(dir);
}

static void without_packing_no_window_holds_two_documents(void **state)
{
    static const int lengths[] = {5, 1, 9, 16, 0};
    struct lh_job job = job_of(LH_DATA_TEXT, LH_PACK_NONE, 8);
    char *dir = shards_of(lengths, 1000);
    struct dataset *d = text_of(dir, &job);
    int32_t tokens = 0;

    (void)state;
    assert_int_equal(dataset_windows(d), 1 + 1 + 2 + 2);
    assert_false(dataset_has_documents(d));
    for (int64_t i = 0; i < 6; i++) {
        struct window w;
        struct sequence *s = window_at(d, i, &w);

        tokens += (int32_t)s->length;
        assert_int_equal(s->ids[0] % 100 % 8, 0);
        for (int t = 0; t < 8; t++) {
            assert_int_equal(s->ids[t], t < s->length ? s->ids[0] + t : 0);
            assert_int_equal(s->labels[t], t + 1 < s->length ? s->ids[t] + 1 : -100);
            assert_int_equal(s->documents[t], 0);
        }
        assert_int_equal(s->n_labels, s->length - 1);
    }
    assert_int_equal(tokens, 31);
    dataset_close(d);
    scratch_free(dir);
}

/* ---- samples (data.format sft) ---- */

/* One part of a window: sample `number` of the data, its tokens from 0 on; returns its length. */
static int64_t check_sample(const struct sequence *s, int64_t at, const int *lengths,
                            const int *prompts, int *number)
{
    int64_t n = 0;

    *number = s->ids[at] / 100;
    while (at + n < s->length && s->ids[at + n] / 100 == *number) {
        bool last = at + n + 1 == s->length || s->ids[at + n + 1] / 100 != *number;
        bool trained = !last && n + 1 >= prompts[*number];

        assert_int_equal(s->ids[at + n], 100 * *number + n);
        assert_int_equal(s->documents[at + n], s->documents[at]);
        assert_int_equal(s->labels[at + n], trained ? s->ids[at + n] + 1 : -100);
        n++;
    }
    assert_true(n <= lengths[*number]);
    return n;
}

/* JOB-28 */
static void packed_windows_hold_whole_samples_and_every_one_once(void **state)
{
    static const int lengths[] = {5, 1, 9, 16, 2, 17, 40, 6, 3, 8, 30, 0};
    static const int prompts[] = {2, 0, 8, 4, 0, 16, 15, 6, 1, 2, 16, 0};
    static const int kept[] = {5, 0, 9, 16, 2, 0, 16, 0, 3, 8, 0};
    struct lh_job job = job_of(LH_DATA_SFT, LH_PACK_MASKED, 16);
    char *dir = write_shards(lengths, 7, prompts);
    struct dataset *d = text_of(dir, &job);
    struct dataset_counts c = dataset_count(d);
    int differs = 0;

    (void)state;
    assert_int_equal(c.samples, 7);
    /* 1: one token, so nothing to predict; 5: the label is behind the cut; 7: no answer; 10: cut.
     */
    assert_int_equal(c.dropped, 4);
    assert_int_equal(c.truncated, 1);
    assert_int_equal(c.tokens, 5 + 9 + 16 + 2 + 16 + 3 + 8);
    assert_int_equal(c.labels, 3 + 1 + 12 + 1 + 1 + 2 + 6);
    assert_int_equal(dataset_windows(d), 4); /* 59 tokens: the least that can be */
    assert_int_equal(dataset_tokens(d), 59);
    assert_true(dataset_has_documents(d));
    for (int epoch = 0; epoch < 6; epoch++) {
        int seen[LH_ARRAY_LEN(kept)] = {0};
        int64_t labels = 0;

        for (int i = 0; i < 4; i++) {
            struct window w, first;
            struct sequence *s = window_at(d, 4 * epoch + i, &w);
            int32_t documents = 0;

            for (int64_t at = 0; at < s->length; documents++) {
                int number;
                int64_t n = check_sample(s, at, lengths, prompts, &number);

                assert_int_equal(s->documents[at], documents);
                assert_int_equal(n, kept[number]);
                seen[number]++;
                at += n;
            }
            for (int64_t t = s->length; t < 16; t++) {
                assert_int_equal(s->ids[t], 0);
                assert_int_equal(s->labels[t], -100);
                assert_int_equal(s->documents[t], documents);
            }
            labels += s->n_labels;
            differs += memcmp(window_at(d, i, &first)->ids, w.ids, 64) != 0;
        }
        for (unsigned k = 0; k < LH_ARRAY_LEN(kept); k++)
            assert_int_equal(seen[k], kept[k] > 0);
        assert_int_equal(labels, c.labels);
    }
    assert_true(differs > 0); /* in another order */
    dataset_close(d);
    scratch_free(dir);
}

/* JOB-28 */
static void samples_stand_alone_or_are_joined(void **state)
{
    static const int lengths[] = {5, 20, 3, 0};
    static const int prompts[] = {2, 9, 3, 0};
    struct lh_job job = job_of(LH_DATA_SFT, LH_PACK_NONE, 12);
    char *dir = write_shards(lengths, 1000, prompts);
    struct dataset *d = text_of(dir, &job);
    struct window w;
    int64_t tokens = 0, labels = 0;

    (void)state;
    assert_int_equal(dataset_windows(d), 2);
    assert_false(dataset_has_documents(d));
    assert_int_equal(dataset_count(d).dropped, 1);
    for (int64_t i = 0; i < 2; i++) {
        struct sequence *s = window_at(d, i, &w);
        int number;

        assert_int_equal(check_sample(s, 0, lengths, prompts, &number), s->length);
        assert_int_equal(s->length, number ? 12 : 5);
        tokens += s->length;
        labels += s->n_labels;
    }
    assert_int_equal(tokens, dataset_tokens(d));
    assert_int_equal(labels, dataset_count(d).labels);
    dataset_close(d);
    job.data.pack = LH_PACK_JOIN;
    d = text_of(dir, &job);
    assert_int_equal(dataset_windows(d), 2); /* 28 tokens */
    assert_false(dataset_has_documents(d));
    for (int64_t i = 0; i < 2; i++) {
        struct sequence *s = window_at(d, i, &w);

        assert_int_equal(s->length, 12);
        for (int t = 0; t < 11; t++) {
            bool next = s->ids[t + 1] / 100 == s->ids[t] / 100 &&
                        s->ids[t + 1] % 100 >= prompts[s->ids[t] / 100];

            assert_int_equal(s->labels[t], next ? s->ids[t + 1] : -100);
        }
    }
    dataset_close(d);
    scratch_free(dir);
}

/* Random lengths: no window too full, none that two could have shared. */
static void packing_wastes_little(void **state)
{
    uint64_t seed = hostile_seed();

    (void)state;
    for (int round = 0; round < 20; round++) {
        int lengths[101] = {0}, prompts[101] = {0}, n = 1 + (int)(hostile_random(&seed) % 100);
        struct lh_job job = job_of(LH_DATA_SFT, LH_PACK_MASKED, 64);
        int64_t previous = 64;
        struct dataset *d;
        char *dir;

        for (int i = 0; i < n; i++) {
            lengths[i] = 2 + (int)(hostile_random(&seed) % (round % 2 ? 62 : 20));
            prompts[i] = 1;
        }
        dir = write_shards(lengths, 1000, prompts);
        job.optim.seed = (uint64_t)round;
        d = text_of(dir, &job);
        for (int64_t i = 0; i < dataset_windows(d); i++) {
            struct window w;
            int64_t length = window_at(d, i, &w)->length;

            if (i > 0)
                assert_true(previous + length > 64);
            previous = length;
        }
        assert_true(dataset_tokens(d) > dataset_windows(d) * 32 || dataset_windows(d) == 1);
        dataset_close(d);
        scratch_free(dir);
    }
}

static void samples_that_do_not_fit_are_refused(void **state)
{
    static const int lengths[] = {5, 0}, prompts[] = {4, 0};
    struct lh_job job = job_of(LH_DATA_SFT, LH_PACK_MASKED, 4);
    char *dir = write_shards(lengths, 1000, prompts);
    struct dataset *d;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(dataset_open(&job, dir, 1000, &d, &err), LH_EINPUT);
    assert_non_null(
        strstr(err.text, "none of the 1 samples has an answer within context.length 4"));
    job.context.length = 5;
    assert_int_equal(dataset_open(&job, dir, 4, &d, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "token id 4"));
    job.data.format = LH_DATA_TEXT;
    assert_int_equal(dataset_open(&job, dir, 1000, &d, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "prepared with data.format \"sft\""));
    put_bytes(in_dir(dir, "labels-00000.bin"), "1234", 4);
    job.data.format = LH_DATA_SFT;
    assert_refused(dataset_open(&job, dir, 1000, &d, &err), &err, "labels-00000.bin");
    scratch_free(dir);
}

static void data_that_does_not_fit_is_refused_with_the_numbers(void **state)
{
    static const int lengths[] = {5, 2, 0};
    struct lh_job job = job_of(LH_DATA_TEXT, LH_PACK_MASKED, 8);
    char *dir = shards_of(lengths, 1000);
    struct dataset *d;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(dataset_open(&job, dir, 1000, &d, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "7 tokens, less than one window of context.length 8"));
    job.context.length = 7;
    assert_int_equal(dataset_open(&job, dir, 101, &d, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "token id 101"));
    assert_int_equal(dataset_open(&job, dir, 102, &d, &err), 0);
    dataset_close(d);
    job.data.format = LH_DATA_SFT;
    assert_int_equal(dataset_open(&job, dir, 102, &d, &err), LH_EINPUT);
    assert_string_equal(err.pointer, "/data/format");
    assert_non_null(strstr(err.text, "prepared with data.format \"text\""));
    scratch_free(dir);
}

static void damaged_shards_are_refused(void **state)
{
    static const int lengths[] = {5, 20, 0};
    static const uint64_t offsets[][3] = {
        {0, 5, 26}, {1, 5, 25}, {0, 25, 25}, {0, 0, 25}, {0, UINT64_MAX, 25}};
    struct lh_job job = job_of(LH_DATA_TEXT, LH_PACK_MASKED, 8);
    char *dir = shards_of(lengths, 1000);
    struct dataset *d;
    struct lh_err err = {0};

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(offsets); i++) {
        put_bytes(in_dir(dir, SHARDS_DOCUMENTS_NAME), offsets[i], 24);
        assert_refused(dataset_open(&job, dir, 1000, &d, &err), &err, dir);
    }
    put_bytes(in_dir(dir, SHARDS_DOCUMENTS_NAME), (uint64_t[]){0, 5, 25}, 24);
    put_bytes(in_dir(dir, "tokens-00000.bin"), "1234", 4);
    assert_refused(dataset_open(&job, dir, 1000, &d, &err), &err, "tokens-00000.bin");
    assert_int_equal(lh_remove_tree(in_dir(dir, LH_MANIFEST_NAME), NULL), 0);
    assert_true(dataset_open(&job, dir, 1000, &d, &err) < 0);
    scratch_free(dir);
}

struct tensor {
    const char *name;
    int n_dims;
    int64_t shape[3];
    const int64_t *data;
};

static void put_tokens(const char *path, const struct tensor *t, unsigned n)
{
    struct st_entry entries[4] = {{0}};
    struct st_writer *w;

    for (unsigned i = 0; i < n; i++) {
        entries[i] = (struct st_entry){t[i].name, ST_I64, t[i].n_dims, {0}};
        memcpy(entries[i].shape, t[i].shape, sizeof(t[i].shape));
    }
    assert_int_equal(st_create(path, entries, n, NULL, &w, NULL), 0);
    for (unsigned i = 0; i < n; i++) {
        uint64_t count = 1;

        for (int d = 0; d < t[i].n_dims; d++)
            count *= (uint64_t)t[i].shape[d];
        assert_int_equal(st_write(w, t[i].data, 8 * count, NULL), 0);
    }
    assert_int_equal(st_finish(w, NULL), 0);
}

static const int64_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0};
static const int64_t labels[] = {1, 2, -100, 4, -100, -100, -100, -100, 9, 10, 11, -100};
static const int64_t documents[] = {0, 0, 1, 1, 3, 3, 3, 3, 0, 0, 1, 1};
static const int64_t lengths_3[] = {4, 4, 3};

/* JOB-16. */
static void tokens_files_are_taken_in_order_and_wrap(void **state)
{
    const struct tensor t[] = {{"input_ids", 3, {3, 1, 4}, ids},
                               {"labels", 3, {3, 1, 4}, labels},
                               {"lengths", 2, {3, 1, 0}, lengths_3}};
    struct lh_job job = job_of(LH_DATA_TOKENS, LH_PACK_NONE, 6);
    char *dir = scratch_new();
    const char *path = in_dir(dir, "a.safetensors"), *uris[2] = {path, path};
    struct dataset *d;
    struct window w;
    struct sequence *s;
    struct lh_err err = {0};

    (void)state;
    put_tokens(path, t, 3);
    job.data.train = (struct lh_strings){uris, 2}; /* the same file twice: six sequences */
    if (dataset_open(&job, NULL, 12, &d, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(dataset_windows(d), 6);
    assert_int_equal(dataset_tokens(d), 22);
    assert_false(dataset_has_documents(d));
    s = window_at(d, 0, &w);
    assert_int_equal(s->length, 4);
    assert_memory_equal(s->ids, ((int32_t[]){1, 2, 3, 4, 0, 0}), 24);
    assert_memory_equal(s->labels, ((int32_t[]){2, -100, 4, -100, -100, -100}), 24);
    assert_int_equal(s->n_labels, 2);
    assert_memory_equal(s->documents, ((int32_t[]){0, 0, 0, 0, 0, 0}), 24);
    s = window_at(d, 1, &w);
    assert_int_equal(s->n_labels, 0); /* labels[0] of a sequence is never a target */
    s = window_at(d, 2, &w);
    assert_int_equal(s->length, 3);
    assert_memory_equal(s->ids, ((int32_t[]){9, 10, 11, 0, 0, 0}), 24);
    assert_memory_equal(s->labels, ((int32_t[]){10, 11, -100, -100, -100, -100}), 24);
    s = window_at(d, 3, &w);
    assert_int_equal(s->ids[0], 1);
    s = window_at(d, 6 + 5, &w);
    assert_int_equal(s->ids[0], 9);
    dataset_close(d);
    scratch_free(dir);
}

static void documents_of_a_tokens_file_are_kept(void **state)
{
    const struct tensor t[] = {{"input_ids", 2, {3, 4, 0}, ids},
                               {"documents", 2, {3, 4, 0}, documents}};
    struct lh_job job = job_of(LH_DATA_TOKENS, LH_PACK_MASKED, 5);
    char *dir = scratch_new();
    const char *path = in_dir(dir, "a.safetensors"), *uris[1] = {path};
    struct dataset *d;
    struct window w;
    struct sequence *s;

    (void)state;
    put_tokens(path, t, 2);
    job.data.train = (struct lh_strings){uris, 1};
    assert_int_equal(dataset_open(&job, NULL, 12, &d, NULL), 0);
    assert_true(dataset_has_documents(d));
    s = window_at(d, 1, &w);
    assert_memory_equal(s->documents, ((int32_t[]){3, 3, 3, 3, 4}), 20);
    assert_memory_equal(s->labels, ((int32_t[]){6, 7, 8, -100, -100}),
                        20); /* no labels given: every token */
    dataset_close(d);
    job.data.pack = LH_PACK_JOIN;
    assert_int_equal(dataset_open(&job, NULL, 12, &d, NULL), 0);
    assert_false(dataset_has_documents(d));
    dataset_close(d);
    scratch_free(dir);
}

static void tokens_files_that_lie_are_refused(void **state)
{
    static const int64_t bad_documents[] = {0, 1, 0, 1, 3, 3, 3, 3, 0, 0, 1, 1};
    static const int64_t bad_lengths[] = {4, 5, 3},
                         bad_labels[] = {1, 2, 12, 4, -1, 2, 3, 4, 5, 6, 7, 8};
    static const int64_t negative[] = {1, 2, 3, 4, 5, -6, 7, 8, 9, 10, 11, 0};
    const struct {
        struct tensor t[2];
        unsigned n;
        int64_t vocab, length;
        const char *says;
    } cases[] = {
        {{{"labels", 2, {3, 4, 0}, labels}}, 1, 12, 4, "no tensor 'input_ids'"},
        {{{"input_ids", 2, {3, 4, 0}, ids}}, 1, 11, 4, "input_ids of sequence 2, token 2 is 11"},
        {{{"input_ids", 2, {3, 4, 0}, negative}}, 1, 12, 4, "sequence 1, token 1 is -6"},
        {{{"input_ids", 2, {3, 4, 0}, ids}},
         1,
         12,
         3,
         "sequences of 4 tokens, context.length is 3"},
        {{{"input_ids", 2, {3, 4, 0}, ids}, {"labels", 2, {3, 3, 0}, labels}},
         2,
         12,
         4,
         "'labels' has 9 elements"},
        {{{"input_ids", 2, {3, 4, 0}, ids}, {"labels", 2, {4, 3, 0}, labels}},
         2,
         12,
         4,
         "'labels'"},
        {{{"input_ids", 2, {3, 4, 0}, ids}, {"labels", 2, {3, 4, 0}, bad_labels}},
         2,
         12,
         4,
         "labels of sequence 0, token 2 is 12"},
        {{{"input_ids", 2, {3, 4, 0}, ids}, {"documents", 2, {3, 4, 0}, bad_documents}},
         2,
         12,
         4,
         "documents of sequence 0, token 2"},
        {{{"input_ids", 2, {3, 4, 0}, ids}, {"lengths", 1, {3, 0, 0}, bad_lengths}},
         2,
         12,
         4,
         "length of sequence 1 is 5"},
        {{{"input_ids", 2, {3, 0, 0}, ids}}, 1, 12, 4, "empty"},
    };
    char *dir = scratch_new();
    const char *path = in_dir(dir, "a.safetensors"), *uris[1] = {path};

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        struct lh_job job = job_of(LH_DATA_TOKENS, LH_PACK_MASKED, cases[i].length);
        struct dataset *d;
        struct lh_err err = {0};

        job.data.train = (struct lh_strings){uris, 1};
        put_tokens(path, cases[i].t, cases[i].n);
        assert_refused(dataset_open(&job, NULL, cases[i].vocab, &d, &err), &err, path);
        if (!strstr(err.text, cases[i].says))
            fail_msg("case %u should say '%s': %s", i, cases[i].says, err.text);
    }
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_epoch_holds_every_document_once_end_to_end),
        TEST(a_window_is_a_pure_function_of_its_index),
        TEST(labels_are_the_next_token_and_stop_at_documents_and_windows),
        TEST(without_packing_no_window_holds_two_documents),
        TEST(packed_windows_hold_whole_samples_and_every_one_once),
        TEST(samples_stand_alone_or_are_joined),
        TEST(packing_wastes_little),
        TEST(samples_that_do_not_fit_are_refused),
        TEST(data_that_does_not_fit_is_refused_with_the_numbers),
        TEST(damaged_shards_are_refused),
        TEST(tokens_files_are_taken_in_order_and_wrap),
        TEST(documents_of_a_tokens_file_are_kept),
        TEST(tokens_files_that_lie_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
