/* held_out.c - see held_out.h. Which windows there are is arithmetic on the lengths of the spans;
 * only held_out_take reads tokens. */
#include "worker/kinds/held_out.h"
#include "worker/data/spans.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_LENGTH 2048

int64_t held_out_length(const struct lh_lengths *asked, int64_t context, unsigned i)
{
    int64_t length = FIRST_LENGTH;

    if (asked->n > 0)
        return i < asked->n ? asked->at[i] : 0;
    for (; i > 0 && length < context; i--)
        length *= 2;
    return i > 0 ? 0 : LH_MIN(length, context);
}

static void take_lengths(struct held_out *h)
{
    const struct lh_job *job = h->job;
    int64_t length;

    while (h->n_lengths < LH_EVAL_LENGTHS_MAX &&
           (length = held_out_length(&job->eval.lengths, job->context.length, h->n_lengths)) > 0) {
        h->longest = LH_MAX(h->longest, length);
        h->shortest = h->n_lengths == 0 ? length : LH_MIN(h->shortest, length);
        h->lengths[h->n_lengths++] = length;
    }
    assert(h->n_lengths > 0);
    /* A window of mode prefixes is as long as the context, whatever is reported of it. */
    if (job->eval.mode == LH_EVAL_PREFIXES)
        h->longest = h->shortest = job->context.length;
}

/* ---- spans ---- */

static uint64_t span_begin(const struct held_out *h, uint64_t span)
{
    if (h->tokens)
        return h->token_spans.begin[span];
    if (h->job->eval.join)
        return span == 0 ? 0 : h->shards.n_tokens;
    return shards_document(&h->shards, span);
}

uint64_t held_out_tokens(const struct held_out *h)
{
    return h->tokens ? h->token_spans.n_tokens : h->shards.n_tokens;
}

static uint64_t span_tokens(const struct held_out *h, uint64_t span)
{
    return span_begin(h, span + 1) - span_begin(h, span);
}

/* Starts 0, S, 2S, ... below n - length; eval.py of LongLoRA leaves the last of them out. */
static uint64_t strides(const struct held_out *h, uint64_t length, uint64_t n)
{
    uint64_t S = (uint64_t)h->job->eval.stride, count = n > length ? (n - length + S - 1) / S : 0;

    return h->job->eval.mode == LH_EVAL_COMPATIBLE && count > 0 ? count - 1 : count;
}

uint64_t held_out_count(const struct held_out *h, int64_t length, uint64_t n)
{
    uint64_t T = (uint64_t)length, S = (uint64_t)h->job->eval.stride;

    switch (h->job->eval.mode) {
    case LH_EVAL_PREFIXES:
        return n / T;
    case LH_EVAL_STRIDE:
    case LH_EVAL_COMPATIBLE:
        return strides(h, T, n);
    case LH_EVAL_SLIDING:
        return n < 2 ? 0 : n <= T ? 1 : 1 + (n - T + S - 1) / S;
    }
    return 0;
}

/* The length whose windows are numbered in a round. All windows of a longer length begin where
 * windows of a shorter one do, so the shortest numbers all; but with eval.windows the same windows
 * serve all lengths, and those are the longest's. */
static int64_t round_length(const struct held_out *h)
{
    if (h->job->eval.mode == LH_EVAL_SLIDING)
        return h->lengths[h->round];
    return h->job->eval.windows > 0 ? h->longest : h->shortest;
}

unsigned held_out_rounds(const struct held_out *h)
{
    return h->job->eval.mode == LH_EVAL_SLIDING ? h->n_lengths : 1;
}

void held_out_begin(struct held_out *h, unsigned round)
{
    assert(round < held_out_rounds(h));
    h->round = round;
    for (uint64_t i = 0; i < h->n_spans; i++)
        h->first[i + 1] = h->first[i] + held_out_count(h, round_length(h), span_tokens(h, i));
}

static int64_t all_windows(const struct held_out *h)
{
    return h->in_rows ? dataset_windows(h->tokens) : (int64_t)h->first[h->n_spans];
}

int64_t held_out_windows(const struct held_out *h)
{
    int64_t n = all_windows(h), most = h->job->eval.windows;

    return most > 0 ? LH_MIN(n, most) : n;
}

bool held_out_has_documents(const struct held_out *h)
{
    return h->in_rows && dataset_has_documents(h->tokens);
}

/* ---- opening ---- */

static int check_longest(const struct held_out *h, struct lh_err *reterr)
{
    uint64_t longest = 0, windows = 0;

    for (uint64_t i = 0; i < h->n_spans; i++) {
        longest = LH_MAX(longest, span_tokens(h, i));
        windows += held_out_count(h, h->longest, span_tokens(h, i));
    }
    /* Sliding windows may be shorter; without one that is not, the length would not be measured. */
    if (windows > 0 && (h->job->eval.mode != LH_EVAL_SLIDING || longest >= (uint64_t)h->longest))
        return 0;
    return lh_err_at(reterr, LH_EINPUT, "/eval/perplexity",
                     "no text for evaluation has %lld tokens%s, the longest has %llu; give longer "
                     "texts, a smaller context or eval.join",
                     (long long)h->longest,
                     h->job->eval.mode == LH_EVAL_STRIDE       ? " and one more"
                     : h->job->eval.mode == LH_EVAL_COMPATIBLE ? " and some more"
                                                               : "",
                     (unsigned long long)longest);
}

/* The spans are known. */
static int begin(struct held_out *h, uint64_t n_spans, struct lh_err *reterr)
{
    h->n_spans = n_spans;
    h->first = calloc(n_spans + 1, sizeof(*h->first));
    if (!h->first)
        return lh_err_set(reterr, -ENOMEM, "the windows for evaluation");
    held_out_begin(h, 0);
    return check_longest(h, reterr);
}

/* Sequences are windows where windows are whole and lie end to end; else they are texts of any
 * length. */
static int open_tokens(struct held_out *h, int64_t vocab, struct lh_err *reterr)
{
    int rc;

    h->in_rows = h->job->eval.mode == LH_EVAL_PREFIXES && !h->job->eval.join;
    h->tokens_job = *h->job;
    h->tokens_job.data.format = LH_DATA_TOKENS;
    h->tokens_job.data.train = h->job->eval.perplexity;
    h->tokens_job.optim.batch_sequences = 1;
    if (!h->in_rows)
        h->tokens_job.context.length = INT32_MAX;
    rc = dataset_open(&h->tokens_job, NULL, vocab, &h->tokens, reterr);
    if (rc < 0 || h->in_rows)
        return rc;
    rc = token_spans_open(h->tokens, h->job->eval.join, &h->token_spans, reterr);
    return rc < 0 ? rc : begin(h, h->token_spans.n, reterr);
}

static int open_shards(struct held_out *h, const char *dir, int64_t vocab, struct lh_err *reterr)
{
    int rc = shards_open(dir, &h->shards, reterr);

    if (rc < 0)
        return rc;
    h->has_shards = true;
    if (h->shards.max_id >= vocab)
        return lh_err_at(reterr, LH_EINPUT, "/eval/perplexity",
                         "'%s' has token id %lld, the model's vocabulary has %lld; tokenizer and "
                         "model do not belong together",
                         dir, (long long)h->shards.max_id, (long long)vocab);
    return begin(h, h->job->eval.join ? 1 : h->shards.n_documents, reterr);
}

int held_out_open(const struct lh_job *job, const char *shard_dir, int64_t vocab,
                  struct held_out **ret_held_out, struct lh_err *reterr)
{
    LH_CLEANUP(held_out_closep) struct held_out *h = calloc(1, sizeof(*h));
    int rc;

    if (!h)
        return lh_err_set(reterr, -ENOMEM, "open data");
    h->job = job;
    take_lengths(h);
    rc = shard_dir ? open_shards(h, shard_dir, vocab, reterr) : open_tokens(h, vocab, reterr);
    if (rc < 0)
        return rc;
    *ret_held_out = h;
    h = NULL;
    return 0;
}

void held_out_close(struct held_out *h)
{
    if (!h)
        return;
    token_spans_close(&h->token_spans);
    if (h->tokens)
        dataset_close(h->tokens);
    if (h->has_shards)
        shards_close(&h->shards);
    free(h->first);
    free(h);
}

/* ---- windows ---- */

/* Start and length of window k of a span of n tokens. */
static uint64_t window_begin(const struct held_out *h, uint64_t k, uint64_t n, int64_t *ret_tokens)
{
    uint64_t S = h->job->eval.mode == LH_EVAL_PREFIXES ? (uint64_t)h->longest
                                                       : (uint64_t)h->job->eval.stride;
    int64_t T = round_length(h);

    if (h->job->eval.mode == LH_EVAL_SLIDING)
        T = LH_MIN(T, (int64_t)(n - k * S));
    for (unsigned l = 0; l < h->n_lengths && h->job->eval.mode != LH_EVAL_SLIDING; l++)
        if (h->lengths[l] > T && k < held_out_count(h, h->lengths[l], n))
            T = h->lengths[l];
    *ret_tokens = T;
    return k * S;
}

/* Tokens from `at` on. A token is a target when it is to be learned (all are, of plain text). */
static void put_tokens(const struct held_out *h, uint64_t at, struct held_out_window *w)
{
    if (h->tokens) {
        token_spans_copy(&h->token_spans, at, w->tokens, w->ids, w->labels);
    } else {
        shards_copy(&h->shards, at, (uint64_t)w->tokens, w->ids);
        shards_copy_labels(&h->shards, at, (uint64_t)w->tokens, w->labels);
        for (int64_t t = 0; t < w->tokens; t++)
            w->labels[t] = w->labels[t] ? w->ids[t] : -100;
    }
    for (int64_t t = 0; t + 1 < w->tokens; t++)
        w->labels[t] = w->labels[t + 1];
    w->labels[w->tokens - 1] = -100;
}

int held_out_take(const struct held_out *h, int64_t i, struct held_out_window *w,
                  struct lh_err *reterr)
{
    int64_t n = held_out_windows(h), from, to;
    /* Fewer windows than there are: spread over all texts, not the first of the first one. */
    uint64_t number = (uint64_t)(i * all_windows(h) / n), span, at;

    assert(i >= 0 && i < n);
    if (h->in_rows) {
        struct sequence seq = {.ids = w->ids, .labels = w->labels, .documents = w->documents};

        w->tokens = h->longest;
        w->index = number;
        return dataset_sequence(h->tokens, (int64_t)number, &seq, reterr);
    }
    span = span_holding(h->first, h->n_spans, number);
    w->index = number - h->first[span];
    at = span_begin(h, span) + window_begin(h, w->index, span_tokens(h, span), &w->tokens);
    put_tokens(h, at, w);
    if (h->job->eval.mode == LH_EVAL_SLIDING) { /* the head passes over what is not scored */
        held_out_scored(h, w, h->round, &from, &to);
        for (int64_t t = 0; t < from; t++)
            w->labels[t] = -100;
    }
    return 0;
}

void held_out_scored(const struct held_out *h, const struct held_out_window *w, unsigned l,
                     int64_t *ret_from, int64_t *ret_to)
{
    int64_t length = h->lengths[l];
    bool sliding = h->job->eval.mode == LH_EVAL_SLIDING;

    *ret_from = *ret_to = 0;
    if (sliding ? l != h->round : length > w->tokens)
        return;
    *ret_to = sliding ? w->tokens - 1 : length - 1;
    if (sliding && w->index > 0) /* the window before has scored what it ends with */
        *ret_from = length - h->job->eval.stride - 1;
}
