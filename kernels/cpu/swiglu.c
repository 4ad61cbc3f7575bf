/* swiglu.c - h = silu(gate) * up and its gradients, one pass over memory each. The code exists a
 * second time for bf16 alone, with no branch in the loops. */
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"

struct swiglu_job {
    struct kn_mat h, gate, up, dgate, dup; /* h is dh in the backward pass */
    struct cpu_rows rows;
};

/* sigma(x) and 1 - sigma(x). Coarse, for results that are rounded to bf16 anyhow: to within 1e-4 of
 * each. */
struct swiglu_gate {
    vf sigma, rest;
};

VEC_INLINE struct swiglu_gate swiglu_gate(bool coarse, vf x)
{
    vf e, sigma;

    if (!coarse) {
        sigma = 1.0f / (1.0f + vf_exp(-x));
        return (struct swiglu_gate){sigma, 1.0f - sigma};
    }
    e = vf_exp2_coarse(-vf_max(x * (float)M_LOG2E, vf_all(-126.0f)));
    sigma = vf_reciprocal_coarse(1.0f + e);
    return (struct swiglu_gate){sigma, e * sigma};
}

/* n columns from c on. */
VEC_INLINE void swiglu_fwd_at(const struct swiglu_job *j, bool coarse, int64_t r, int64_t c,
                              int64_t n)
{
    vf x = vf_load(j->gate, r, c, n), u = vf_load(j->up, r, c, n);

    vf_store(j->h, r, c, n, x * swiglu_gate(coarse, x).sigma * u);
}

VEC_INLINE void swiglu_bwd_at(const struct swiglu_job *j, bool coarse, int64_t r, int64_t c,
                              int64_t n)
{
    vf x = vf_load(j->gate, r, c, n), u = vf_load(j->up, r, c, n);
    vf d = vf_load(j->h, r, c, n);
    struct swiglu_gate g = swiglu_gate(coarse, x);
    vf d_sigma = d * g.sigma;

    vf_store(j->dgate, r, c, n, d_sigma * u * (1.0f + x * g.rest));
    vf_store(j->dup, r, c, n, d_sigma * x);
}

VEC_INLINE void swiglu_rows(const struct swiglu_job *j, bool coarse, bool bwd, int64_t r0,
                            int64_t r1)
{
    for (int64_t r = r0; r < r1; r++) {
        int64_t c = 0, cols = j->h.cols;

        for (; c + VEC <= cols; c += VEC)
            bwd ? swiglu_bwd_at(j, coarse, r, c, VEC) : swiglu_fwd_at(j, coarse, r, c, VEC);
        if (c < cols)
            bwd ? swiglu_bwd_at(j, coarse, r, c, cols - c)
                : swiglu_fwd_at(j, coarse, r, c, cols - c);
    }
}

/* Whether all is bf16, and the job with these types as constants. */
static bool swiglu_is_bf16(const struct swiglu_job *j)
{
    return j->h.t == KN_BF16 && j->gate.t == KN_BF16 && j->up.t == KN_BF16 &&
           (!j->dup.p || (j->dgate.t == KN_BF16 && j->dup.t == KN_BF16));
}

VEC_INLINE struct swiglu_job swiglu_bf16(const struct swiglu_job *j)
{
    struct swiglu_job b = *j;

    b.h.t = b.gate.t = b.up.t = b.dgate.t = b.dup.t = KN_BF16;
    return b;
}

static void swiglu_fwd_item(void *arg, int64_t item, int thread)
{
    const struct swiglu_job *j = arg;
    struct swiglu_job b = swiglu_bf16(j);

    (void)thread;
    if (swiglu_is_bf16(j))
        swiglu_rows(&b, true, false, item * j->rows.per, cpu_rows_end(j->rows, item));
    else
        swiglu_rows(j, false, false, item * j->rows.per, cpu_rows_end(j->rows, item));
}

static void swiglu_bwd_item(void *arg, int64_t item, int thread)
{
    const struct swiglu_job *j = arg;
    struct swiglu_job b = swiglu_bf16(j);

    (void)thread;
    if (swiglu_is_bf16(j))
        swiglu_rows(&b, true, true, item * j->rows.per, cpu_rows_end(j->rows, item));
    else
        swiglu_rows(j, false, true, item * j->rows.per, cpu_rows_end(j->rows, item));
}

void cpu_swiglu_fwd(struct kn_stream *s, struct kn_mat h, struct kn_mat gate, struct kn_mat up)
{
    struct kn_check ck = cpu_check(s, "swiglu_fwd");
    struct swiglu_job j = {.h = h, .gate = gate, .up = up, .rows = cpu_rows(h.rows, h.cols)};

    if (kn_check_same(ck, "gate", gate, "up", up) && kn_check_same(ck, "gate", gate, "h", h))
        pool_run(s->pool, cpu_rows_items(j.rows), swiglu_fwd_item, &j);
}

void cpu_swiglu_bwd(struct kn_stream *s, struct kn_mat dgate, struct kn_mat dup, struct kn_mat dh,
                    struct kn_mat gate, struct kn_mat up)
{
    struct kn_check ck = cpu_check(s, "swiglu_bwd");
    struct swiglu_job j = {.h = dh,
                           .gate = gate,
                           .up = up,
                           .dgate = dgate,
                           .dup = dup,
                           .rows = cpu_rows(dh.rows, dh.cols)};

    if (kn_check_same(ck, "gate", gate, "up", up) && kn_check_same(ck, "gate", gate, "dh", dh) &&
        kn_check_same(ck, "gate", gate, "dgate", dgate) &&
        kn_check_same(ck, "gate", gate, "dup", dup))
        pool_run(s->pool, cpu_rows_items(j.rows), swiglu_bwd_item, &j);
}
