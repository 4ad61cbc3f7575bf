/* check.h - are the arguments of an op what ops.h asks for? Shared by the back ends.
 *
 * Each function returns true when all is well. Otherwise it fills *ck->err, unless an earlier error
 * is already there, and returns false: the op then does nothing and sync() reports the first error.
 * A set error makes every later check fail, so that ops after a failed one do not run on its
 * rubbish.
 */
#pragma once
#include "kernels/segments.h"
#include "kernels/tensor.h"
#include "proto/base/err.h"
#include <stdbool.h>

struct kn_check {
    struct lh_err *err; /* the stream's */
    const char *op;     /* for the text */
    bool f64;           /* this back end takes KN_F64 */
};

struct kn_heads {
    int64_t H, KV, D;
};

/* A sane view: a known type, ld >= cols, memory behind it. */
bool kn_check_mat(struct kn_check ck, const char *name, struct kn_mat m);
/* Both sane, and of one shape. */
bool kn_check_same(struct kn_check ck, const char *name_a, struct kn_mat a, const char *name_b,
                   struct kn_mat b);
bool kn_check_shape(struct kn_check ck, const char *name, struct kn_mat m, int64_t rows,
                    int64_t cols);
bool kn_check_matmul(struct kn_check ck, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                     bool tb, float beta);
bool kn_check_matmul_low(struct kn_check ck, struct kn_mat c, struct kn_mat z, struct kn_mat a,
                         struct kn_mat b, struct kn_mat p, struct kn_mat q, bool t, float beta);
/* Heads that fit each other, and q (Tq,H*D), k, v (T,KV*D) of one type. */
bool kn_check_attention(struct kn_check ck, struct kn_mat q, struct kn_mat k, struct kn_mat v,
                        int64_t Tq, int64_t T, struct kn_heads h);
/* x (T,C), w (V,C) and, when d.p is not NULL, d (V,T), all of one type, and T labels. */
bool kn_check_cross_entropy(struct kn_check ck, struct kn_mat d, struct kn_mat x, struct kn_mat w,
                            const int32_t *label);
/* Whole heads of D elements in every row, D in range. */
bool kn_check_heads_of(struct kn_check ck, const char *name, struct kn_mat m, int64_t D);
/* n ids in [0, limit). ids must be readable by the host. */
bool kn_check_ids(struct kn_check ck, const char *name, const int32_t *id, int64_t n,
                  int64_t limit);
/* n labels in [0, limit) or KN_NO_LABEL. */
#define KN_NO_LABEL (-100)
bool kn_check_labels(struct kn_check ck, const int32_t *label, int64_t n, int64_t limit);
