/* elementwise.c - sums, copies between types, fills, and the search for NaN and infinity. All bound
 * by memory. */
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"

struct elementwise_job {
    struct kn_mat y, a, b;
    float value;
    struct cpu_rows rows;
    int64_t *found; /* of each item */
};

void cpu_copy_part(struct kn_mat y, struct kn_mat x, int64_t r0, int64_t r1)
{
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = 0; c < y.cols; c += VEC)
            vf_store(y, r, c, y.cols - c, vf_load(x, r, c, y.cols - c));
}

void cpu_add_part(struct kn_mat y, struct kn_mat a, struct kn_mat b, int64_t r0, int64_t r1)
{
    for (int64_t r = r0; r < r1; r++) {
        for (int64_t c = 0; c < y.cols; c += VEC) {
            int64_t n = y.cols - c;

            vf_store(y, r, c, n, vf_load(a, r, c, n) + vf_load(b, r, c, n));
        }
    }
}

static void add_item(void *arg, int64_t item, int thread)
{
    const struct elementwise_job *j = arg;

    (void)thread;
    cpu_add_part(j->y, j->a, j->b, item * j->rows.per, cpu_rows_end(j->rows, item));
}

void cpu_add(struct kn_stream *s, struct kn_mat y, struct kn_mat a, struct kn_mat b)
{
    struct kn_check ck = cpu_check(s, "add");
    struct elementwise_job j = {.y = y, .a = a, .b = b, .rows = cpu_rows(y.rows, y.cols)};

    if (kn_check_same(ck, "a", a, "b", b) && kn_check_same(ck, "a", a, "y", y))
        pool_run(s->pool, cpu_rows_items(j.rows), add_item, &j);
}

static void copy_item(void *arg, int64_t item, int thread)
{
    const struct elementwise_job *j = arg;

    (void)thread;
    cpu_copy_part(j->y, j->a, item * j->rows.per, cpu_rows_end(j->rows, item));
}

void cpu_copy(struct kn_stream *s, struct kn_mat y, struct kn_mat x)
{
    struct elementwise_job j = {.y = y, .a = x, .rows = cpu_rows(y.rows, y.cols)};

    if (kn_check_same(cpu_check(s, "copy"), "x", x, "y", y))
        pool_run(s->pool, cpu_rows_items(j.rows), copy_item, &j);
}

static void fill_item(void *arg, int64_t item, int thread)
{
    const struct elementwise_job *j = arg;
    vf x = vf_all(j->value);

    (void)thread;
    for (int64_t r = item * j->rows.per; r < cpu_rows_end(j->rows, item); r++)
        for (int64_t c = 0; c < j->y.cols; c += VEC)
            vf_store(j->y, r, c, j->y.cols - c, x);
}

void cpu_fill(struct kn_stream *s, struct kn_mat y, float value)
{
    struct elementwise_job j = {.y = y, .value = value, .rows = cpu_rows(y.rows, y.cols)};

    if (kn_check_mat(cpu_check(s, "fill"), "y", y))
        pool_run(s->pool, cpu_rows_items(j.rows), fill_item, &j);
}

/* Exponent bits all ones: NaN or infinity, whatever the compiler thinks of floating point. */
static bool nonfinite_at(struct kn_mat x, int64_t r, int64_t c)
{
    int64_t i = r * x.ld + c;

    if (x.t == KN_BF16)
        return (((const uint16_t *)x.p)[i] & 0x7f80u) == 0x7f80u;
    return (((const uint32_t *)x.p)[i] & 0x7f800000u) == 0x7f800000u;
}

static int64_t nonfinite_rows(struct kn_mat x, int64_t r0, int64_t r1)
{
    for (int64_t r = r0; r < r1; r++) {
        vi seen = {0};
        vf any;

        for (int64_t c = 0; c < x.cols; c += VEC)
            seen |= ((vi)vf_load(x, r, c, x.cols - c) & 0x7f800000) == 0x7f800000;
        any = vf_select(seen, vf_all(1.0f), (vf){0});
        for (int64_t c = 0; vf_max_lane(any) > 0.0f && c < x.cols; c++)
            if (nonfinite_at(x, r, c))
                return r * x.cols + c;
    }
    return -1;
}

static void nonfinite_item(void *arg, int64_t item, int thread)
{
    const struct elementwise_job *j = arg;

    (void)thread;
    j->found[item] = nonfinite_rows(j->a, item * j->rows.per, cpu_rows_end(j->rows, item));
}

void cpu_first_nonfinite(struct kn_stream *s, int64_t *ret_index, struct kn_mat x)
{
    struct elementwise_job j = {.a = x, .rows = cpu_rows(x.rows, x.cols)};
    int64_t n = cpu_rows_items(j.rows);

    if (!kn_check_mat(cpu_check(s, "first_nonfinite"), "x", x))
        return;
    j.found = stream_shared(s, (uint64_t)n * sizeof(*j.found));
    if (!j.found)
        return;
    pool_run(s->pool, n, nonfinite_item, &j);
    *ret_index = -1;
    for (int64_t i = n - 1; i >= 0; i--)
        if (j.found[i] >= 0)
            *ret_index = j.found[i];
}
