/* flops.c - floating point operations of a pass through the model: products and attention, two for
 * a multiplication and addition. What goes over elements (norms, SiLU, the optimizer) is not
 * counted. See llama.h. */
#include "worker/model/llama.h"
#include <assert.h>

/* Pairs of queries and keys of one row, averaged over the heads: half of them have their groups cut
 * half a group later. Documents are not counted. */
static double pairs(int64_t row_tokens, int64_t group)
{
    double whole = 0, shifted = 0;

    if (group <= 0 || group >= 2 * row_tokens)
        return (double)row_tokens * (double)(row_tokens + 1) / 2;
    for (int64_t t = 0; t < row_tokens; t += group) {
        double n = (double)LH_MIN(group, row_tokens - t);

        whole += n * (n + 1) / 2;
    }
    for (int64_t t = -(group / 2); t < row_tokens; t += group) {
        double n = (double)(LH_MIN(t + group, row_tokens) - LH_MAX(t, (int64_t)0));

        shifted += n * (n + 1) / 2;
    }
    return (whole + shifted) / 2;
}

/* Attention of one layer over a row, forward. */
static double attention_flops(const struct llama *m, int64_t row_tokens, int64_t group)
{
    return 4 * (double)(m->dims.H * m->dims.D) * pairs(row_tokens, group);
}

/* Of a token through these linears of the layers [from, L), their LoRA included; trains: only of
 * what trains. bits: 1 << (role - PARAM_Q). */
static double linear_flops(const struct llama *m, unsigned bits, int64_t from, bool trains)
{
    double flops = 0;

    for (unsigned i = 0; i < m->params.n; i++) {
        const struct param *p = &m->params.at[i];

        if (p->role < PARAM_Q || p->layer < from || (trains && !p->trains))
            continue;
        if (bits & 1u << ((unsigned)p->of - PARAM_Q))
            flops += 2 * (double)p->n;
    }
    return flops;
}

/* The linears whose products are spared. */
static const unsigned kept_linears[WORK_KEEPS] = {
    [WORK_KEEP_QKV] =
        1u << (PARAM_Q - PARAM_Q) | 1u << (PARAM_K - PARAM_Q) | 1u << (PARAM_V - PARAM_Q),
    [WORK_KEEP_X1] = 1u << (PARAM_O - PARAM_Q),
    [WORK_KEEP_GATES] = 1u << (PARAM_GATE - PARAM_Q) | 1u << (PARAM_UP - PARAM_Q),
};

double llama_flops_kept(const struct llama *m, enum work_keep what, int64_t row_tokens,
                        int64_t group)
{
    if (what == WORK_KEEP_SCORES)
        return attention_flops(m, row_tokens, group) / (double)row_tokens;
    return linear_flops(m, kept_linears[what], m->dims.L - 1, false);
}

/* Elements that pass between memory and the processor in one layer, a token. Norms are made again
 * in a backward pass; residuals are copied twice. */
static double layer_elements(const struct llama *m)
{
    double C = (double)m->dims.C, F = (double)m->dims.F;
    double heads = (double)((m->dims.H + m->dims.KV) * m->dims.D);
    double forward = 4 * C + 4 * C + 2 * heads + 3 * F;

    return m->dims.backward ? forward + 4 * C + 8 * C + 2 * heads + 5 * F : forward;
}

/* The same of the embedding and the last norm. The gradient of the embedding is in fp32. */
static double ends_elements(const struct llama *m)
{
    double C = (double)m->dims.C;

    return m->dims.backward ? 4 * C + 10 * C : 4 * C;
}

void llama_count(const struct llama *m, int64_t rows, int64_t row_tokens, int64_t group,
                 struct llama_work *ret_work)
{
    const unsigned all = (1u << PARAMS_LINEARS) - 1;
    const struct param *w = m->head.w;
    double T = (double)(rows * row_tokens), L = (double)m->dims.L, element;
    double head = 2 * (double)w->n, linear = linear_flops(m, all, 0, false);
    double attention = attention_flops(m, row_tokens, group) * (double)rows;

    assert(rows > 0);
    element = (double)kn_dtype_bytes(m->dims.dtype);
    *ret_work = (struct llama_work){
        .products = T * linear,
        .head = T * head,
        .attention = attention * L,
        .bytes = T * element * (L * layer_elements(m) + ends_elements(m)),
    };
    if (!m->dims.backward)
        return;
    /* Gradients of inputs (of attention: 2.5 times the forward pass) and of what trains, and what
     * is done again. The head is computed once. */
    ret_work->products += T * (linear + linear_flops(m, all, 0, true));
    ret_work->head += w->trains ? 2 * T * head : T * head;
    ret_work->attention_bwd = attention * L * 2.5;
    for (int i = 0; i < WORK_KEEPS; i++) {
        double again = T * (double)(m->dims.L - m->dims.keep[i]) *
                       llama_flops_kept(m, (enum work_keep)i, row_tokens, group);

        *(i == WORK_KEEP_SCORES ? &ret_work->attention : &ret_work->products) += again;
    }
}

double llama_flops(const struct llama *m, int64_t rows, int64_t row_tokens, int64_t group)
{
    struct llama_work work;

    llama_count(m, rows, row_tokens, group, &work);
    return work.products + work.head + work.attention + work.attention_bwd;
}
