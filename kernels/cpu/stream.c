/* stream.c - the CPU stream: threads, scratch, errors; and memory, which is the host's. */
#include "kernels/cpu/stream.h"
#include "kernels/cpu/onednn.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CPU_ALIGN 64
#define HUGE_ALIGN ((uint64_t)2 << 20)
#define HUGE_MIN (HUGE_ALIGN / 4) /* smaller blocks would waste too much of the last page */

static void *block_grow(struct kn_stream *s, struct cpu_block *b, uint64_t bytes)
{
    void *p;

    if (s->err.code != 0)
        return NULL;
    if (bytes <= b->bytes && b->p)
        return b->p;
    p = stream_alloc(s, bytes);
    if (!p) {
        stream_fail(s, -ENOMEM, "%llu bytes of scratch", (unsigned long long)bytes);
        return NULL;
    }
    free(b->p);
    *b = (struct cpu_block){p, bytes};
    return p;
}

void *stream_shared(struct kn_stream *s, uint64_t bytes)
{
    return block_grow(s, &s->shared, bytes);
}

void *stream_outer(struct kn_stream *s, uint64_t bytes)
{
    return block_grow(s, &s->outer, bytes);
}

bool stream_local(struct kn_stream *s, uint64_t bytes)
{
    for (int i = 0; i < s->threads; i++)
        if (!block_grow(s, &s->local[i], bytes))
            return false;
    return true;
}

void stream_fail(struct kn_stream *s, int code, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    if (s->err.code != 0)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    (void)lh_err_set(&s->err, code, "%s", text);
}

static const struct cpu_level *stream_level(enum cpu_isa isa)
{
#ifdef __x86_64__
    if (isa >= CPU_AVX512_BF16)
        return &cpu_level_ops_avx512_bf16;
    if (isa >= CPU_AVX512)
        return &cpu_level_ops_avx512;
    if (isa >= CPU_AVX2)
        return &cpu_level_ops_avx2;
#endif
    (void)isa;
    return &cpu_level_ops_base;
}

int stream_new(int threads, struct kn_stream **ret_stream, struct lh_err *reterr)
{
    struct kn_stream *s = calloc(1, sizeof(*s));
    int rc;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "a stream of %d threads", threads);
    s->isa = cpu_isa_detect();
    s->level = stream_level(s->isa);
    s->threads = threads;
    rc = pool_new(threads, &s->pool, reterr);
    if (rc == 0)
        rc = onednn_new(s->isa, threads, &s->dnn, reterr);
    if (rc == 0) {
        s->local = calloc((size_t)threads, sizeof(*s->local));
        if (!s->local)
            rc = lh_err_set(reterr, -ENOMEM, "a stream of %d threads", threads);
    }
    if (rc != 0) {
        stream_free(s);
        return rc;
    }
    *ret_stream = s;
    return 0;
}

void stream_free(struct kn_stream *s)
{
    if (!s)
        return;
    pool_free(s->pool);
    onednn_free(s->dnn);
    for (int i = 0; s->local && i < s->threads; i++)
        free(s->local[i].p);
    free(s->local);
    free(s->shared.p);
    free(s->outer.p);
    free(s);
}

int stream_sync(struct kn_stream *s, struct lh_err *reterr)
{
    int code = s->err.code;

    if (code != 0 && reterr)
        *reterr = s->err;
    s->err = (struct lh_err){0};
    return code;
}

uint64_t stream_scratch_bytes(const struct kn_stream *s)
{
    uint64_t bytes = s->shared.bytes + s->outer.bytes;

    for (int i = 0; i < s->threads; i++)
        bytes += s->local[i].bytes;
    return bytes;
}

void stream_rehearse(struct kn_stream *s)
{
    pool_rest(s->pool);
}

/* Large blocks are put on huge pages where the system gives them to those who ask: matrices are
 * walked in all directions, and looking up small pages takes a step of training 5 % of its time. */
void *stream_alloc(struct kn_stream *s, uint64_t bytes)
{
    uint64_t align = bytes >= HUGE_MIN ? HUGE_ALIGN : CPU_ALIGN;
    void *p;

    (void)s;
    if (bytes > SIZE_MAX - align)
        return NULL;
    bytes = (LH_MAX(bytes, 1) + align - 1) / align * align;
    p = aligned_alloc(align, bytes);
    if (p && align == HUGE_ALIGN)
        (void)madvise(p, bytes, MADV_HUGEPAGE); /* a kernel without them says no: no matter */
    return p;
}

void stream_release(struct kn_stream *s, void *p)
{
    (void)s;
    free(p);
}

void stream_copy(struct kn_stream *s, void *to, const void *from, uint64_t bytes)
{
    (void)s;
    memcpy(to, from, bytes);
}
