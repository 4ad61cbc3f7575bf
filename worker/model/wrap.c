/* wrap.c - rows with a copy of their end put before them; see wrap.h. */
#include "worker/model/wrap.h"

static int64_t long_row(const struct wrap *w)
{
    return w->row + w->lead;
}

/* A buffer of the room, for what `like` is. */
static struct kn_mat room(const struct wrap *w, void *p, struct kn_mat like)
{
    return kn_mat(p, like.t, w->rows * long_row(w), like.cols);
}

static struct kn_mat copies(const struct wrap *w, struct kn_mat m, int64_t r)
{
    return kn_rows(m, r * long_row(w), w->lead);
}

/* Each row behind a copy of its last tokens. */
static struct kn_mat put(const struct device *d, const struct wrap *w, void *p, struct kn_mat from)
{
    struct kn_mat to = room(w, p, from);

    for (int64_t r = 0; r < w->rows; r++) {
        d->ops->copy(d->stream, copies(w, to, r),
                     kn_rows(from, (r + 1) * w->row - w->lead, w->lead));
        d->ops->copy(d->stream, kn_rows(to, r * long_row(w) + w->lead, w->row),
                     kn_rows(from, r * w->row, w->row));
    }
    return to;
}

static void take(const struct device *d, const struct wrap *w, struct kn_mat to, struct kn_mat from)
{
    for (int64_t r = 0; r < w->rows; r++)
        d->ops->copy(d->stream, kn_rows(to, r * w->row, w->row),
                     kn_rows(from, r * long_row(w) + w->lead, w->row));
}

/* And what the copies got, too. */
static void take_sum(const struct device *d, const struct wrap *w, struct kn_mat to,
                     struct kn_mat from)
{
    take(d, w, to, from);
    for (int64_t r = 0; r < w->rows; r++) {
        struct kn_mat last = kn_rows(to, (r + 1) * w->row - w->lead, w->lead);

        d->ops->add(d->stream, last, last, copies(w, from, r));
    }
}

/* The same for lse, whose tokens are columns. */
static struct kn_mat lse_of(float *lse, int64_t H, int64_t tokens)
{
    return kn_mat(lse, KN_F32, H, tokens);
}

static void put_lse(const struct device *d, const struct wrap *w, struct kn_mat to,
                    struct kn_mat from)
{
    for (int64_t r = 0; r < w->rows; r++) {
        d->ops->copy(d->stream, kn_sub(to, 0, to.rows, r * long_row(w), w->lead),
                     kn_sub(from, 0, to.rows, (r + 1) * w->row - w->lead, w->lead));
        d->ops->copy(d->stream, kn_sub(to, 0, to.rows, r * long_row(w) + w->lead, w->row),
                     kn_sub(from, 0, to.rows, r * w->row, w->row));
    }
}

static void take_lse(const struct device *d, const struct wrap *w, struct kn_mat to,
                     struct kn_mat from)
{
    for (int64_t r = 0; r < w->rows; r++)
        d->ops->copy(d->stream, kn_sub(to, 0, to.rows, r * w->row, w->row),
                     kn_sub(from, 0, to.rows, r * long_row(w) + w->lead, w->row));
}

void wrap_attention_fwd(const struct device *d, const struct wrap *w, struct kn_mat o, float *lse,
                        struct kn_mat q, struct kn_mat k, struct kn_mat v,
                        const struct kn_segments *seg, int64_t H, int64_t KV, int64_t D,
                        float scale)
{
    const struct wrap_room *to = &w->room;
    struct kn_mat out = room(w, to->o, o);

    d->ops->attention_fwd(d->stream, out, to->lse, put(d, w, to->q, q), put(d, w, to->k, k),
                          put(d, w, to->v, v), seg, H, KV, D, scale);
    take(d, w, o, out);
    take_lse(d, w, lse_of(lse, H, w->rows * w->row), lse_of(to->lse, H, seg->T));
}

void wrap_attention_bwd(const struct device *d, const struct wrap *w, struct kn_mat dq,
                        struct kn_mat dk, struct kn_mat dv, struct kn_mat d_o, struct kn_mat q,
                        struct kn_mat k, struct kn_mat v, struct kn_mat o, const float *lse,
                        const struct kn_segments *seg, int64_t H, int64_t KV, int64_t D,
                        float scale)
{
    const struct wrap_room *to = &w->room;
    struct kn_mat all_dq = room(w, to->dq, dq), all_dk = room(w, to->dk, dk),
                  all_dv = room(w, to->dv, dv);
    struct kn_mat all_d_o = put(d, w, to->d_o, d_o);

    /* A copy's query sees no more than the original's, so with the original's lse its weights stay
     * below 1, and without a gradient they come to nothing. */
    put_lse(d, w, lse_of(to->lse, H, seg->T), lse_of((float *)lse, H, w->rows * w->row));
    for (int64_t r = 0; r < w->rows; r++)
        d->ops->fill(d->stream, copies(w, all_d_o, r), 0);
    d->ops->attention_bwd(d->stream, all_dq, all_dk, all_dv, all_d_o, put(d, w, to->q, q),
                          put(d, w, to->k, k), put(d, w, to->v, v), put(d, w, to->o, o), to->lse,
                          seg, H, KV, D, scale);
    take(d, w, dq, all_dq);
    take_sum(d, w, dk, all_dk);
    take_sum(d, w, dv, all_dv);
}
