/* rope.c - rotates pairs (x_i, x_{i+D/2}) of every head by the angles of the token's position. */
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"

struct rope_job {
    struct kn_mat x;
    int64_t D;
    const float *cos_sin;
    const int32_t *pos;
    float sign;
    struct cpu_rows rows;
};

static void rope_rows(const struct rope_job *j, int64_t r0, int64_t r1)
{
    struct kn_mat x = j->x;
    int64_t half = j->D / 2;

    for (int64_t r = r0; r < r1; r++) {
        const float *angle = j->cos_sin + j->pos[r] * j->D;

        for (int64_t h = 0; h < x.cols; h += j->D) {
            for (int64_t i = 0; i < half; i += VEC) {
                int64_t n = half - i;
                vf cosine = vf_load_f32(angle + i, n),
                   sine = vf_load_f32(angle + half + i, n) * j->sign;
                vf a = vf_load(x, r, h + i, n), b = vf_load(x, r, h + half + i, n);

                vf_store(x, r, h + i, n, a * cosine - b * sine);
                vf_store(x, r, h + half + i, n, b * cosine + a * sine);
            }
        }
    }
}

static void rope_item(void *arg, int64_t item, int thread)
{
    const struct rope_job *j = arg;

    (void)thread;
    rope_rows(j, item * j->rows.per, cpu_rows_end(j->rows, item));
}

void cpu_rope(struct kn_stream *s, struct kn_mat x, int64_t D, const float *cos_sin,
              const int32_t *pos, bool inverse)
{
    struct rope_job j = {.x = x,
                         .D = D,
                         .cos_sin = cos_sin,
                         .pos = pos,
                         .sign = inverse ? -1.0f : 1.0f,
                         .rows = cpu_rows(x.rows, x.cols)};

    if (kn_check_heads_of(cpu_check(s, "rope"), "x", x, D))
        pool_run(s->pool, cpu_rows_items(j.rows), rope_item, &j);
}
