/* rmsnorm.c - y = x * rstd * g, and its gradients.
 *
 * Sums over a row are fp32 in VEC lanes, of C / VEC terms each. A row is read twice, the second
 * time from L1. dg is summed in two stages: every item of rows leaves its own sums in scratch, then
 * the items' sums are added in order, columns shared out.
 */
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"
#include <math.h>
#include <string.h>

#define NORM_COLS 256 /* columns of one item of the second stage */

struct rmsnorm_job {
    struct kn_mat y, x, dx, dy;
    float *rstd, *dg;
    const float *rstd_in, *g;
    float eps;
    struct cpu_rows rows;
    float *partial; /* (items, C), or NULL */
    int64_t items;
};

/* One vector of each loop below: n columns from c on. */
VEC_INLINE vf rmsnorm_square(const struct rmsnorm_job *j, int64_t r, int64_t c, int64_t n)
{
    vf v = vf_load(j->x, r, c, n);

    return v * v;
}

VEC_INLINE void rmsnorm_scale(const struct rmsnorm_job *j, float rstd, int64_t r, int64_t c,
                              int64_t n)
{
    vf_store(j->y, r, c, n, vf_load(j->x, r, c, n) * rstd * vf_load_f32(j->g + c, n));
}

VEC_INLINE vf rmsnorm_dot(const struct rmsnorm_job *j, float *dg, float rstd, int64_t r, int64_t c,
                          int64_t n)
{
    vf part = vf_load(j->dy, r, c, n) * (vf_load(j->x, r, c, n) * rstd);

    if (dg)
        vf_store_f32(dg + c, n, vf_load_f32(dg + c, n) + part);
    return part * vf_load_f32(j->g + c, n);
}

VEC_INLINE void rmsnorm_add(const struct rmsnorm_job *j, float rstd, float mean, int64_t r,
                            int64_t c, int64_t n)
{
    vf xhat = vf_load(j->x, r, c, n) * rstd;
    vf d = rstd * (vf_load(j->dy, r, c, n) * vf_load_f32(j->g + c, n) - xhat * mean);

    vf_store(j->dx, r, c, n, vf_load(j->dx, r, c, n) + d);
}

VEC_INLINE void rmsnorm_fwd_rows(const struct rmsnorm_job *j, int64_t r0, int64_t r1)
{
    int64_t C = j->x.cols, whole = C / VEC * VEC;

    for (int64_t r = r0; r < r1; r++) {
        vf squares = {0};
        float rstd;

        for (int64_t c = 0; c < whole; c += VEC)
            squares += rmsnorm_square(j, r, c, VEC);
        if (whole < C)
            squares += rmsnorm_square(j, r, whole, C - whole);
        rstd = (float)(1.0 / sqrt((double)vf_sum(squares) / (double)C + (double)j->eps));
        j->rstd[r] = rstd;
        for (int64_t c = 0; c < whole; c += VEC)
            rmsnorm_scale(j, rstd, r, c, VEC);
        if (whole < C)
            rmsnorm_scale(j, rstd, r, whole, C - whole);
    }
}

VEC_INLINE void rmsnorm_bwd_rows(const struct rmsnorm_job *j, int64_t r0, int64_t r1, float *dg)
{
    int64_t C = j->x.cols, whole = C / VEC * VEC;

    for (int64_t r = r0; r < r1; r++) {
        vf dots = {0};
        float rstd = j->rstd_in[r], mean;

        for (int64_t c = 0; c < whole; c += VEC)
            dots += rmsnorm_dot(j, dg, rstd, r, c, VEC);
        if (whole < C)
            dots += rmsnorm_dot(j, dg, rstd, r, whole, C - whole);
        mean = (float)((double)vf_sum(dots) / (double)C);
        for (int64_t c = 0; c < whole; c += VEC)
            rmsnorm_add(j, rstd, mean, r, c, VEC);
        if (whole < C)
            rmsnorm_add(j, rstd, mean, r, whole, C - whole);
    }
}

/* The job with bf16 as constants: the loops exist a second time for it, with no branch in them. */
VEC_INLINE struct rmsnorm_job rmsnorm_bf16(const struct rmsnorm_job *j)
{
    struct rmsnorm_job b = *j;

    b.x.t = b.y.t = b.dx.t = b.dy.t = KN_BF16;
    return b;
}

static void rmsnorm_fwd_item(void *arg, int64_t item, int thread)
{
    const struct rmsnorm_job *j = arg;
    struct rmsnorm_job b = rmsnorm_bf16(j);

    (void)thread;
    if (j->x.t == KN_BF16 && j->y.t == KN_BF16)
        rmsnorm_fwd_rows(&b, item * j->rows.per, cpu_rows_end(j->rows, item));
    else
        rmsnorm_fwd_rows(j, item * j->rows.per, cpu_rows_end(j->rows, item));
}

static void rmsnorm_bwd_item(void *arg, int64_t item, int thread)
{
    const struct rmsnorm_job *j = arg;
    struct rmsnorm_job b = rmsnorm_bf16(j);
    float *dg = j->partial ? j->partial + item * j->x.cols : NULL;

    (void)thread;
    if (dg)
        memset(dg, 0, (size_t)j->x.cols * sizeof(*dg));
    if (j->x.t == KN_BF16 && j->dx.t == KN_BF16 && j->dy.t == KN_BF16)
        rmsnorm_bwd_rows(&b, item * j->rows.per, cpu_rows_end(j->rows, item), dg);
    else
        rmsnorm_bwd_rows(j, item * j->rows.per, cpu_rows_end(j->rows, item), dg);
}

static void rmsnorm_dg_item(void *arg, int64_t item, int thread)
{
    const struct rmsnorm_job *j = arg;
    int64_t C = j->x.cols;

    (void)thread;
    for (int64_t c = item * NORM_COLS; c < LH_MIN(C, (item + 1) * NORM_COLS); c++) {
        double sum = 0.0;

        for (int64_t i = 0; i < j->items; i++)
            sum += (double)j->partial[i * C + c];
        j->dg[c] = (float)((double)j->dg[c] + sum);
    }
}

void cpu_rmsnorm_fwd(struct kn_stream *s, struct kn_mat y, float *rstd, struct kn_mat x,
                     const float *g, float eps)
{
    struct rmsnorm_job j = {
        .y = y, .x = x, .rstd = rstd, .g = g, .eps = eps, .rows = cpu_rows(x.rows, x.cols)};

    if (kn_check_same(cpu_check(s, "rmsnorm_fwd"), "x", x, "y", y))
        pool_run(s->pool, cpu_rows_items(j.rows), rmsnorm_fwd_item, &j);
}

void cpu_rmsnorm_bwd(struct kn_stream *s, struct kn_mat dx, float *dg, struct kn_mat dy,
                     struct kn_mat x, const float *g, const float *rstd)
{
    struct kn_check ck = cpu_check(s, "rmsnorm_bwd");
    struct rmsnorm_job j = {.x = x,
                            .dx = dx,
                            .dy = dy,
                            .dg = dg,
                            .g = g,
                            .rstd_in = rstd,
                            .rows = cpu_rows(x.rows, x.cols)};

    if (!kn_check_same(ck, "x", x, "dy", dy) || !kn_check_same(ck, "x", x, "dx", dx))
        return;
    j.items = cpu_rows_items(j.rows);
    if (dg) {
        j.partial = stream_shared(s, (uint64_t)(j.items * x.cols) * sizeof(float));
        if (!j.partial)
            return;
    }
    pool_run(s->pool, j.items, rmsnorm_bwd_item, &j);
    if (dg)
        pool_run(s->pool, (x.cols + NORM_COLS - 1) / NORM_COLS, rmsnorm_dg_item, &j);
}
