/* held_out.h - the texts of eval.perplexity, and the windows that eval.mode takes of them.
 *
 * A span is what a window may lie in: a text, or all of them end to end (eval.join). Windows are
 * numbered over all spans, so ranks deal them out by number. Modes prefixes, stride and compatible
 * take one round: a window's prefixes serve the shorter lengths, too. Mode sliding takes a round
 * for each length.
 */
#pragma once
#include "worker/data/dataset.h"
#include "worker/data/shards.h"
#include "worker/data/token_spans.h"

struct held_out {
    const struct lh_job *job;
    struct lh_job tokens_job;       /* the data set's */
    struct dataset *tokens;         /* a file of tokens; NULL: shards */
    bool in_rows;                   /* its sequences are the windows: mode prefixes */
    struct token_spans token_spans; /* else */
    struct shards shards;
    bool has_shards;
    int64_t lengths[LH_EVAL_LENGTHS_MAX]; /* to report, as the job lists them */
    unsigned n_lengths;
    int64_t longest, shortest;

    unsigned round;
    uint64_t n_spans, *first; /* owned, n_spans + 1: number of the first window of each span */
};

/* One window on its way through the model; arrays of `longest` entries are the caller's. */
struct held_out_window {
    int32_t *ids, *labels; /* labels: -100 where nothing is scored */
    int32_t *documents;    /* filled only where held_out_has_documents */
    int64_t tokens;
    uint64_t index; /* in its span: mode compatible counts them */
};

/* shard_dir: prepared texts, or NULL for the file of tokens that eval.perplexity names. Round 0 is
 * begun. The job must live as long. LH_EINPUT: no text is as long as the longest length. */
LH_MUST_CHECK int held_out_open(const struct lh_job *job, const char *shard_dir, int64_t vocab,
                                struct held_out **ret_held_out, struct lh_err *reterr);
void held_out_close(struct held_out *h); /* accepts NULL */
LH_DEFINE_FREEP(struct held_out *, held_out_close)

/* Length i of those to report: job.eval.lengths, or powers of two from 2048 and context.length; 0
 * when there are no more. */
int64_t held_out_length(const struct lh_lengths *asked, int64_t context, unsigned i);

unsigned held_out_rounds(const struct held_out *h);
void held_out_begin(struct held_out *h, unsigned round);
int64_t held_out_windows(const struct held_out *h); /* of the round, eval.windows at most */
bool held_out_has_documents(const struct held_out *h);

uint64_t held_out_tokens(const struct held_out *h); /* of all spans */

/* Windows of one length of a span of n tokens, of this round, were eval.windows not there. */
uint64_t held_out_count(const struct held_out *h, int64_t length, uint64_t n);

/* Fills window i of the round. */
LH_MUST_CHECK int held_out_take(const struct held_out *h, int64_t i, struct held_out_window *w,
                                struct lh_err *reterr);

/* The predictions [*ret_from, *ret_to) of a window that count for length l: none (0, 0) when the
 * window is no window of that length. */
void held_out_scored(const struct held_out *h, const struct held_out_window *w, unsigned l,
                     int64_t *ret_from, int64_t *ret_to);
