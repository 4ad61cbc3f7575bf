/* dropout.c - elements set to zero by a counter, the others scaled up. */
#include "kernels/dropout.h"
#include "kernels/reference/ref.h"

void ref_dropout(struct kn_stream *s, struct kn_mat y, struct kn_mat x, bool add,
                 const struct kn_dropout *h)
{
    uint32_t limit = kn_dropout_limit(h->rate);

    if (!kn_check_same(ref_check(s, "dropout"), "x", x, "y", y))
        return;
    for (int64_t r = 0; r < y.rows; r++) {
        uint64_t start = kn_dropout_start(h->key[r], h->place);

        for (int64_t c = 0; c < y.cols; c++) {
            uint32_t draw = (uint32_t)(kn_dropout_pair(start, c / 2) >> (c % 2 * 32));
            double kept = draw < limit ? 0 : ref_get(x, r, c) * (double)kn_dropout_scale(h->rate);

            ref_set(y, r, c, kept + (add ? ref_get(y, r, c) : 0));
        }
    }
}
