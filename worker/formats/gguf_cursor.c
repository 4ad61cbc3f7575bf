/* gguf_cursor.c - see gguf_cursor.h. */
#include "worker/formats/gguf_cursor.h"
#include "proto/base/str.h"
#include <errno.h>
#include <string.h>

const uint8_t *gguf_take(struct gguf_cursor *c, uint64_t n, const char *what, struct lh_err *reterr)
{
    const uint8_t *p = c->f->map.data + c->at;

    if (n > c->f->map.bytes - c->at) {
        lh_err_set(
            reterr, LH_EINPUT,
            "'%s' ends inside %s: %llu bytes needed at byte %llu of %zu; the file is cut short "
            "or damaged, fetch it again",
            c->path, what, (unsigned long long)n, (unsigned long long)c->at, c->f->map.bytes);
        return NULL;
    }
    c->at += n;
    return p;
}

int gguf_take_u32(struct gguf_cursor *c, const char *what, uint32_t *ret, struct lh_err *reterr)
{
    const uint8_t *p = gguf_take(c, 4, what, reterr);

    if (!p)
        return LH_EINPUT;
    *ret = le32_at(p);
    return 0;
}

int gguf_take_u64(struct gguf_cursor *c, const char *what, uint64_t *ret, struct lh_err *reterr)
{
    const uint8_t *p = gguf_take(c, 8, what, reterr);

    if (!p)
        return LH_EINPUT;
    *ret = le64_at(p);
    return 0;
}

int gguf_take_name(struct gguf_cursor *c, uint64_t max, const char *what, const char **ret,
                   struct lh_err *reterr)
{
    uint64_t at = c->at, n;
    const uint8_t *p;
    char *copy;
    int rc = gguf_take_u64(c, what, &n, reterr);

    if (rc < 0)
        return rc;
    if (n == 0 || n > max)
        return lh_err_set(
            reterr, LH_EINPUT, "'%s': %s at byte %llu has %llu bytes, 1 to %llu are allowed",
            c->path, what, (unsigned long long)at, (unsigned long long)n, (unsigned long long)max);
    p = gguf_take(c, n, what, reterr);
    if (!p)
        return LH_EINPUT;
    if (memchr(p, 0, n) || !lh_utf8_valid(p, n))
        return lh_err_set(reterr, LH_EINPUT, "'%s': %s at byte %llu is not valid UTF-8", c->path,
                          what, (unsigned long long)at);
    copy = lh_arena_alloc(&c->f->names, n + 1);
    if (!copy)
        return lh_err_set(reterr, -ENOMEM, "open '%s'", c->path);
    memcpy(copy, p, n);
    *ret = copy;
    return 0;
}
