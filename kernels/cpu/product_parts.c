/* product_parts.c - an item of a product of fp32 in parts, for product_amx.c.
 *
 * Parts take three times the room of bf16 and six times the work. So an item packs some strips of a
 * by itself, they stay in L2, and panel after panel of a block of columns meets all of them: each
 * is fetched from L3 once an item, and asked for while the one before is at work.
 */
#include "kernels/cpu/product_strip.h"

/* Strip i of an item asks for its part of the next panel, and for the next strip's block of c. */
static void product_parts_ahead(const struct product *j, struct product_part *p, int64_t i)
{
    int64_t panel = product_packed(j, p->k1 - p->k0) * AMX_STEP;

    p->ahead[0] = (struct product_ahead){
        p->n1 < j->n1 ? (const char *)(p->packed + panel + i * panel / STRIPS_MAX) : NULL,
        AHEAD_BYTES};
    p->ahead[1] = (struct product_ahead){NULL, j->c.ld * 4};
    if (product_direct(j, p->m + AMX_STEP, p->n0))
        p->ahead[1].p = (const char *)((float *)j->c.p + (p->m + AMX_STEP) * j->c.ld + p->n0);
}

void product_parts_item(void *arg, int64_t item, int thread)
{
    const struct product *j = arg;
    int64_t rows = j->strips * AMX_STEP, groups = (j->m1 - j->m0 + rows - 1) / rows;
    int64_t K = product_packed(j, j->k1 - j->k0), first = j->m0 + item % groups * rows;
    int64_t last = LH_MIN(j->m1, first + rows), begin = j->n0 + item / groups * j->cols;
    uint16_t *low = j->s->local[thread].p, *strips = low + rows * AMX_STEP * j->parts;
    float *room = (float *)(strips + rows * K);
    struct product_part p = {
        .k0 = j->k0, .k1 = j->k1, .a = {.ld = AMX_STEP, .step = AMX_BLOCK * j->parts}};

    product_amx_begin();
    for (int64_t k = j->k0; j->ta && k < j->k1; k += AMX_STEP)
        product_pack_turned(j, strips, first, last, k);
    for (p.m = first; p.m < last; p.m += AMX_STEP) {
        p.a.p = strips + (p.m - first) * K;
        if (!j->ta)
            product_pack_a(strips + (p.m - first) * K, j->a, false, p.m,
                           LH_MIN(AMX_STEP, j->M - p.m), j->k0, j->k1);
        if (j->low)
            product_low_strip(j, &p, begin == 0, room, low + (p.m - first) * AMX_STEP * j->parts);
    }
    for (p.n0 = begin; p.n0 < LH_MIN(j->n1, begin + j->cols); p.n0 = p.n1) {
        p.n1 = LH_MIN(j->n1, p.n0 + AMX_STEP);
        p.packed = j->packed + (p.n0 - j->n0) * K;
        for (p.m = first; p.m < last; p.m += AMX_STEP) {
            p.a.p = strips + (p.m - first) * K;
            product_parts_ahead(j, &p, (p.m - first) / AMX_STEP);
            product_strip(j, &p, room, j->low ? low + (p.m - first) * AMX_STEP * j->parts : NULL);
        }
    }
    product_amx_end();
}
