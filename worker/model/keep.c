/* keep.c - a greedy choice of what is kept; see keep.h. */
#include "worker/model/keep.h"
#include "kernels/profile.h"

const char *keep_name(enum work_keep what)
{
    static const char *const names[WORK_KEEPS] = {
        [WORK_KEEP_SCORES] = "scores",
        [WORK_KEEP_QKV] = "qkv",
        [WORK_KEEP_X1] = "x1",
        [WORK_KEEP_GATES] = "gates",
    };

    return names[what];
}

/* The order in which things are worth keeping: time spared a byte, falling. */
static void order_by_worth(const struct llama *m, int64_t row_tokens, int64_t group,
                           enum work_keep order[WORK_KEEPS])
{
    double worth[WORK_KEEPS];

    for (int i = 0; i < WORK_KEEPS; i++) {
        double flops = llama_flops_kept(m, (enum work_keep)i, row_tokens, group);
        int at = i;

        if (i == WORK_KEEP_SCORES)
            flops *= kn_cpu_attention_weight(m->dims.dtype);
        worth[i] = flops / (double)work_keep_bytes(&m->dims, (enum work_keep)i);
        for (; at > 0 && worth[order[at - 1]] < worth[i]; at--)
            order[at] = order[at - 1];
        order[at] = (enum work_keep)i;
    }
}

/* The most layers that may keep `what` beside what is kept already; more layers never need less
 * memory. */
static int most_layers(struct llama *m, enum work_keep what, uint64_t limit_bytes,
                       struct lh_err *reterr)
{
    int64_t keep[WORK_KEEPS], low = 0, high = m->dims.L;

    for (int i = 0; i < WORK_KEEPS; i++)
        keep[i] = m->dims.keep[i];
    while (low < high) {
        int rc;

        keep[what] = low + (high - low + 1) / 2;
        rc = llama_keep(m, keep, reterr);
        if (rc < 0)
            return rc;
        if (!m->plan.failed && plan_total(&m->plan) <= limit_bytes)
            low = keep[what];
        else
            high = keep[what] - 1;
    }
    keep[what] = low;
    return llama_keep(m, keep, reterr);
}

int keep_choose(struct llama *m, int64_t row_tokens, int64_t group, uint64_t limit_bytes,
                struct lh_err *reterr)
{
    enum work_keep order[WORK_KEEPS] = {0};
    const int64_t nothing[WORK_KEEPS] = {0};
    int rc;

    if (!m->dims.backward)
        return 0;
    order_by_worth(m, row_tokens, group, order);
    rc = llama_keep(m, nothing, reterr);
    for (int i = 0; rc == 0 && i < WORK_KEEPS; i++)
        rc = most_layers(m, order[i], limit_bytes, reterr);
    return rc;
}
