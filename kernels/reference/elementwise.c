/* elementwise.c - sums, copies between types, fills, and the search for NaN and infinity. */
#include "kernels/reference/ref.h"
#include <math.h>

void ref_add_op(struct kn_stream *s, struct kn_mat y, struct kn_mat a, struct kn_mat b)
{
    struct kn_check ck = ref_check(s, "add");

    if (!kn_check_same(ck, "a", a, "b", b) || !kn_check_same(ck, "a", a, "y", y))
        return;
    for (int64_t r = 0; r < y.rows; r++)
        for (int64_t c = 0; c < y.cols; c++)
            ref_set(y, r, c, ref_get(a, r, c) + ref_get(b, r, c));
}

void ref_copy(struct kn_stream *s, struct kn_mat y, struct kn_mat x)
{
    if (!kn_check_same(ref_check(s, "copy"), "x", x, "y", y))
        return;
    for (int64_t r = 0; r < y.rows; r++)
        for (int64_t c = 0; c < y.cols; c++)
            ref_set(y, r, c, ref_get(x, r, c));
}

void ref_fill(struct kn_stream *s, struct kn_mat y, float value)
{
    if (!kn_check_mat(ref_check(s, "fill"), "y", y))
        return;
    for (int64_t r = 0; r < y.rows; r++)
        for (int64_t c = 0; c < y.cols; c++)
            ref_set(y, r, c, (double)value);
}

void ref_first_nonfinite(struct kn_stream *s, int64_t *ret_index, struct kn_mat x)
{
    if (!kn_check_mat(ref_check(s, "first_nonfinite"), "x", x))
        return;
    *ret_index = -1;
    for (int64_t r = 0; r < x.rows; r++) {
        for (int64_t c = 0; c < x.cols; c++) {
            if (isfinite(ref_get(x, r, c)))
                continue;
            *ret_index = r * x.cols + c;
            return;
        }
    }
}
