/* test_evaluate.c - passkey prompts, and kind eval in this process.
 *
 * What losses come to is compared with PyTorch by the golden case `evaluation`; here stand the
 * properties that hold for any texts, and what the passkey test counts. The sampler is wrapped: a
 * test may put words into the model's mouth, and sees the logits that it would have drawn from.
 */
#include "tests/unit/talking_model.h"
#include "worker/kinds/passkey_prompt.h"
#include "worker/model/rope.h"
#include "worker/model/sample.h"
#include "worker/run.h"
#include "worker/text/tokenizer.h"
#include <math.h>

/* ---- passkey prompts ---- */

static int count_of(const char *text, const char *word)
{
    int n = 0;

    for (const char *at = text; (at = strstr(at, word)); at += strlen(word))
        n++;
    return n;
}

/* JOB-45, of one prompt. A byte is a token here. */
static void check_prompt(const struct tokenizer *t, int64_t length, double depth, int64_t number)
{
    static const char filler[] = "The grass is green. The sky is blue. The sun is yellow. Here we "
                                 "go. There and back again.";
    struct passkey_prompt p = {0};
    char sentence[100], tail[20], *text, *answer, *hidden;
    size_t len;
    int before, all;

    assert_int_equal(passkey_prompt_make(t, length, depth, number, &p, NULL), 0);
    assert_int_equal(tokenizer_decode(t, p.ids.at, p.ids.n, &text, &len, NULL), 0);
    assert_int_equal(tokenizer_decode(t, p.answer.at, p.answer.n, &answer, &len, NULL), 0);
    assert_true((int64_t)(p.ids.n + p.answer.n) <= length);
    assert_true((int64_t)(p.ids.n + p.answer.n + strlen(filler) + 1) > length);
    (void)snprintf(sentence, sizeof(sentence),
                   "\nThe pass key is %d. Remember it. %d is the pass key.\n", (int)number,
                   (int)number);
    (void)snprintf(tail, sizeof(tail), " %d", (int)number);
    assert_string_equal(answer, tail);
    assert_int_equal(count_of(text, sentence), 1);
    assert_int_equal(count_of(text, tail), 2);
    hidden = strstr(text, sentence);
    all = count_of(text, filler);
    *hidden = '\0';
    before = count_of(text, filler);
    assert_int_equal(before, (int)llround(depth * all));
    assert_int_equal(before, p.before);
    assert_int_equal(all, p.before + p.after);
    assert_string_equal(hidden + 1 + strlen(hidden + 1) - 3, " is");
    free(text);
    free(answer);
    passkey_prompt_release(&p);
}

static void passkey_prompts_are_as_long_and_as_deep_as_asked(void **state)
{
    char dir[128];
    struct tokenizer *t;

    (void)state;
    (void)snprintf(dir, sizeof(dir), "%s", talking_model(3, -1));
    assert_int_equal(tokenizer_open(dir, &t, NULL), 0);
    for (uint64_t i = 0; i < 60; i++)
        check_prompt(t, 310 + (int64_t)((tiny_random(6, i) + 1) * 2000),
                     i < 5 ? (double)i / 4 : (tiny_random(7, i) + 1) / 2,
                     passkey_number(9, (int64_t)i));
    check_prompt(t, 700000, 0.3, 12345); /* the published generator ends at 449,999 characters */
    tokenizer_free(t);
    tiny_model_remove(dir);
}

static void passkey_numbers_have_five_digits_and_follow_from_the_seed(void **state)
{
    int same = 0, low = 0;

    (void)state;
    for (int64_t i = 0; i < 1000; i++) {
        int64_t number = passkey_number(5, i);

        assert_true(number >= 10000 && number <= 99999);
        assert_int_equal(passkey_number(5, i), number);
        same += passkey_number(6, i) == number || passkey_number(5, i + 1) == number;
        low += number < 55000;
    }
    assert_true(same < 5);
    assert_true(low > 400 && low < 600);
}

/* ---- the kind ---- */

/* What the wrapped sampler does. */
static struct {
    const int32_t *say; /* tokens to say, in turn; NULL: the likeliest */
    size_t n, at;
    struct tiny *whole; /* not NULL: compares logits with a whole pass over the prompt */
    struct passkey_prompt *prompts; /* of the trials, in turn */
    float *heard;                   /* not NULL: logits of the newest SHELF questions, in a ring */
} mouth;
#define SHELF 2

int32_t __real_sampler_next(struct sampler *s, const float *logits, uint64_t place, uint64_t index);
int32_t __wrap_sampler_next(struct sampler *s, const float *logits, uint64_t place, uint64_t index);

static int take_last(void *arg, const struct device *d, int64_t t0, struct kn_mat logits,
                     struct lh_err *reterr)
{
    (void)t0;
    d->ops->download(d->stream, arg, kn_rows(logits, logits.rows - 1, 1).p,
                     (uint64_t)logits.cols * sizeof(float));
    return d->ops->sync(d->stream, reterr);
}

static void compare_with_whole_pass(const float *logits)
{
    const struct token_list *ids = &mouth.prompts[mouth.at++].ids;
    static int32_t none[1024];
    float want[TALKING_VOCAB];
    struct llama_batch b = {.rows = 1,
                            .row_tokens = (int64_t)ids->n,
                            .ids = ids->at,
                            .labels = none,
                            .sink = {take_last, want}};
    double most = 0;

    assert_true(mouth.at <= mouth.n && ids->n <= LH_ARRAY_LEN(none));
    for (size_t i = 0; i < LH_ARRAY_LEN(none); i++)
        none[i] = -100;
    assert_int_equal(llama_eval(&mouth.whole->model, &b, NULL), 0);
    for (int i = 0; i < TALKING_VOCAB; i++)
        most = fmax(most, fabs((double)want[i]));
    for (int i = 0; i < TALKING_VOCAB; i++)
        if (!(fabs((double)logits[i] - (double)want[i]) <= 1e-5 * most))
            fail_msg("trial %d: logit %d is %g, a whole pass gives %g", (int)mouth.at - 1, i,
                     (double)logits[i], (double)want[i]);
}

int32_t __wrap_sampler_next(struct sampler *s, const float *logits, uint64_t place, uint64_t index)
{
    if (mouth.whole)
        compare_with_whole_pass(logits);
    if (mouth.heard)
        memcpy(mouth.heard + mouth.n++ % SHELF * TALKING_VOCAB, logits,
               TALKING_VOCAB * sizeof(*logits));
    if (!mouth.say)
        return __real_sampler_next(s, logits, place, index);
    assert_true(mouth.at < mouth.n);
    return mouth.say[mouth.at++];
}

static struct comm *everyone; /* MPI's, or a communicator of one */

/* Runs a job of kind eval, or as its members say. out: "" makes one for the while. */
static int run_job(const char *model, const char *members, const char *out, bool stop,
                   json_t **ret_result, struct lh_err *reterr)
{
    struct run r = {.ops = &kn_reference_ops, .threads = 1, .comm = everyone, .stop_wanted = stop};
    char *scratch = scratch_new();
    json_t *spec = json_of(members);
    struct lh_job *job;
    int rc;

    if (!json_object_get(spec, "kind"))
        json_object_set_new(spec, "kind", json_string("eval"));
    json_object_set_new(spec, "precision", json_string("fp32"));
    if (!json_object_get(spec, "model"))
        json_object_set_new(spec, "model", json_object());
    json_object_set_new(json_object_get(spec, "model"), "base", json_string(model));
    if (!json_object_get(spec, "context"))
        json_object_set_new(spec, "context", json_pack("{s:i}", "length", 64));
    if (lh_job_parse(spec, &job, NULL, reterr) < 0)
        fail_msg("%s: %s", reterr->pointer, reterr->text);
    json_decref(spec);
    assert_int_equal(lh_reporter_open(NULL, 0, &r.reporter, NULL), 0);
    r.job = job;
    r.out_dir = *out ? out : scratch;
    r.cache_dir = scratch;
    r.result = json_object();
    assert_int_equal(r.ops->stream_new(1, &r.stream, NULL), 0);
    rc = job->kind == LH_KIND_TRAIN ? kind_train(&r, reterr) : kind_eval(&r, reterr);
    if (ret_result)
        *ret_result = json_incref(r.result);
    json_decref(r.result);
    r.ops->stream_free(r.stream);
    lh_reporter_close(r.reporter);
    lh_job_free(job);
    scratch_free(scratch);
    return rc;
}

static int evaluate(const char *model, const char *members, bool stop, json_t **ret_result,
                    struct lh_err *reterr)
{
    return run_job(model, members, "", stop, ret_result, reterr);
}

#define GRID "'passkey':{'lengths':[500,420],'depths':[0.5,0,1],'trials':3,'seed':8}"
#define TRIALS 18 /* of the grid */

/* The prompts of this rank's trials, in their order. */
static unsigned make_prompts(const char *model, struct passkey_prompt *ret)
{
    static const int64_t lengths[] = {500, 420};
    static const double depths[] = {0.5, 0, 1};
    struct tokenizer *t;
    unsigned n = 0;

    assert_int_equal(tokenizer_open(model, &t, NULL), 0);
    for (int i = everyone->rank; i < TRIALS; i += everyone->size)
        assert_int_equal(passkey_prompt_make(t, lengths[i / 9], depths[i / 3 % 3],
                                             passkey_number(8, i % 3), &ret[n++], NULL),
                         0);
    tokenizer_free(t);
    return n;
}

/* JOB-46: what is kept from one prompt to the next changes nothing. */
static void every_prompt_is_read_as_by_a_pass_of_its_own(void **state)
{
    struct passkey_prompt prompts[TRIALS] = {0};
    struct lh_err err = {0};
    struct tiny whole;
    char dir[128];
    json_t *result;

    (void)state;
    (void)snprintf(dir, sizeof(dir), "%s", talking_model(3, -1));
    tiny_open(&whole, &(struct tiny_options){
                          .dir = dir, .ops = &kn_reference_ops, .rows = 1, .row_tokens = 512});
    memset(&mouth, 0, sizeof(mouth));
    mouth.whole = &whole;
    mouth.prompts = prompts;
    mouth.n = make_prompts(dir, prompts);
    if (evaluate(dir, "{'eval':{" GRID "}}", false, &result, &err) < 0)
        fail_msg("%s: %s", err.pointer, err.text);
    /* A model of random weights says something else at once, so each trial asks once. */
    assert_int_equal(mouth.at, mouth.n);
    json_decref(result);
    tiny_close(&whole);
    for (unsigned i = 0; i < TRIALS; i++)
        passkey_prompt_release(&prompts[i]);
    tiny_model_remove(dir);
}

/* Trial i answers right, or has its token number wrong_at(i) wrong. */
static int wrong_at(int i)
{
    return i % 4 == 3 ? -1 : i % 6;
}

static void a_trial_counts_when_all_tokens_are_those_of_the_answer(void **state)
{
    struct passkey_prompt prompts[TRIALS] = {0};
    struct lh_err err = {0};
    int32_t say[TRIALS * 8];
    unsigned n;
    char dir[128];
    json_t *result;
    const json_t *cells;

    (void)state;
    (void)snprintf(dir, sizeof(dir), "%s", talking_model(3, -1));
    memset(&mouth, 0, sizeof(mouth));
    n = make_prompts(dir, prompts);
    for (unsigned k = 0; k < n; k++) {
        int wrong = wrong_at(everyone->rank + (int)k * everyone->size);

        assert_int_equal(prompts[k].answer.n, 6); /* a space and five digits */
        for (int at = 0; at < 6 && (wrong < 0 || at <= wrong); at++)
            say[mouth.n++] = prompts[k].answer.at[at] + (at == wrong);
    }
    mouth.say = say;
    if (evaluate(dir, "{'eval':{" GRID "}}", false, &result, &err) < 0)
        fail_msg("%s: %s", err.pointer, err.text);
    assert_int_equal(mouth.at, mouth.n);
    cells = json_object_get(json_object_get(result, "passkey"), "cells");
    assert_int_equal(json_array_size(cells), 6);
    for (int i = 0; i < 6; i++) {
        const json_t *cell = json_array_get(cells, (size_t)i);
        int right = 0;

        for (int trial = 0; trial < 3; trial++)
            right += wrong_at(3 * i + trial) < 0;
        assert_int_equal(lh_json_i64(cell, "correct", -1), right);
        assert_int_equal(lh_json_i64(cell, "trials", -1), 3);
        assert_int_equal(lh_json_i64(cell, "length", -1), i < 3 ? 500 : 420);
        assert_true(lh_json_num(cell, "depth", -1) == (i % 3 == 0 ? 0.5 : i % 3 == 1 ? 0 : 1));
    }
    json_decref(result);
    for (unsigned i = 0; i < TRIALS; i++)
        passkey_prompt_release(&prompts[i]);
    tiny_model_remove(dir);
}

static void refused(const char *model, const char *members, int code, const char *pointer,
                    const char *words)
{
    struct lh_err err = {0};
    int rc = evaluate(model, members, false, NULL, &err);

    if (rc != code || strcmp(err.pointer, pointer) != 0 || !strstr(err.text, words))
        fail_msg("%s: %d at '%s': %s", members, rc, err.pointer, err.text);
}

/* JOB-44, 45, and what stops an evaluation. */
static void what_cannot_be_evaluated_is_refused_with_the_member(void **state)
{
    char model[128], job[400];
    int64_t ids[64] = {0};
    const struct st_entry entry = {"input_ids", ST_I64, 2, {1, 64}};
    struct st_writer *w;
    struct lh_err err = {0};

    (void)state;
    memset(&mouth, 0, sizeof(mouth));
    (void)snprintf(model, sizeof(model), "%s", talking_model(3, -1));
    assert_int_equal(st_create(in_dir(model, "tokens.safetensors"), &entry, 1, NULL, &w, NULL), 0);
    assert_int_equal(st_write(w, ids, sizeof(ids), NULL), 0);
    assert_int_equal(st_finish(w, NULL), 0);
    (void)snprintf(job, sizeof(job),
                   "{'eval':{'perplexity':['%s/tokens.safetensors'],'mode':'stride'}}", model);
    refused(model, job, LH_EINPUT, "/eval/perplexity", "the longest has 64");
    (void)snprintf(job, sizeof(job),
                   "{'eval':{'perplexity':['%s/tokens.safetensors'],"
                   "'ropes':['shipped',{'type':'llama3','factor':2}]}}",
                   model);
    refused(model, job, LH_EJOB, "/eval/ropes/1", "llama3");
    refused(model, "{'eval':{'passkey':{'lengths':[400,250]}}}", LH_EJOB, "/eval/passkey/lengths/1",
            "without any filler");
    assert_int_equal(evaluate(model, "{'eval':{'passkey':{'lengths':[400]}}}", true, NULL, &err),
                     LH_ESTOPPED);
    tiny_model_remove(model);
}

static double nll_at(const json_t *result, size_t i)
{
    const json_t *lengths = json_object_get(json_object_get(result, "eval"), "lengths");

    return lh_json_num(json_array_get(lengths, i), "nll", -1);
}

/* JOB-53: windows that go through the model together have the losses that they have alone: a
 * context of 64 leaves room for three of 20 tokens, one of 20 for none. The last of a text are
 * shorter. */
static void windows_have_the_same_losses_together_as_alone(void **state)
{
    static const char *const modes[] = {"'stride'", "'sliding'", "'compatible','join':true"};
    char model[128], job[500];

    (void)state;
    (void)snprintf(model, sizeof(model), "%s", talking_model(4, -1));
    put_file(model, "text.txt",
             "The morning was dull and it rained, so that nobody went out who had no need to, "
             "and the few that had were quick about it.");
    for (size_t i = 0; i < LH_ARRAY_LEN(modes); i++) {
        json_t *result[2];

        for (int k = 0; k < 2; k++) {
            struct lh_err err = {0};

            (void)snprintf(job, sizeof(job),
                           "{'context':{'length':%d},'eval':{'perplexity':['%s/text.txt'],"
                           "'lengths':[20,8],'stride':3,'mode':%s}}",
                           k == 0 ? 64 : 20, model, modes[i]);
            if (evaluate(model, job, false, &result[k], &err) < 0)
                fail_msg("%s: %s", err.pointer, err.text);
        }
        if (everyone->rank == 0 &&
            !json_equal(json_object_get(result[0], "eval"), json_object_get(result[1], "eval")))
            fail_msg("mode %s: %s and %s", modes[i], lh_json_text(result[0], 0),
                     lh_json_text(result[1], 0));
        json_decref(result[0]);
        json_decref(result[1]);
    }
    tiny_model_remove(model);
}

/* The same figures from a train job's last evaluation and from an evaluation of its checkpoint:
 * windows in another mode and passkeys, by a model whose memory is laid out for training. */
static void a_train_job_evaluates_as_an_eval_job_does(void **state)
{
    static const char evaluation[] = "'eval':{'perplexity':['%s/text.txt'],'mode':'sliding',"
                                     "'stride':9,'lengths':[64,20],'windows':20,"
                                     "'passkey':{'lengths':[340],'depths':[0.4],'trials':2}%s}";
    float trained[SHELF * TALKING_VOCAB], checked[SHELF * TALKING_VOCAB];
    char model[128], eval[300], job[900];
    json_t *first, *second;
    struct lh_err err = {0};
    double most = 0;

    (void)state;
    if (everyone->size > 1)
        skip(); /* ranks share the directory of neither run */
    memset(&mouth, 0, sizeof(mouth));
    (void)snprintf(model, sizeof(model), "%s", talking_model(3, -1));
    put_file(model, "text.txt",
             "It was a bright cold day in April, and the clocks were striking "
             "thirteen. It was nine seventeen in the morning, the house was "
             "heavy, and nobody was in it but the two of them and a cat.");
    (void)snprintf(eval, sizeof(eval), evaluation, model, ",'every_steps':1");
    (void)snprintf(job, sizeof(job),
                   "{'kind':'train','data':{'train':['%s/text.txt']},'context':{'length':64},"
                   "'optim':{'lr':0.02,'steps':2,'warmup_steps':0},%s}",
                   model, eval);
    mouth.heard = trained;
    if (run_job(model, job, model, false, &first, &err) < 0)
        fail_msg("%s: %s", err.pointer, err.text);
    assert_int_equal(mouth.n,
                     4); /* after step 1 and at the end, once: every trial is wrong at once */
    (void)snprintf(eval, sizeof(eval), evaluation, model, "");
    (void)snprintf(job, sizeof(job), "{'model':{'adapter':'%s/checkpoints/step-00000002'},%s}",
                   model, eval);
    mouth.heard = checked;
    if (evaluate(model, job, false, &second, &err) < 0)
        fail_msg("%s: %s", err.pointer, err.text);
    assert_int_equal(mouth.n, 6);
    for (int i = 0; i < SHELF * TALKING_VOCAB; i++)
        most = fmax(most, fabs((double)checked[i]));
    for (int i = 0; i < SHELF * TALKING_VOCAB; i++)
        assert_true(fabs((double)trained[i] - (double)checked[i]) <= 1e-5 * most);
    for (size_t i = 0; i < 2; i++) {
        assert_true(nll_at(first, i) > 1);
        assert_true(fabs(nll_at(first, i) - nll_at(second, i)) < 1e-6);
    }
    assert_true(json_equal(json_object_get(first, "passkey"), json_object_get(second, "passkey")));
    json_decref(first);
    json_decref(second);
    tiny_model_remove(model);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(passkey_prompts_are_as_long_and_as_deep_as_asked),
        TEST(passkey_numbers_have_five_digits_and_follow_from_the_seed),
        TEST(every_prompt_is_read_as_by_a_pass_of_its_own),
        TEST(a_trial_counts_when_all_tokens_are_those_of_the_answer),
        TEST(what_cannot_be_evaluated_is_refused_with_the_member),
        TEST(windows_have_the_same_losses_together_as_alone),
        TEST(a_train_job_evaluates_as_an_eval_job_does),
    };
    struct lh_err err = {0};
    int failed;

    if (comm_mpi_new(&argc, &argv, &everyone, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed && everyone->size > 1)
        everyone->ops->abort(everyone, 1);
    everyone->ops->free(everyone);
    return failed;
}
