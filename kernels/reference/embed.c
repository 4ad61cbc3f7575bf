/* embed.c - rows of a table, and their gradient added back row by row in token order. */
#include "kernels/reference/ref.h"

void ref_embed_fwd(struct kn_stream *s, struct kn_mat x, struct kn_mat table, const int32_t *id)
{
    struct kn_check ck = ref_check(s, "embed_fwd");

    if (!kn_check_mat(ck, "table", table) || !kn_check_shape(ck, "x", x, x.rows, table.cols) ||
        !kn_check_ids(ck, "id", id, x.rows, table.rows))
        return;
    for (int64_t t = 0; t < x.rows; t++)
        for (int64_t c = 0; c < x.cols; c++)
            ref_set(x, t, c, ref_get(table, id[t], c));
}

void ref_embed_bwd(struct kn_stream *s, struct kn_mat dtable, struct kn_mat dx, const int32_t *id)
{
    struct kn_check ck = ref_check(s, "embed_bwd");

    if (!kn_check_mat(ck, "dtable", dtable) ||
        !kn_check_shape(ck, "dx", dx, dx.rows, dtable.cols) ||
        !kn_check_ids(ck, "id", id, dx.rows, dtable.rows))
        return;
    for (int64_t t = 0; t < dx.rows; t++)
        for (int64_t c = 0; c < dx.cols; c++)
            ref_add(dtable, id[t], c, ref_get(dx, t, c));
}
