/* attention.c - the forward pass of attention, and the form for cached keys.
 *
 * For a round of kv heads, as many as ATTN_PACK_MAX holds, K is packed transposed and V plain,
 * once, a band of queries at a time, in place of keys that no query sees any more. Then every block
 * of TILE_ROWS queries walks over its tiles of keys: scores, weights with a running maximum,
 * weighted sum of V. No matrix of T x T exists. Blocks are shared out in a fixed order and do not
 * meet, so threads do not change the bits.
 */
#include "kernels/cpu/attention.h"
#include <math.h>

#define FWD_ROWS 128 /* queries of one item */
#define FWD_BLOCKS (FWD_ROWS / TILE_ROWS)
#define FWD_BAND 8  /* chunks of a head at least before the next head's: keys stay in L2 */
#define FWD_ITEMS 4 /* of a thread in a band */
#define CACHED_ROWS_FEW                                                                            \
    8 /* up to so many queries are faster one by one: packing reads all keys                       \
       */

enum { PACK_K, PACK_V, FWD_KINDS };

struct attn_fwd {
    struct attn a;
    int64_t tile0, n_tiles;   /* keys that are packed now */
    int64_t band;             /* chunks at a time: FWD_ROWS queries each */
    int64_t chunk0, n_chunks; /* the band that is run now */
};

void attn_init(struct attn *a)
{
    a->tiles = tile_ops_for(a->s->isa, a->q.t);
    a->Dp = (a->D + TILE_STEP - 1) / TILE_STEP * TILE_STEP;
    a->group = a->H / a->KV;
    a->n_tiles = (a->T + TILE_TOKENS - 1) / TILE_TOKENS;
    a->tile_bytes = (uint64_t)(TILE_TOKENS * a->Dp * a->tiles->element);
}

/* One thread's scratch: FWD_BLOCKS blocks of TILE_ROWS rows. */
struct fwd_local {
    char *a;    /* x Dp each: operands */
    float *out; /* x Dp each: sums */
    float *s;   /* TILE_ROWS x TILE_TOKENS: scores */
    void *w;    /* TILE_ROWS x TILE_TOKENS: weights, as operand */
};

static bool fwd_local_reserve(const struct attn *a)
{
    return stream_local(
        a->s, (uint64_t)(TILE_ROWS * (4 + a->tiles->element) * (FWD_BLOCKS * a->Dp + TILE_TOKENS)));
}

static struct fwd_local fwd_local_of(const struct attn *a, int thread)
{
    float *s = a->s->local[thread].p, *out = s + TILE_ROWS * TILE_TOKENS;
    char *w = (char *)(out + FWD_ROWS * a->Dp);

    return (struct fwd_local){
        .s = s, .out = out, .w = w, .a = w + TILE_ROWS * TILE_TOKENS * a->tiles->element};
}

static void attention_pack_item(void *arg, int64_t item, int thread)
{
    const struct attn_fwd *f = arg;
    const struct attn *a = &f->a;
    int64_t i = item / f->n_tiles, t = f->tile0 + item % f->n_tiles, j0 = t * TILE_TOKENS;
    int64_t n = LH_MIN(TILE_TOKENS, a->T - j0);

    (void)thread;
    attn_prefetch(a->k, j0, n, a->kv0 + i, a->D);
    attn_prefetch(a->v, j0, n, a->kv0 + i, a->D);
    a->tiles->pack->transposed(a->tiles, attn_packed(a, i, t, PACK_K, FWD_KINDS), a->Dp,
                               attn_head(a->k, j0, n, a->kv0 + i, a->D));
    a->tiles->pack->plain(a->tiles, attn_packed(a, i, t, PACK_V, FWD_KINDS), a->Dp,
                          attn_head(a->v, j0, n, a->kv0 + i, a->D));
}

/* A block of TILE_ROWS queries of a head, as it walks over its tiles of keys. */
struct fwd_block {
    const void *a;
    float *out;
    int64_t r0, n, first, last; /* rows from r0 on, n of them; keys that some row sees */
    int64_t cut;                /* where the last row's keys begin */
    struct softmax_rows rows;
};

static void fwd_block_begin(const struct attn *a, const struct fwd_local *l, int64_t h, int64_t i,
                            struct fwd_block *b)
{
    int64_t i0 = a->q0 + b->r0;
    char *rows = l->a + i * TILE_ROWS * a->Dp * a->tiles->element;

    b->a = rows;
    b->out = l->out + i * TILE_ROWS * a->Dp;
    b->n = LH_MIN(TILE_ROWS, a->q.rows - b->r0);
    b->last = i0 + b->n - 1;
    b->first = a->seg ? attn_begin(a, h)[i0] : 0;
    b->cut = a->seg ? attn_begin(a, h)[b->last] : 0;
    softmax_start(&b->rows);
    a->tiles->pack->a(a->tiles, rows, a->Dp, attn_head(a->q, b->r0, b->n, h, a->D));
    attn_prefetch(a->q, b->r0 + TILE_ROWS, TILE_ROWS, h, a->D);
}

static void fwd_block_tile(const struct attn *a, const struct fwd_local *l, int64_t h, int64_t t,
                           struct fwd_block *b)
{
    int64_t j0 = t * TILE_TOKENS, i0 = a->q0 + b->r0, kv = h / a->group - a->kv0;
    struct attn_span span = attn_span(j0, b->first, b->last);
    bool add = t > b->first / TILE_TOKENS;

    attn_span_open(&span, i0, j0, b->cut);
    for (int64_t r = 0; span.open < span.n1 && r < TILE_ROWS; r++) {
        int64_t i = LH_MIN(i0 + r, b->last);

        b->rows.lo[r] = (int32_t)((a->seg ? attn_begin(a, h)[i] : 0) - j0);
        b->rows.hi[r] = (int32_t)(i - j0);
    }
    attn_scores(a, l->s, b->a, attn_packed(a, kv, t, PACK_K, FWD_KINDS), span);
    softmax_forward(a->tiles, &b->rows, l->s, l->w, span, a->scale * (float)M_LOG2E);
    if (add)
        softmax_rescale(&b->rows, b->out, a->Dp);
    attn_weigh(a, b->out, l->w, attn_packed(a, kv, t, PACK_V, FWD_KINDS), span, add);
}

/* The blocks take a tile of keys in turns, so that it comes from L3 once for all of them. */
static void attention_fwd_item(void *arg, int64_t item, int thread)
{
    const struct attn_fwd *f = arg;
    const struct attn *a = &f->a;
    struct fwd_local l = fwd_local_of(a, thread);
    struct fwd_block block[FWD_BLOCKS];
    int64_t i = item / f->n_chunks, at = item % f->n_chunks, h = a->kv0 * a->group + i, n = 0;
    /* Later queries cost more: every other head runs backwards, so that no thread gets all the long
     * ones. */
    int64_t chunk = f->chunk0 + (i % 2 == 0 ? at : f->n_chunks - 1 - at), first = a->n_tiles;

    a->tiles->begin();
    for (int64_t r0 = chunk * FWD_ROWS; r0 < LH_MIN(a->q.rows, (chunk + 1) * FWD_ROWS);
         r0 += TILE_ROWS, n++) {
        block[n].r0 = r0;
        fwd_block_begin(a, &l, h, n, &block[n]);
        first = LH_MIN(first, block[n].first / TILE_TOKENS);
    }
    for (int64_t t = first; n > 0 && t <= block[n - 1].last / TILE_TOKENS; t++)
        for (struct fwd_block *b = block; b < block + n; b++)
            if (b->first / TILE_TOKENS <= t && t <= b->last / TILE_TOKENS)
                fwd_block_tile(a, &l, h, t, b);
    for (struct fwd_block *b = block; b < block + n; b++)
        softmax_finish(&b->rows, b->out, a->Dp, attn_head(a->o, b->r0, b->n, h, a->D),
                       a->lse ? a->lse + h * a->T + b->r0 : NULL);
    a->tiles->end();
}

/* All queries of the heads of this round, band by band: their keys are packed, then they run. */
static void forward_heads(struct attn_fwd *f)
{
    struct attn *a = &f->a;
    int64_t chunks = (a->q.rows + FWD_ROWS - 1) / FWD_ROWS, packed = 0;

    for (f->chunk0 = 0; f->chunk0 < chunks; f->chunk0 += f->band) {
        int64_t end = LH_MIN(a->T, a->q0 + (f->chunk0 + f->band) * FWD_ROWS);

        f->n_chunks = LH_MIN(f->band, chunks - f->chunk0);
        f->tile0 = packed;
        packed = (end + TILE_TOKENS - 1) / TILE_TOKENS;
        f->n_tiles = packed - f->tile0;
        pool_run(a->s->pool, a->n_kv * f->n_tiles, attention_pack_item, f);
        pool_run(a->s->pool, a->n_kv * a->group * f->n_chunks, attention_fwd_item, f);
    }
}

/* The most tiles of keys that a band may see. */
static int64_t fwd_ring(const struct attn *a, int64_t band)
{
    if (!a->seg)
        return a->n_tiles;
    return LH_MIN(a->n_tiles, band * FWD_ROWS / TILE_TOKENS + attn_back(a, TILE_TOKENS));
}

static void attention_forward(const struct attn *call)
{
    struct attn_fwd f = {.a = *call, .band = LH_MAX(FWD_BAND, FWD_ITEMS * call->s->threads)};
    struct attn *a = &f.a;
    uint64_t head_bytes;
    int64_t round;

    attn_init(a);
    a->ring = fwd_ring(a, f.band);
    head_bytes = (uint64_t)a->ring * FWD_KINDS * a->tile_bytes;
    round = (int64_t)LH_MAX(1, LH_MIN((uint64_t)a->KV, ATTN_PACK_MAX / LH_MAX(head_bytes, 1)));
    a->packed = stream_shared(a->s, (uint64_t)round * head_bytes);
    if (!a->packed || !fwd_local_reserve(a))
        return;
    for (a->kv0 = 0; a->kv0 < a->KV; a->kv0 += round) {
        a->n_kv = LH_MIN(round, a->KV - a->kv0);
        forward_heads(&f);
    }
}

void cpu_attention_fwd(struct kn_stream *s, struct kn_mat o, float *lse, struct kn_mat q,
                       struct kn_mat k, struct kn_mat v, const struct kn_segments *seg, int64_t H,
                       int64_t KV, int64_t D, float scale)
{
    struct kn_check ck = cpu_check(s, "attention_fwd");
    struct attn a = {.s = s,
                     .q = q,
                     .k = k,
                     .v = v,
                     .o = o,
                     .lse = lse,
                     .seg = seg,
                     .T = seg->T,
                     .H = H,
                     .KV = KV,
                     .D = D,
                     .scale = scale};

    if (kn_check_attention(ck, q, k, v, seg->T, seg->T, (struct kn_heads){H, KV, D}) &&
        kn_check_same(ck, "q", q, "o", o))
        attention_forward(&a);
}

void cpu_attention_cached(struct kn_stream *s, struct kn_mat o, struct kn_mat q, struct kn_mat k,
                          struct kn_mat v, int64_t q0, int64_t H, int64_t KV, int64_t D,
                          float scale)
{
    struct kn_check ck = cpu_check(s, "attention_cached");
    struct attn a = {.s = s,
                     .q = q,
                     .k = k,
                     .v = v,
                     .o = o,
                     .T = q0 + q.rows,
                     .q0 = q0,
                     .H = H,
                     .KV = KV,
                     .D = D,
                     .scale = scale};

    if (!kn_check_attention(ck, q, k, v, q.rows, q0 + q.rows, (struct kn_heads){H, KV, D}) ||
        !kn_check_same(ck, "q", q, "o", o))
        return;
    if (q.rows > CACHED_ROWS_FEW)
        attention_forward(&a);
    else
        attention_rows(&a);
}
