/* dataset_samples.c - windows of whole samples (data.format sft): packed, or one a window.
 *
 * A sample longer than a window is cut at its end; one that has no label left then is dropped.
 * Packed windows are filled once, the longest samples first, each into the first window with room
 * for it, so every epoch has the same windows; their order is shuffled anew.
 */
#include "worker/data/dataset_kinds.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void samples_close(struct dataset *d)
{
    free(d->samples.document);
    free(d->samples.tokens);
    free(d->samples.first);
}

static uint64_t sample_begin(const struct dataset *d, uint64_t i)
{
    return shards_document(&d->shards, d->samples.document[i]);
}

void samples_window(const struct dataset *d, int64_t index, struct sequence *seq)
{
    const struct sample_plan *p = &d->samples;
    int64_t epoch = index / d->windows;
    uint64_t filled = 0;
    uint32_t w;

    (void)pthread_mutex_lock(&d->order->lock);
    if (d->order->epoch != epoch)
        epoch_shuffle(d->order->document, (uint64_t)d->windows, d->seed, epoch);
    d->order->epoch = epoch;
    w = d->order->document[index % d->windows];
    (void)pthread_mutex_unlock(&d->order->lock);
    for (uint64_t i = p->first[w]; i < p->first[w + 1]; i++) {
        uint64_t n = p->tokens[i];

        assert(filled + n <= (uint64_t)d->length);
        shards_copy(&d->shards, sample_begin(d, i), n, seq->ids + filled);
        shards_copy_labels(&d->shards, sample_begin(d, i), n, seq->labels + filled);
        for (uint64_t t = 0; t < n; t++)
            seq->documents[filled + t] = (int32_t)(i - p->first[w]);
        filled += n;
    }
    seq->length = (int64_t)filled;
    sequence_label(seq);
}

/* The samples that have labels within a window, in the order of the data. */
static void keep_samples(struct dataset *d)
{
    struct sample_plan *p = &d->samples;
    struct dataset_counts *c = &d->counts;

    for (uint64_t i = 0; i < d->shards.n_documents; i++) {
        uint64_t begin = shards_document(&d->shards, i);
        uint64_t n = shards_document(&d->shards, i + 1) - begin;
        uint64_t m = LH_MIN(n, (uint64_t)d->length);
        uint64_t labels = m > 1 ? shards_count_labels(&d->shards, begin + 1, m - 1) : 0;

        if (labels == 0) {
            c->dropped++;
            continue;
        }
        p->document[p->n] = (uint32_t)i;
        p->tokens[p->n++] = (uint32_t)m;
        c->truncated += n > m;
        c->tokens += (int64_t)m;
        c->labels += (int64_t)labels;
    }
    c->samples = (int64_t)p->n;
}

/* Room left in windows, as a tree of maxima: the first window with room is found in log n. */
struct rooms {
    uint32_t *most; /* most[1] is the root; leaves from `leaves` on */
    uint64_t leaves;
};

static int rooms_init(struct rooms *r, uint64_t n, uint32_t room)
{
    r->leaves = 1;
    while (r->leaves < n)
        r->leaves *= 2;
    r->most = malloc(2 * r->leaves * sizeof(*r->most));
    for (uint64_t i = 0; r->most && i < 2 * r->leaves; i++)
        r->most[i] = room;
    return r->most ? 0 : -ENOMEM;
}

/* Takes n tokens of the first window that has them; there is one. */
static uint64_t rooms_take(struct rooms *r, uint32_t n)
{
    uint64_t at = 1;

    assert(r->most[1] >= n);
    while (at < r->leaves)
        at = r->most[2 * at] >= n ? 2 * at : 2 * at + 1;
    r->most[at] -= n;
    for (uint64_t up = at / 2; up > 0; up /= 2)
        r->most[up] = LH_MAX(r->most[2 * up], r->most[2 * up + 1]);
    return at - r->leaves;
}

struct placed {
    uint64_t window, sample;
    uint32_t tokens, document;
};

static int by_length(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;

    if (x->tokens != y->tokens)
        return x->tokens < y->tokens ? 1 : -1;
    return (x->sample > y->sample) - (x->sample < y->sample);
}

static int by_window(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;

    if (x->window != y->window)
        return x->window < y->window ? -1 : 1;
    return (x->sample > y->sample) - (x->sample < y->sample);
}

/* Gives each sample its window and sorts the samples by it. */
static int pack_samples(struct dataset *d, struct placed *list)
{
    struct sample_plan *p = &d->samples;
    struct rooms rooms;

    if (rooms_init(&rooms, p->n, (uint32_t)d->length) < 0)
        return -ENOMEM;
    for (uint64_t i = 0; i < p->n; i++)
        list[i] = (struct placed){0, i, p->tokens[i], p->document[i]};
    qsort(list, p->n, sizeof(*list), by_length);
    for (uint64_t i = 0; i < p->n; i++)
        list[i].window = rooms_take(&rooms, list[i].tokens);
    free(rooms.most);
    qsort(list, p->n, sizeof(*list), by_window);
    for (uint64_t i = 0; i < p->n; i++) {
        p->document[i] = list[i].document;
        p->tokens[i] = list[i].tokens;
        p->first[list[i].window + 1] = i + 1;
    }
    d->windows = (int64_t)list[p->n - 1].window + 1;
    return 0;
}

static int plan_windows(struct dataset *d, bool packed)
{
    struct sample_plan *p = &d->samples;
    struct placed *list;
    int rc;

    p->first = calloc(p->n + 1, sizeof(*p->first));
    if (!p->first)
        return -ENOMEM;
    if (!packed) {
        for (uint64_t i = 0; i <= p->n; i++)
            p->first[i] = i;
        d->windows = (int64_t)p->n;
        return 0;
    }
    list = malloc(p->n * sizeof(*list));
    rc = list ? pack_samples(d, list) : -ENOMEM;
    free(list);
    return rc;
}

int samples_open(struct dataset *d, const struct lh_job *job, const char *shard_dir, int64_t vocab,
                 struct lh_err *reterr)
{
    bool packed = job->data.pack == LH_PACK_MASKED;
    struct sample_plan *p = &d->samples;
    int rc = text_open_shards(d, shard_dir, vocab, reterr);

    d->kind = DATASET_SAMPLES;
    d->has_documents = packed;
    if (rc < 0)
        return rc;
    p->document = calloc(d->shards.n_documents, sizeof(*p->document));
    p->tokens = calloc(d->shards.n_documents, sizeof(*p->tokens));
    if (!p->document || !p->tokens)
        return lh_err_set(reterr, -ENOMEM, "open data '%s'", shard_dir);
    keep_samples(d);
    if (p->n == 0)
        return lh_err_set(reterr, LH_EINPUT,
                          "none of the %llu samples has an answer within context.length %lld; give "
                          "a longer context or shorter samples",
                          (unsigned long long)d->shards.n_documents, (long long)d->length);
    rc = plan_windows(d, packed);
    if (rc < 0)
        return lh_err_set(reterr, rc, "open data '%s'", shard_dir);
    d->tokens = d->counts.tokens;
    return epoch_order_new(d, (uint64_t)d->windows, reterr);
}
