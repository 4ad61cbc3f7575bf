/* dropout.c - elements set to zero by a counter, the others scaled up. Two columns share a draw of
 * 64 bits; the multiplications for it are what takes time, not memory. */
#include "kernels/dropout.h"
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"
#include <string.h>

struct dropout_job {
    struct kn_mat y, x;
    bool add;
    const struct kn_dropout *h;
    struct cpu_rows rows;
};

/* -1 in the lanes of the columns [c, c + VEC) that are dropped; c is even. */
static vi dropped_at(uint64_t start, int64_t c, uint32_t limit)
{
    uint64_t draws[VEC / 2];
    vu bits;

    for (int i = 0; i < VEC / 2; i++)
        draws[i] = kn_dropout_pair(start, c / 2 + i);
    memcpy(&bits, draws, sizeof(bits)); /* little-endian: the low half comes first */
    return (vi)(bits < limit);
}

static void dropout_item(void *arg, int64_t item, int thread)
{
    const struct dropout_job *j = arg;
    uint32_t limit = kn_dropout_limit(j->h->rate);
    vf scale = vf_all(kn_dropout_scale(j->h->rate));

    (void)thread;
    for (int64_t r = item * j->rows.per; r < cpu_rows_end(j->rows, item); r++) {
        uint64_t start = kn_dropout_start(j->h->key[r], j->h->place);

        for (int64_t c = 0; c < j->y.cols; c += VEC) {
            int64_t n = j->y.cols - c;
            vf kept =
                vf_select(dropped_at(start, c, limit), (vf){0}, vf_load(j->x, r, c, n) * scale);

            if (j->add)
                kept += vf_load(j->y, r, c, n);
            vf_store(j->y, r, c, n, kept);
        }
    }
}

void cpu_dropout(struct kn_stream *s, struct kn_mat y, struct kn_mat x, bool add,
                 const struct kn_dropout *h)
{
    struct dropout_job j = {
        .y = y, .x = x, .add = add, .h = h, .rows = cpu_rows(y.rows, 4 * y.cols)};

    if (kn_check_same(cpu_check(s, "dropout"), "x", x, "y", y))
        pool_run(s->pool, cpu_rows_items(j.rows), dropout_item, &j);
}
