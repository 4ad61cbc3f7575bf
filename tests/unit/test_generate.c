/* test_generate.c - kept keys and values against full passes, draws, and kind generate in this
 * process. */
#include "tests/unit/talking_model.h"
#include "worker/kinds/texts.h"
#include "worker/model/cache.h"
#include "worker/model/rope.h"
#include "worker/model/sample.h"
#include "worker/run.h"
#include "worker/text/tokenizer.h"
#include "worker/text/utf8.h"
#include <math.h>

#define TOKENS 23
#define VOCAB TALKING_VOCAB

static const struct tiny_shape grouped = {2, 20, 6, 3, 4, 28, 37, true},
                               untied = {3, 16, 3, 1, 8, 24, 29, false};

/* ---- the cache ---- */

struct taker {
    float *out;
    int64_t V;
};

static int take(void *arg, const struct device *d, int64_t t0, struct kn_mat logits,
                struct lh_err *reterr)
{
    struct taker *t = arg;

    d->ops->download(d->stream, t->out + t0 * t->V, logits.p,
                     (uint64_t)(logits.rows * t->V) * sizeof(float));
    return d->ops->sync(d->stream, reterr);
}

/* A model over `dir` without anything that trains; cache 0: for whole passes. */
struct loaded {
    struct model_source *source;
    struct kn_stream *stream;
    struct llama model;
};

static void load(struct loaded *l, const char *dir, const struct kn_ops *ops, enum kn_dtype dtype,
                 int64_t tokens, int64_t cache)
{
    const struct params_spec spec = {.dtype = dtype};
    struct llama_options o = {
        .params = &spec, .tokens = tokens, .row_tokens = LH_MAX(tokens, cache), .cache = cache};
    double inv_freq[64], scaling;

    *l = (struct loaded){0};
    assert_int_equal(model_source_open(dir, &l->source, NULL), 0);
    o.config = model_source_config(l->source);
    assert_int_equal(rope_frequencies(&o.config->rope, o.config, 64, inv_freq, &scaling, NULL), 0);
    assert_int_equal(ops->stream_new(2, &l->stream, NULL), 0);
    assert_int_equal(llama_init(&o, &l->model, NULL), 0);
    assert_int_equal(
        llama_load(&l->model, ops, l->stream, l->source, NULL, 0, inv_freq, scaling, NULL), 0);
}

static void unload(struct loaded *l)
{
    const struct kn_ops *ops = l->model.device.ops;

    llama_release(&l->model);
    ops->stream_free(l->stream);
    model_source_close(l->source);
}

static void random_ids(int32_t *ids, int64_t n, int64_t vocab, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((tiny_random(seed, (uint64_t)i) + 1) / 2 * (double)vocab);
}

/* Logits behind every token, in one pass. */
static void whole_pass(struct loaded *l, const int32_t *ids, int64_t n, float *logits)
{
    struct taker taker = {logits, l->model.dims.V};
    int32_t labels[64];
    const struct llama_batch b = {
        .rows = 1, .row_tokens = n, .ids = ids, .labels = labels, .sink = {take, &taker}};

    for (int64_t i = 0; i < n; i++)
        labels[i] = -100;
    assert_int_equal(llama_eval(&l->model, &b, NULL), 0);
}

static void close_to(const float *got, const float *want, int64_t n, double limit)
{
    double most = 0;

    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= limit * most))
            fail_msg("logit %d is %g, a whole pass gives %g", (int)i, (double)got[i],
                     (double)want[i]);
}

/* In pieces of any size, over chunks of 4 tokens: the logits are those of one pass over the text.
 */
static void check_cache(const struct tiny_shape *shape, const struct kn_ops *ops,
                        enum kn_dtype dtype, double limit)
{
    static const int64_t pieces[][6] = {
        {23}, {1, 22}, {5, 4, 4, 1, 1, 8}, {12, 1, 1, 1, 8}, {2, 13, 8}};
    const char *dir = tiny_model_write(shape, 31);
    int64_t V = shape->vocab;
    float *want = malloc((size_t)(TOKENS * V) * sizeof(*want)), *got = malloc(4096);
    struct loaded full, cached;
    int32_t ids[TOKENS];

    load(&full, dir, ops, dtype, TOKENS, 0);
    load(&cached, dir, ops, dtype, 4, TOKENS + 2);
    random_ids(ids, TOKENS, V, 77);
    whole_pass(&full, ids, TOKENS, want);
    for (unsigned k = 0; k < LH_ARRAY_LEN(pieces); k++) {
        struct cache c = {.model = &cached.model};

        for (unsigned i = 0; i < 6 && pieces[k][i] > 0; i++) {
            assert_int_equal(cache_append(&c, ids + c.used, pieces[k][i], got, NULL), 0);
            close_to(got, want + (c.used - 1) * V, V, limit);
        }
        assert_int_equal(c.used, TOKENS);
    }
    free(want);
    free(got);
    unload(&full);
    unload(&cached);
    tiny_model_remove(dir);
}

static void kept_keys_give_the_logits_of_a_whole_pass(void **state)
{
    (void)state;
    check_cache(&grouped, &kn_reference_ops, KN_F32, 1e-6);
    check_cache(&untied, &kn_reference_ops, KN_F32, 1e-6);
    check_cache(&grouped, &kn_cpu_ops, KN_F32, 1e-5);
    check_cache(&untied, &kn_cpu_ops, KN_F32, 1e-5);
    check_cache(&grouped, &kn_cpu_ops, KN_BF16, 3e-2);
}

static void a_rewound_cache_has_forgotten(void **state)
{
    const char *dir = tiny_model_write(&untied, 32);
    float once[29], again[29], other[29];
    struct loaded l;
    struct cache c = {.model = &l.model};
    int32_t ids[2][8];

    (void)state;
    load(&l, dir, &kn_reference_ops, KN_F32, 4, 16);
    random_ids(ids[0], 8, 29, 1);
    random_ids(ids[1], 8, 29, 2);
    memcpy(ids[1], ids[0], 3 * sizeof(ids[0][0])); /* a common beginning */
    assert_int_equal(cache_append(&c, ids[0], 8, once, NULL), 0);
    cache_rewind(&c, 3);
    assert_int_equal(cache_append(&c, ids[1] + 3, 5, other, NULL), 0);
    assert_true(memcmp(once, other, sizeof(once)) != 0);
    cache_rewind(&c, 0);
    assert_int_equal(cache_append(&c, ids[0], 8, again, NULL), 0);
    assert_memory_equal(once, again, sizeof(once));
    unload(&l);
    tiny_model_remove(dir);
}

static void the_plan_counts_the_cache(void **state)
{
    const char *dir = tiny_model_write(&grouped, 1);
    struct loaded none, some;

    (void)state;
    load(&none, dir, &kn_reference_ops, KN_F32, 4, 0);
    load(&some, dir, &kn_reference_ops, KN_F32, 4, 1000);
    assert_int_equal(none.model.plan.bytes[PLAN_CACHE], 0);
    /* 2 layers, keys and values, 3 heads of 4 */
    assert_in_range(some.model.plan.bytes[PLAN_CACHE], 2 * 2 * 1000 * 12 * 4,
                    2 * 2 * 1000 * 12 * 4 + 128);
    unload(&none);
    unload(&some);
    tiny_model_remove(dir);
}

/* ---- draws ---- */

static int32_t draw(double temperature, double top_p, uint64_t seed, const float *logits, int64_t V,
                    uint64_t place, uint64_t index)
{
    struct sampler s = {.temperature = temperature, .top_p = top_p, .seed = seed, .V = V};
    int32_t id;

    assert_int_equal(sampler_init(&s, NULL), 0);
    id = sampler_next(&s, logits, place, index);
    sampler_release(&s);
    return id;
}

static void greedy_takes_the_first_of_the_largest(void **state)
{
    const float logits[] = {-1, 3, 2, 3, -INFINITY};

    (void)state;
    assert_int_equal(draw(0, 1, 5, logits, 5, 0, 0), 1);
    assert_int_equal(draw(1e-6, 0.5, 5, logits, 1, 0, 0), 0);
}

static void logits_that_are_no_numbers_are_told(void **state)
{
    const float nan_in[] = {1, NAN, 2}, infinite[] = {1, INFINITY, 2};
    const float none[] = {-INFINITY, -INFINITY};

    (void)state;
    for (int t = 0; t < 2; t++) {
        assert_int_equal(draw(t, 0.9, 1, nan_in, 3, 0, 0), -1);
        assert_int_equal(draw(t, 0.9, 1, infinite, 3, 0, 0), -1);
        assert_int_equal(draw(t, 0.9, 1, none, 2, 0, 0), -1);
    }
}

/* Frequencies of n draws lie within five standard deviations of what is expected. */
static void check_frequencies(double temperature, double top_p, const double *expected,
                              const float *logits, int64_t V)
{
    const int n = 20000;
    int count[8] = {0};

    for (int i = 0; i < n; i++)
        count[draw(temperature, top_p, 3, logits, V, (uint64_t)i % 7, (uint64_t)i / 7)]++;
    for (int64_t k = 0; k < V; k++) {
        double mean = n * expected[k], spread = sqrt(n * expected[k] * (1 - expected[k]));

        if (fabs(count[k] - mean) > 5 * spread)
            fail_msg("temperature %g, top_p %g: token %d came %d times, not about %g", temperature,
                     top_p, (int)k, count[k], mean);
    }
}

static void draws_follow_the_model_its_temperature_and_the_nucleus(void **state)
{
    /* Probabilities 0.1, 0.4, 0.05, 0.3, 0, 0.15 at temperature 1. */
    const float logits[] = {logf(0.1f), logf(0.4f), logf(0.05f),
                            logf(0.3f), -INFINITY,  logf(0.15f)};
    const double plain[] = {0.1, 0.4, 0.05, 0.3, 0, 0.15};
    /* Squares of them, normalised. */
    const double cold[] = {0.01 / 0.285,  0.16 / 0.285, 0.0025 / 0.285, 0.09 / 0.285, 0,
                           0.0225 / 0.285};
    const double half[] = {0, 0.4 / 0.7, 0, 0.3 / 0.7, 0, 0}, first[] = {0, 1, 0, 0, 0, 0};
    const double most[] = {0, 0.4 / 0.85, 0, 0.3 / 0.85, 0, 0.15 / 0.85};

    (void)state;
    check_frequencies(1, 1, plain, logits, 6);
    check_frequencies(0.5, 1, cold, logits, 6);
    check_frequencies(1, 0.5, half, logits, 6);
    check_frequencies(1, 0.8, most, logits, 6);
    check_frequencies(1, 0.39, first, logits, 6);
    check_frequencies(1, 1e-9, first, logits, 6);
}

static void a_draw_depends_on_seed_place_and_index_alone(void **state)
{
    float logits[64];
    int other_seed = 0, other_place = 0, other_index = 0;

    (void)state;
    for (int i = 0; i < 64; i++)
        logits[i] = (float)tiny_random(4, (uint64_t)i);
    for (uint64_t i = 0; i < 50; i++) {
        int32_t id = draw(1, 0.9, 8, logits, 64, 2, i);

        assert_int_equal(draw(1, 0.9, 8, logits, 64, 2, i), id);
        other_seed += draw(1, 0.9, 9, logits, 64, 2, i) != id;
        other_place += draw(1, 0.9, 8, logits, 64, 3, i) != id;
        other_index += draw(1, 0.9, 8, logits, 64, 2, i + 1000) != id;
    }
    assert_true(other_seed > 30 && other_place > 30 && other_index > 30);
}

/* ---- the kind ---- */

static int generate(const char *model, const char *members, const char *out, json_t **ret_result,
                    struct lh_err *reterr)
{
    struct run r = {.ops = &kn_reference_ops, .threads = 1, .out_dir = out};
    json_t *spec = json_of(members);
    struct lh_job *job;
    int rc;

    json_object_set_new(spec, "kind", json_string("generate"));
    json_object_set_new(spec, "precision", json_string("fp32"));
    json_object_set_new(spec, "model", json_pack("{s:s}", "base", model));
    if (lh_job_parse(spec, &job, NULL, reterr) < 0)
        fail_msg("%s: %s", reterr->pointer, reterr->text);
    json_decref(spec);
    assert_int_equal(comm_self_new(&r.comm, NULL), 0);
    assert_int_equal(lh_reporter_open(NULL, 0, &r.reporter, NULL), 0);
    r.job = job;
    r.result = json_object();
    assert_int_equal(r.ops->stream_new(1, &r.stream, NULL), 0);
    rc = kind_generate(&r, reterr);
    *ret_result = r.result;
    r.ops->stream_free(r.stream);
    lh_reporter_close(r.reporter);
    r.comm->ops->free(r.comm);
    lh_job_free(job);
    return rc;
}

static json_t *texts_of(const char *model, const char *members, const char *out)
{
    struct lh_err err = {0};
    json_t *result, *texts;

    if (generate(model, members, out, &result, &err) < 0)
        fail_msg("%s: %s", err.pointer, err.text);
    texts = json_incref(json_object_get(result, "texts"));
    json_decref(result);
    return texts;
}

static const char *text_at(const json_t *texts, size_t i)
{
    return lh_json_str(json_array_get(texts, i), "text", "");
}

/* The likeliest ids behind a prompt by whole passes, the text growing by one each. */
static void greedy_by_whole_passes(const char *model, const char *prompt, int32_t *ids, int n)
{
    float *logits = malloc(64 * VOCAB * sizeof(*logits));
    int64_t len = (int64_t)strlen(prompt);
    int32_t all[64];
    struct loaded l;

    load(&l, model, &kn_reference_ops, KN_F32, 64, 0);
    for (int64_t i = 0; i < len; i++)
        all[i] = (uint8_t)prompt[i]; /* the id of a byte is its value */
    for (int k = 0; k < n; k++) {
        const float *last = logits + (len + k - 1) * VOCAB;

        whole_pass(&l, all, len + k, logits);
        ids[k] = 0;
        for (int32_t v = 1; v < TALKING_TOKENS; v++) /* the rows above are no tokens */
            ids[k] = last[v] > last[ids[k]] ? v : ids[k];
        all[len + k] = ids[k];
    }
    free(logits);
    unload(&l);
}

/* JOB-36: the text, and where it ends. */
static void a_greedy_text_is_that_of_whole_passes_and_ends_where_it_should(void **state)
{
    char *out = scratch_new(), model[128];
    struct tokenizer *t;
    struct lh_err err = {0};
    int32_t ids[12];
    char *want, *lossy;
    size_t len;
    json_t *texts;
    const json_t *first;
    int different = 0;

    (void)state;
    (void)snprintf(model, sizeof(model), "%s", talking_model(3, -1));
    greedy_by_whole_passes(model, "To be or not", ids, 12);
    for (int k = 1; k < 12; k++)
        different += ids[k] != ids[k - 1];
    assert_int_equal(tokenizer_open(model, &t, &err), 0);
    assert_int_equal(tokenizer_decode(t, ids, 12, &want, &len, &err), 0);
    texts = texts_of(model, "{'generate':{'prompts':['To be or not'],'max_tokens':12}}", out);
    first = json_array_get(texts, 0);
    assert_int_equal(lh_json_i64(first, "tokens", 0), 12);
    assert_int_equal(lh_json_i64(first, "prompt_tokens", 0), 12);
    assert_string_equal(lh_json_str(first, "ended", ""), "max_tokens");
    lossy = utf8_lossy(want, len, &len);
    assert_string_equal(text_at(texts, 0), lossy);
    free(lossy);
    free(want);
    json_decref(texts);
    /* The window is full after 5 tokens. */
    texts =
        texts_of(model, "{'context':{'length':17},'generate':{'prompts':['To be or not']}}", out);
    assert_string_equal(lh_json_str(json_array_get(texts, 0), "ended", ""), "length");
    assert_int_equal(lh_json_i64(json_array_get(texts, 0), "tokens", 0), 5);
    json_decref(texts);
    tiny_model_remove(model);
    assert_true(different > 3);
    /* Any of them as the end-of-text token ends the text where it comes first. */
    for (int k = 0; k < 12; k++) {
        int seen = 0;

        while (ids[seen] != ids[k])
            seen++;
        (void)snprintf(model, sizeof(model), "%s", talking_model(3, ids[k]));
        texts = texts_of(model, "{'generate':{'prompts':['To be or not'],'max_tokens':12}}", out);
        assert_string_equal(lh_json_str(json_array_get(texts, 0), "ended", ""), "eos");
        assert_int_equal(lh_json_i64(json_array_get(texts, 0), "tokens", -1), seen);
        json_decref(texts);
        tiny_model_remove(model);
    }
    tokenizer_free(t);
    scratch_free(out);
}

/* JOB-36: neither the other prompts nor the seed of another run change a draw. */
static void a_drawn_text_depends_on_its_seed_and_place(void **state)
{
    char *out = scratch_new();
    const char *model = talking_model(5, -1);
    json_t *a = texts_of(model,
                         "{'generate':{'prompts':['alpha','beta','alpha'],'max_tokens':20,"
                         "'temperature':1,'top_p':0.95,'seed':4}}",
                         out);
    json_t *b = texts_of(model,
                         "{'generate':{'prompts':['alpha','a rather long other prompt','x'],"
                         "'max_tokens':20,'temperature':1,'top_p':0.95,'seed':4}}",
                         out);
    json_t *c = texts_of(model,
                         "{'generate':{'prompts':['alpha'],'max_tokens':20,'temperature':1,"
                         "'top_p':0.95,'seed':5}}",
                         out);

    (void)state;
    assert_string_equal(text_at(a, 0), text_at(b, 0));
    assert_string_not_equal(text_at(a, 0), text_at(a, 2)); /* the same prompt, drawn again */
    assert_string_not_equal(text_at(a, 0), text_at(c, 0));
    json_decref(a);
    json_decref(b);
    json_decref(c);
    scratch_free(out);
    tiny_model_remove(model);
}

/* JOB-37. No model is asked: what counts is how much text there is. */
static void texts_too_long_for_a_report_are_whole_in_their_file(void **state)
{
    char *out = scratch_new(), *file, words[601];
    const char *prompts[256];
    struct text texts[256];
    struct lh_job job = {.generate.prompts = {.at = prompts, .n = 256}};
    struct run r = {.job = &job, .out_dir = out, .result = json_object()};
    json_t *report, *line = NULL;

    (void)state;
    memset(words, 'w', 600);
    words[600] = '\0';
    for (int i = 0; i < 256; i++) {
        prompts[i] = "p";
        texts[i] = (struct text){.len = 600, .tokens = 600, .prompt_tokens = 1, .text = words};
    }
    assert_int_equal(texts_report(&r, texts, 256, NULL), 0);
    report = json_object_get(r.result, "texts");
    assert_int_equal(json_array_size(report), 256);
    assert_true(json_is_true(json_object_get(json_array_get(report, 255), "cut")));
    assert_int_equal(strlen(text_at(report, 0)), 512);
    file = get_file(out, "texts.jsonl");
    file[strcspn(file, "\n")] = '\0';
    assert_int_equal(lh_json_parse(file, strlen(file), 8, &line, NULL), 0);
    assert_string_equal(lh_json_str(line, "prompt", ""), "p");
    assert_string_equal(lh_json_str(line, "text", ""), words);
    json_decref(line);
    free(file);
    json_decref(r.result);
    scratch_free(out);
}

static void prompts_that_do_not_fit_are_named(void **state)
{
    char *out = scratch_new();
    const char *model = talking_model(7, -1);
    struct lh_err err = {0};
    json_t *result;

    (void)state;
    assert_int_equal(generate(model,
                              "{'context':{'length':4},'generate':{'prompts':['abc','abcd']}}", out,
                              &result, &err),
                     LH_EJOB);
    assert_string_equal(err.pointer, "/generate/prompts/1");
    assert_non_null(strstr(err.text, "4 tokens"));
    json_decref(result);
    assert_int_equal(remove(in_dir(model, "tokenizer.json")), 0);
    assert_int_equal(generate(model, "{'generate':{'prompts':['abc']}}", out, &result, &err),
                     LH_EINPUT);
    assert_non_null(strstr(err.text, "tokenizer.json"));
    json_decref(result);
    scratch_free(out);
    tiny_model_remove(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kept_keys_give_the_logits_of_a_whole_pass),
        TEST(a_rewound_cache_has_forgotten),
        TEST(the_plan_counts_the_cache),
        TEST(greedy_takes_the_first_of_the_largest),
        TEST(logits_that_are_no_numbers_are_told),
        TEST(draws_follow_the_model_its_temperature_and_the_nucleus),
        TEST(a_draw_depends_on_seed_place_and_index_alone),
        TEST(a_greedy_text_is_that_of_whole_passes_and_ends_where_it_should),
        TEST(a_drawn_text_depends_on_its_seed_and_place),
        TEST(texts_too_long_for_a_report_are_whole_in_their_file),
        TEST(prompts_that_do_not_fit_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
