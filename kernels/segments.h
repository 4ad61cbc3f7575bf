/* segments.h - who attends to whom: the one description behind dense, packed and shifted sparse attention.
 *
 * A segment is a run of tokens whose queries attend causally to each other. For a head class c (0 plain,
 * 1 shifted) and a token t, begin[c][t] is the first key that t sees; t sees exactly the keys
 * [begin[c][t], t]. begin[c] never decreases, and begin[c][t] <= t.
 *   dense:           cuts where a row of the batch begins
 *   packed:          and where a document begins
 *   S2, group G:     plain heads also at G, 2G, 3G, ... of each row, shifted heads at G/2, 3G/2, 5G/2, ...
 * Query head h is shifted iff h >= floor(H/2). Key-value heads need no class: they follow their query heads.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct kn_segments {
    int64_t T;         /* tokens over all rows of the micro-batch, laid end to end */
    int64_t shift_from; /* heads with index >= this are of class 1 */
    int32_t *begin[2]; /* owned, T each; begin[1] == begin[0] when no head is shifted */
    int64_t reach;     /* a query sees less than this many tokens back, whatever the documents: rows and groups say it */
};

/* What a micro-batch looks like. */
struct kn_segments_spec {
    int64_t rows, row_tokens;   /* rows of equal length */
    int64_t group;              /* S2 group in tokens, even, > 0; 0: no S2 cuts */
    int64_t heads;              /* H: shift_from = floor(H/2) when group > 0, else H */
    const int32_t *documents;   /* rows*row_tokens document numbers, a cut wherever they change; NULL: none */
    bool wrap;                  /* rows begin with a copy of their last G/2 tokens, which row_tokens counts, and cuts are
                                 * counted from behind it: LongLoRA's first form, whose shifted heads see across the
                                 * ends of a row */
};

/* Fills *ret_seg. Errors: LH_EJOB for an odd or negative group; -ENOMEM. */
LH_MUST_CHECK int kn_segments_init(const struct kn_segments_spec *spec, struct kn_segments *ret_seg,
                                   struct lh_err *reterr);
void kn_segments_release(struct kn_segments *seg);

/* Query-key pairs of one head of class c: the FLOPs of attention follow from it. */
int64_t kn_segments_pairs(const struct kn_segments *seg, int c);
