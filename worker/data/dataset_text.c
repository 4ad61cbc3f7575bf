/* dataset_text.c - windows of prepared text: packed, or one document a window.
 *
 * Packed: the documents of an epoch in their shuffled order, end to end, cut every `length` tokens.
 * Not packed: each document is cut by itself and its last window is padded, so no window holds two.
 * The order of an epoch is a pure function of (seed, epoch, number of documents); it is kept until
 * another epoch is asked for.
 */
#include "worker/data/dataset_kinds.h"
#include "worker/data/spans.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DOCUMENTS_MAX UINT32_MAX

void text_close(struct dataset *d)
{
    epoch_order_free(d->order);
    if (d->kind != DATASET_TOKENS)
        shards_close(&d->shards);
}

static uint64_t document_tokens(const struct dataset *d, uint64_t doc)
{
    return shards_document(&d->shards, doc + 1) - shards_document(&d->shards, doc);
}

/* Call with the lock held. */
static void make_order(const struct dataset *d, int64_t epoch)
{
    struct epoch_order *o = d->order;
    uint64_t n = d->shards.n_documents, length = (uint64_t)d->length, at = 0;

    epoch_shuffle(o->document, n, d->seed, epoch);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t tokens = document_tokens(d, o->document[i]);

        o->start[i] = at;
        at += d->kind == DATASET_PACKED ? tokens : (tokens + length - 1) / length;
    }
    o->start[n] = at;
    o->epoch = epoch;
}

static void packed_window(const struct dataset *d, int64_t w, struct sequence *seq)
{
    const struct epoch_order *o = d->order;
    uint64_t length = (uint64_t)d->length, from = (uint64_t)w * length, filled = 0;
    uint64_t i = span_holding(o->start, d->shards.n_documents, from);
    int32_t number = 0;

    for (; filled < length; i++, number++) {
        uint64_t in = from + filled - o->start[i];
        uint64_t m = LH_MIN(length - filled, o->start[i + 1] - o->start[i] - in);

        assert(i < d->shards.n_documents);
        shards_copy(&d->shards, shards_document(&d->shards, o->document[i]) + in, m,
                    seq->ids + filled);
        shards_copy_labels(&d->shards, shards_document(&d->shards, o->document[i]) + in, m,
                           seq->labels + filled);
        for (uint64_t t = 0; t < m; t++)
            seq->documents[filled + t] = number;
        filled += m;
    }
    seq->length = d->length;
}

/* The part of one document that begins `part` windows into it. */
static void document_window(const struct dataset *d, uint64_t doc, uint64_t part,
                            struct sequence *seq)
{
    uint64_t length = (uint64_t)d->length, n = document_tokens(d, doc) - part * length;

    n = LH_MIN(n, length);
    shards_copy(&d->shards, shards_document(&d->shards, doc) + part * length, n, seq->ids);
    shards_copy_labels(&d->shards, shards_document(&d->shards, doc) + part * length, n,
                       seq->labels);
    memset(seq->documents, 0, n * sizeof(*seq->documents));
    seq->length = (int64_t)n;
}

int text_window(const struct dataset *d, int64_t index, struct sequence *seq, struct lh_err *reterr)
{
    struct epoch_order *o = d->order;
    uint64_t n = d->shards.n_documents, w, i;

    (void)reterr;
    w = (uint64_t)(index % d->windows);
    (void)pthread_mutex_lock(&o->lock);
    if (o->epoch != index / d->windows)
        make_order(d, index / d->windows);
    if (d->kind == DATASET_PACKED) {
        packed_window(d, (int64_t)w, seq);
    } else {
        i = span_holding(o->start, n, w);
        document_window(d, o->document[i], w - o->start[i], seq);
    }
    (void)pthread_mutex_unlock(&o->lock);
    sequence_label(seq);
    return 0;
}

int text_open_shards(struct dataset *d, const char *shard_dir, int64_t vocab, struct lh_err *reterr)
{
    int rc = shards_open(shard_dir, &d->shards, reterr);

    if (rc < 0)
        return rc;
    if (d->shards.n_documents > DOCUMENTS_MAX)
        return lh_err_set(reterr, LH_EINPUT, "'%s' has more than %u documents", shard_dir,
                          DOCUMENTS_MAX);
    if (d->shards.max_id >= vocab)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s' has token id %lld, the model's vocabulary has %lld; tokenizer and model do not "
            "belong together",
            shard_dir, (long long)d->shards.max_id, (long long)vocab);
    return 0;
}

int text_open(struct dataset *d, const struct lh_job *job, const char *shard_dir, int64_t vocab,
              struct lh_err *reterr)
{
    uint64_t length = (uint64_t)d->length, n;
    int rc = text_open_shards(d, shard_dir, vocab, reterr);

    d->kind = job->data.pack == LH_PACK_NONE ? DATASET_UNPACKED : DATASET_PACKED;
    d->has_documents = job->data.pack == LH_PACK_MASKED;
    if (rc < 0)
        return rc;
    n = d->shards.n_documents;
    d->counts = (struct dataset_counts){.samples = (int64_t)n,
                                        .tokens = (int64_t)d->shards.n_tokens,
                                        .labels = (int64_t)d->shards.n_labels};
    if (d->kind == DATASET_PACKED) {
        d->windows = (int64_t)(d->shards.n_tokens / length);
        d->tokens = d->windows * d->length;
    } else {
        for (uint64_t i = 0; i < n; i++)
            d->windows += (int64_t)((document_tokens(d, i) + length - 1) / length);
        d->tokens = (int64_t)d->shards.n_tokens;
    }
    if (d->windows == 0)
        return lh_err_set(
            reterr, LH_EINPUT,
            "the training data has %llu tokens, less than one window of context.length %lld; give "
            "more text or a smaller context",
            (unsigned long long)d->shards.n_tokens, (long long)d->length);
    return epoch_order_new(d, n, reterr);
}
