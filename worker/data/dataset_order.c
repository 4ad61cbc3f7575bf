/* dataset_order.c - the order of an epoch, and labels out of marks: what windows of text and of
 * samples share.
 *
 * An order is a pure function of (seed, epoch, number of things to order); it is kept until another
 * epoch is asked for.
 */
#include "worker/data/dataset_kinds.h"
#include <errno.h>
#include <stdlib.h>

/* splitmix64: small, and every state gives a good stream. */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Uniform in [0, n), without bias. */
static uint64_t random_below(uint64_t *state, uint64_t n)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;

    do
        x = random_next(state);
    while (x >= limit);
    return x % n;
}

void epoch_shuffle(uint32_t *list, uint64_t n, uint64_t seed, int64_t epoch)
{
    uint64_t state = seed;

    state = random_next(&state) ^ (uint64_t)epoch * 0xd1342543de82ef95u;
    for (uint64_t i = 0; i < n; i++)
        list[i] = (uint32_t)i;
    for (uint64_t i = n; i > 1; i--) {
        uint64_t j = random_below(&state, i);
        uint32_t other = list[j];

        list[j] = list[i - 1];
        list[i - 1] = other;
    }
}

int epoch_order_new(struct dataset *d, uint64_t n, struct lh_err *reterr)
{
    d->order = calloc(1, sizeof(*d->order));
    if (!d->order)
        return lh_err_set(reterr, -ENOMEM, "order of %llu documents", (unsigned long long)n);
    (void)pthread_mutex_init(&d->order->lock, NULL);
    d->order->epoch = -1;
    d->order->document = calloc(n, sizeof(*d->order->document));
    d->order->start = calloc(n + 1, sizeof(*d->order->start));
    if (!d->order->document || !d->order->start)
        return lh_err_set(reterr, -ENOMEM, "order of %llu documents", (unsigned long long)n);
    return 0;
}

void epoch_order_free(struct epoch_order *o)
{
    if (!o)
        return;
    (void)pthread_mutex_destroy(&o->lock);
    free(o->document);
    free(o->start);
    free(o);
}

void sequence_label(struct sequence *seq)
{
    for (int64_t t = 0; t < seq->length; t++) {
        bool target =
            t + 1 < seq->length && seq->documents[t] == seq->documents[t + 1] && seq->labels[t + 1];

        seq->labels[t] = target ? seq->ids[t + 1] : -100;
    }
}
