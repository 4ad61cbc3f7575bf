/* swiglu.c - h = silu(gate) * up and its gradients, one pass over memory each. */
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"

struct swiglu_job {
    struct kn_mat h, gate, up, dgate, dup; /* h is dh in the backward pass */
    struct cpu_rows rows;
};

static void swiglu_fwd_rows(const struct swiglu_job *j, int64_t r0, int64_t r1)
{
    struct kn_mat h = j->h, gate = j->gate, up = j->up;

    for (int64_t r = r0; r < r1; r++) {
        for (int64_t c = 0; c < h.cols; c += VEC) {
            int64_t n = h.cols - c;
            vf x = vf_load(gate, r, c, n);

            vf_store(h, r, c, n, x / (1.0f + vf_exp(-x)) * vf_load(up, r, c, n));
        }
    }
}

static void swiglu_bwd_rows(const struct swiglu_job *j, int64_t r0, int64_t r1)
{
    struct kn_mat dh = j->h, gate = j->gate, up = j->up, dgate = j->dgate, dup = j->dup;

    for (int64_t r = r0; r < r1; r++) {
        for (int64_t c = 0; c < dh.cols; c += VEC) {
            int64_t n = dh.cols - c;
            vf x = vf_load(gate, r, c, n), u = vf_load(up, r, c, n), d = vf_load(dh, r, c, n);
            vf sigma = 1.0f / (1.0f + vf_exp(-x));

            vf_store(dgate, r, c, n, d * u * sigma * (1.0f + x * (1.0f - sigma)));
            vf_store(dup, r, c, n, d * x * sigma);
        }
    }
}

static void swiglu_fwd_item(void *arg, int64_t item, int thread)
{
    const struct swiglu_job *j = arg;

    (void)thread;
    swiglu_fwd_rows(j, item * j->rows.per, cpu_rows_end(j->rows, item));
}

static void swiglu_bwd_item(void *arg, int64_t item, int thread)
{
    const struct swiglu_job *j = arg;

    (void)thread;
    swiglu_bwd_rows(j, item * j->rows.per, cpu_rows_end(j->rows, item));
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
