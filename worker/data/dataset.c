/* dataset.c - see dataset.h. What all kinds share: opening by format, padding, counting targets. */
#include "worker/data/dataset.h"
#include "worker/data/dataset_kinds.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void dataset_close(struct dataset *d)
{
    if (!d)
        return;
    tokens_close(d);
    samples_close(d);
    text_close(d);
    free(d);
}
LH_DEFINE_FREEP(struct dataset *, dataset_close)

int64_t dataset_windows(const struct dataset *d)
{
    return d->windows;
}

int64_t dataset_tokens(const struct dataset *d)
{
    return d->tokens;
}

bool dataset_has_documents(const struct dataset *d)
{
    return d->has_documents;
}

struct dataset_counts dataset_count(const struct dataset *d)
{
    return d->counts;
}

/* Shards that an earlier job prepared tell what they are. */
static int check_labels(const struct dataset *d, const struct lh_job *job, const char *shard_dir,
                        struct lh_err *reterr)
{
    bool labels = d->shards.labels != NULL;

    if (d->kind == DATASET_TOKENS || labels == (job->data.format == LH_DATA_SFT))
        return 0;
    return lh_err_at(reterr, LH_EINPUT, "/data/format",
                     "'%s' was prepared with data.format \"%s\"; say so in this job too", shard_dir,
                     labels ? "sft" : "text");
}

int dataset_open(const struct lh_job *job, const char *shard_dir, int64_t vocab,
                 struct dataset **ret_dataset, struct lh_err *reterr)
{
    LH_CLEANUP(dataset_closep) struct dataset *d = calloc(1, sizeof(*d));
    int rc;

    if (!d)
        return lh_err_set(reterr, -ENOMEM, "open data");
    d->length = job->context.length;
    d->seed = job->optim.seed;
    if (d->length < 1 || d->length > INT32_MAX)
        return lh_err_at(reterr, LH_EJOB, "/context/length",
                         "a context of %lld tokens holds no sequence", (long long)d->length);
    if (job->data.format == LH_DATA_TOKENS)
        rc = tokens_open(d, job, vocab, reterr);
    else if (job->data.format == LH_DATA_SFT && job->data.pack != LH_PACK_JOIN)
        rc = samples_open(d, job, shard_dir, vocab, reterr);
    else
        rc = text_open(d, job, shard_dir, vocab, reterr);
    if (rc == 0)
        rc = check_labels(d, job, shard_dir, reterr);
    if (rc < 0)
        return rc;
    *ret_dataset = d;
    d = NULL;
    return 0;
}

int dataset_sequence(const struct dataset *d, int64_t index, struct sequence *seq,
                     struct lh_err *reterr)
{
    size_t rest;
    int rc = 0;

    if (index < 0)
        return lh_err_set(reterr, LH_EINTERNAL, "sequence %lld of data", (long long)index);
    if (d->kind == DATASET_TOKENS)
        tokens_window(d, index % d->windows, seq);
    else if (d->kind == DATASET_SAMPLES)
        samples_window(d, index, seq);
    else
        rc = text_window(d, index, seq, reterr);
    if (rc < 0)
        return rc;
    rest = (size_t)(d->length - seq->length);
    memset(seq->ids + seq->length, 0, rest * sizeof(*seq->ids));
    for (int64_t t = seq->length; t < d->length; t++) {
        /* Padding is a document of its own where documents count: nothing real is kept company by
         * it. */
        seq->documents[t] =
            d->has_documents && seq->length > 0 ? seq->documents[seq->length - 1] + 1 : 0;
        seq->labels[t] = -100;
    }
    seq->n_labels = 0;
    for (int64_t t = 0; t < seq->length; t++)
        seq->n_labels += seq->labels[t] != -100;
    return 0;
}
