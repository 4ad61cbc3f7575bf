/* segments.c - turns rows, documents and S2 groups into the begin arrays of segments.h.
 *
 * A token starts a new segment of its class when it is the first of a row, when its document
 * differs from the token before it, or when its place in the row is a cut of the class: k*G for
 * plain heads, G/2 + k*G for shifted ones. Nothing else exists: dense, packed and S2 are the same
 * loop with fewer conditions true.
 */
#include "kernels/segments.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static bool segments_cut(const struct kn_segments_spec *spec, int c, int64_t t)
{
    int64_t at = t % spec->row_tokens;
    bool shifted = (c == 1) != spec->wrap; /* half a group more in front shifts all cuts */

    if (at == 0)
        return true;
    if (spec->documents && spec->documents[t] != spec->documents[t - 1])
        return true;
    if (spec->group == 0)
        return false;
    return at % spec->group == (shifted ? spec->group / 2 : 0);
}

static int32_t *segments_begin(const struct kn_segments_spec *spec, int c)
{
    int64_t T = spec->rows * spec->row_tokens;
    int32_t *begin = malloc((size_t)(T > 0 ? T : 1) * sizeof(*begin));
    int32_t first = 0;

    if (!begin)
        return NULL;
    for (int64_t t = 0; t < T; t++) {
        if (segments_cut(spec, c, t))
            first = (int32_t)t;
        begin[t] = first;
    }
    return begin;
}

int kn_segments_init(const struct kn_segments_spec *spec, struct kn_segments *ret_seg,
                     struct lh_err *reterr)
{
    struct kn_segments seg = {0};

    if (spec->group < 0 || spec->group % 2 != 0)
        return lh_err_set(
            reterr, LH_EJOB,
            "the S2 group is %lld tokens; give an even number of tokens, or 0 for none",
            (long long)spec->group);
    if (spec->rows < 0 || spec->row_tokens < 0 || spec->heads < 1)
        return lh_err_set(
            reterr, LH_EJOB,
            "a micro-batch of %lld rows of %lld tokens with %lld heads is not possible",
            (long long)spec->rows, (long long)spec->row_tokens, (long long)spec->heads);
    if (spec->row_tokens > 0 && spec->rows > INT32_MAX / spec->row_tokens)
        return lh_err_set(
            reterr, LH_EJOB,
            "a micro-batch of %lld rows of %lld tokens exceeds %d tokens; use fewer rows",
            (long long)spec->rows, (long long)spec->row_tokens, INT32_MAX);
    seg.T = spec->rows * spec->row_tokens;
    seg.shift_from = spec->group > 0 ? spec->heads / 2 : spec->heads;
    seg.reach = spec->group > 0 ? LH_MIN(spec->group, spec->row_tokens) : spec->row_tokens;
    seg.begin[0] = segments_begin(spec, 0);
    seg.begin[1] = spec->group > 0 ? segments_begin(spec, 1) : seg.begin[0];
    if (!seg.begin[0] || !seg.begin[1]) {
        kn_segments_release(&seg);
        return lh_err_set(reterr, -ENOMEM, "segments of %lld tokens", (long long)seg.T);
    }
    *ret_seg = seg;
    return 0;
}

void kn_segments_release(struct kn_segments *seg)
{
    if (seg->begin[1] != seg->begin[0])
        free(seg->begin[1]);
    free(seg->begin[0]);
    *seg = (struct kn_segments){0};
}

int64_t kn_segments_pairs(const struct kn_segments *seg, int c)
{
    int64_t pairs = 0;

    assert(c == 0 || c == 1);
    for (int64_t t = 0; t < seg->T; t++)
        pairs += t - seg->begin[c][t] + 1;
    return pairs;
}
