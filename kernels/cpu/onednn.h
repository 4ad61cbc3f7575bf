/* onednn.h - single-threaded products through oneDNN's matmul primitive; matmul.c makes ops of
 * them.
 *
 * Creating a primitive costs half a millisecond, running one microseconds: they are kept in a
 * bounded cache, keyed by everything that they depend on. Finding is for one thread, running and
 * packing for any number.
 */
#pragma once
#include "kernels/cpu/isa.h"
#include "kernels/tensor.h"
#include "proto/base/err.h"
#include <stdbool.h>

/* c (M,N) = alpha * a (M,K) b (K,N) + beta * c. Compared as bytes: clear it before filling it. */
struct onednn_key {
    int64_t M, N, K, lda, ldb, ldc; /* strides as stored; 0 for ldb when packed */
    enum kn_dtype t_ab, t_c;
    int ta, tb, beta; /* stored transposed; beta 0 or 1 */
    int packed;       /* b comes from onednn_pack, laid out as oneDNN likes it best */
    float alpha;
};

#define ONEDNN_KEYS_MAX 4 /* primitives that one op may hold at a time, twice: packed and not */

struct onednn;
struct onednn_prim;

/* isa: no newer instructions than these; what the process's first call says holds for all. */
LH_MUST_CHECK int onednn_new(enum cpu_isa isa, int threads, struct onednn **ret_dnn,
                             struct lh_err *reterr);
void onednn_free(struct onednn *d);

/* Starts an op: primitives found from here on stay valid until the next call. */
void onednn_begin(struct onednn *d);
/* NULL with *reterr set when there is none or memory is out. */
const struct onednn_prim *onednn_find(struct onednn *d, const struct onednn_key *key,
                                      struct lh_err *reterr);
uint64_t onednn_scratch_bytes(const struct onednn_prim *p);

/* Bytes of a packed b; 0 when packing gains nothing because the primitive reads b as it is. */
uint64_t onednn_packed_bytes(const struct onednn_prim *p);
/* Do both read the same packed b? */
bool onednn_same_packing(const struct onednn_prim *p, const struct onednn_prim *q);
/* b: as stored, with stride ldb, transposed when the key's tb says so. Returns 0 or oneDNN's
 * status. */
LH_MUST_CHECK int onednn_pack(struct onednn *d, const struct onednn_prim *p, int thread, void *b,
                              int64_t ldb, void *packed);
/* scratch: onednn_scratch_bytes. thread: the caller's number; it must not be running another. */
LH_MUST_CHECK int onednn_run(struct onednn *d, const struct onednn_prim *p, int thread, void *a,
                             void *b, void *c, void *scratch);
