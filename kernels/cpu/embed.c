/* embed.c - rows of a table, and their gradient.
 *
 * The gradient is shared out by columns: each thread walks all tokens in order for its own columns,
 * so rows of equal id add up in token order and no two threads meet.
 */
#include "kernels/cpu/level.h"
#include "kernels/cpu/vec.h"

#define EMBED_COLS                                                                                 \
    64 /* 256 bytes of each row: four cache lines, and 9 items at the smallest model's 576 columns \
        */

struct embed_job {
    struct kn_mat table, x; /* dtable and dx in the backward pass */
    const int32_t *id;
    struct cpu_rows rows;
};

static void embed_fwd_item(void *arg, int64_t item, int thread)
{
    const struct embed_job *j = arg;

    (void)thread;
    for (int64_t t = item * j->rows.per; t < cpu_rows_end(j->rows, item); t++)
        cpu_copy_part(kn_rows(j->x, t, 1), kn_rows(j->table, j->id[t], 1), 0, 1);
}

static void embed_bwd_cols(const struct embed_job *j, int64_t c0, int64_t c1)
{
    for (int64_t t = 0; t < j->x.rows; t++) {
        for (int64_t c = c0; c < c1; c += VEC) {
            int64_t n = c1 - c, row = j->id[t];

            vf_store(j->table, row, c, n, vf_load(j->table, row, c, n) + vf_load(j->x, t, c, n));
        }
    }
}

static void embed_bwd_item(void *arg, int64_t item, int thread)
{
    const struct embed_job *j = arg;

    (void)thread;
    embed_bwd_cols(j, item * EMBED_COLS, LH_MIN(j->x.cols, (item + 1) * EMBED_COLS));
}

void cpu_embed_fwd(struct kn_stream *s, struct kn_mat x, struct kn_mat table, const int32_t *id)
{
    struct kn_check ck = cpu_check(s, "embed_fwd");
    struct embed_job j = {.table = table, .x = x, .id = id, .rows = cpu_rows(x.rows, x.cols)};

    if (kn_check_mat(ck, "table", table) && kn_check_shape(ck, "x", x, x.rows, table.cols) &&
        kn_check_ids(ck, "id", id, x.rows, table.rows))
        pool_run(s->pool, cpu_rows_items(j.rows), embed_fwd_item, &j);
}

void cpu_embed_bwd(struct kn_stream *s, struct kn_mat dtable, struct kn_mat dx, const int32_t *id)
{
    struct kn_check ck = cpu_check(s, "embed_bwd");
    struct embed_job j = {.table = dtable, .x = dx, .id = id};

    if (kn_check_mat(ck, "dtable", dtable) && kn_check_shape(ck, "dx", dx, dx.rows, dtable.cols) &&
        kn_check_ids(ck, "id", id, dx.rows, dtable.rows))
        pool_run(s->pool, (dx.cols + EMBED_COLS - 1) / EMBED_COLS, embed_bwd_item, &j);
}
