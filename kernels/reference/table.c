/* table.c - the reference back end's stream, memory, and table of ops. */
#include "kernels/reference/ref.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REF_ALIGN 64

double *ref_scratch(struct kn_stream *s, int64_t n)
{
    double *p;

    if (s->err.code != 0)
        return NULL;
    if (n <= s->scratch_n)
        return s->scratch;
    p = realloc(s->scratch, (size_t)n * sizeof(*p));
    if (!p) {
        (void)lh_err_set(&s->err, -ENOMEM, "scratch of the reference back end, %lld doubles",
                         (long long)n);
        return NULL;
    }
    s->scratch = p;
    s->scratch_n = n;
    return p;
}

static int ref_stream_new(int threads, struct kn_stream **ret_stream, struct lh_err *reterr)
{
    struct kn_stream *s = calloc(1, sizeof(*s));

    (void)threads; /* one, always */
    if (!s)
        return lh_err_set(reterr, -ENOMEM, "a stream of the reference back end");
    *ret_stream = s;
    return 0;
}

static void ref_stream_free(struct kn_stream *s)
{
    if (!s)
        return;
    free(s->scratch);
    free(s);
}

static int ref_sync(struct kn_stream *s, struct lh_err *reterr)
{
    int code = s->err.code;

    if (code != 0 && reterr)
        *reterr = s->err;
    s->err = (struct lh_err){0};
    return code;
}

static uint64_t ref_scratch_bytes(const struct kn_stream *s)
{
    return (uint64_t)s->scratch_n * sizeof(double);
}

/* Nothing to be spared: this back end is for small sizes. */
static void ref_rehearse(struct kn_stream *s)
{
    (void)s;
}

static void *ref_alloc(struct kn_stream *s, uint64_t bytes)
{
    (void)s;
    if (bytes > SIZE_MAX - REF_ALIGN)
        return NULL;
    return aligned_alloc(REF_ALIGN, (bytes + REF_ALIGN - 1) / REF_ALIGN * REF_ALIGN);
}

static void ref_free(struct kn_stream *s, void *p)
{
    (void)s;
    free(p);
}

static void ref_upload(struct kn_stream *s, void *device, const void *host, uint64_t bytes)
{
    (void)s;
    memcpy(device, host, bytes);
}

static void ref_download(struct kn_stream *s, void *host, const void *device, uint64_t bytes)
{
    (void)s;
    memcpy(host, device, bytes);
}

const struct kn_ops kn_reference_ops = {
    .name = "reference",
    .stream_new = ref_stream_new,
    .stream_free = ref_stream_free,
    .sync = ref_sync,
    .scratch_bytes = ref_scratch_bytes,
    .rehearse = ref_rehearse,
    .alloc = ref_alloc,
    .free = ref_free,
    .upload = ref_upload,
    .download = ref_download,
    .matmul = ref_matmul,
    .matmul_low = ref_matmul_low,
    .embed_fwd = ref_embed_fwd,
    .embed_bwd = ref_embed_bwd,
    .rmsnorm_fwd = ref_rmsnorm_fwd,
    .rmsnorm_bwd = ref_rmsnorm_bwd,
    .rope = ref_rope,
    .attention_fwd = ref_attention_fwd,
    .attention_cached = ref_attention_cached,
    .attention_bwd = ref_attention_bwd,
    .swiglu_fwd = ref_swiglu_fwd,
    .swiglu_bwd = ref_swiglu_bwd,
    .add = ref_add_op,
    .copy = ref_copy,
    .fill = ref_fill,
    .dropout = ref_dropout,
    .cross_entropy = ref_cross_entropy,
    .sum_squares = ref_sum_squares,
    .adamw = ref_adamw,
    .first_nonfinite = ref_first_nonfinite,
};
