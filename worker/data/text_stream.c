/* text_stream.c - see text_stream.h. Concatenated members (gzip) and frames (zstd) are one text, as
 * their tools say. */
#include "worker/data/text_stream.h"
#include "proto/base/str.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define IN_BYTES (256 * 1024)
#define ZSTD_HEADER_BYTES 18 /* of a frame, at most (RFC 8878, 3.1.1.1) */

enum packing { PACKING_NONE, PACKING_GZIP, PACKING_ZSTD };

struct text_stream {
    char *path;
    int fd;
    enum packing packing;
    z_stream gzip;
    bool gzip_ready;
    ZSTD_DStream *zstd;
    unsigned long long frame_says, frame_has; /* bytes of text; ZSTD_CONTENTSIZE_UNKNOWN */
    bool inside;                              /* a member or frame has begun and not ended */
    bool eof;                                 /* of the file */
    uint64_t taken;
    size_t in_at, in_n;
    uint8_t in[IN_BYTES];
};

void text_stream_close(struct text_stream *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        (void)close(s->fd);
    if (s->gzip_ready)
        (void)inflateEnd(&s->gzip);
    (void)ZSTD_freeDStream(s->zstd);
    free(s->path);
    free(s);
}
LH_DEFINE_FREEP(struct text_stream *, text_stream_close)

int text_stream_open(const char *path, struct text_stream **ret_stream, struct lh_err *reterr)
{
    LH_CLEANUP(text_stream_closep) struct text_stream *s = calloc(1, sizeof(*s));

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "open '%s'", path);
    s->fd = -1;
    s->path = strdup(path);
    if (lh_ends_with(path, ".gz"))
        s->packing = PACKING_GZIP;
    else if (lh_ends_with(path, ".zst"))
        s->packing = PACKING_ZSTD;
    if (s->packing == PACKING_GZIP)
        s->gzip_ready =
            inflateInit2(&s->gzip, 15 + 16) == Z_OK; /* 16: gzip's header, nothing else */
    if (s->packing == PACKING_ZSTD)
        s->zstd = ZSTD_createDStream();
    if (!s->path || (s->packing == PACKING_GZIP && !s->gzip_ready) ||
        (s->packing == PACKING_ZSTD && !s->zstd))
        return lh_err_set(reterr, -ENOMEM, "open '%s'", path);
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0)
        return lh_err_set(reterr, LH_EINPUT, "'%s' cannot be opened: %s", path, strerror(errno));
    *ret_stream = s;
    s = NULL;
    return 0;
}

uint64_t text_stream_position(const struct text_stream *s)
{
    return s->taken;
}

static int read_some(struct text_stream *s, void *buf, size_t cap, size_t *ret_n,
                     struct lh_err *reterr)
{
    ssize_t n;

    do
        n = read(s->fd, buf, cap);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return lh_err_set(reterr, LH_EINPUT, "'%s' cannot be read: %s", s->path, strerror(errno));
    s->eof = n == 0;
    s->taken += (uint64_t)n;
    *ret_n = (size_t)n;
    return 0;
}

/* More of the file behind what is not unpacked yet; at its end s->eof. */
static int read_more(struct text_stream *s, struct lh_err *reterr)
{
    size_t left = s->in_n - s->in_at, n = 0;
    int rc;

    memmove(s->in, s->in + s->in_at, left);
    s->in_at = 0;
    s->in_n = left;
    rc = read_some(s, s->in + left, sizeof(s->in) - left, &n, reterr);
    s->in_n += n;
    return rc;
}

static int damaged(const struct text_stream *s, const char *why, struct lh_err *reterr)
{
    return lh_err_set(reterr, LH_EINPUT, "'%s' is damaged at about byte %llu: %s", s->path,
                      (unsigned long long)s->taken, why);
}

static int unpack_gzip(struct text_stream *s, char *buf, size_t cap, size_t *ret_n,
                       struct lh_err *reterr)
{
    int rc;

    s->gzip.next_in = s->in + s->in_at;
    s->gzip.avail_in = (uInt)(s->in_n - s->in_at);
    s->gzip.next_out = (Bytef *)buf;
    s->gzip.avail_out = (uInt)LH_MIN(cap, (size_t)1 << 30);
    *ret_n = s->gzip.avail_out;
    s->inside = true;
    rc = inflate(&s->gzip, Z_NO_FLUSH);
    s->in_at = s->in_n - s->gzip.avail_in;
    *ret_n -= s->gzip.avail_out;
    if (rc == Z_STREAM_END) {
        s->inside = false;
        rc = inflateReset(&s->gzip);
    }
    if (rc != Z_OK && rc != Z_BUF_ERROR)
        return damaged(s, s->gzip.msg ? s->gzip.msg : "not gzip", reterr);
    return 0;
}

/* What a frame says of its length is compared here: zstd itself does not look when the last block
 * is empty, unless the whole frame happens to fit the buffers of one call. */
static int begin_frame(struct text_stream *s, struct lh_err *reterr)
{
    int rc = 0;

    while (rc == 0 && s->in_n - s->in_at < ZSTD_HEADER_BYTES && !s->eof)
        rc = read_more(s, reterr);
    s->frame_says = ZSTD_getFrameContentSize(s->in + s->in_at, s->in_n - s->in_at);
    if (s->frame_says == ZSTD_CONTENTSIZE_ERROR) /* and ZSTD_decompressStream says why */
        s->frame_says = ZSTD_CONTENTSIZE_UNKNOWN;
    s->frame_has = 0;
    return rc;
}

static int unpack_zstd(struct text_stream *s, char *buf, size_t cap, size_t *ret_n,
                       struct lh_err *reterr)
{
    ZSTD_inBuffer in = {.src = s->in};
    ZSTD_outBuffer out = {buf, cap, 0};
    int rc = s->inside ? 0 : begin_frame(s, reterr);
    size_t left;

    if (rc < 0)
        return rc;
    in.size = s->in_n;
    in.pos = s->in_at;
    left = ZSTD_decompressStream(s->zstd, &out, &in);
    if (ZSTD_isError(left))
        return damaged(s, ZSTD_getErrorName(left), reterr);
    s->in_at = in.pos;
    s->inside = left != 0;
    s->frame_has += out.pos;
    if (!s->inside && s->frame_says != ZSTD_CONTENTSIZE_UNKNOWN && s->frame_has != s->frame_says)
        return damaged(s, "a frame has not the length that it says", reterr);
    *ret_n = out.pos;
    return 0;
}

int text_stream_read(struct text_stream *s, char *buf, size_t cap, size_t *ret_n,
                     struct lh_err *reterr)
{
    int rc = 0;

    *ret_n = 0;
    if (s->packing == PACKING_NONE)
        return read_some(s, buf, cap, ret_n, reterr);
    while (rc == 0 && *ret_n == 0) {
        bool out_of_input = s->in_at == s->in_n;

        if (out_of_input && !s->eof) {
            rc = read_more(s, reterr);
            if (rc < 0)
                return rc;
            out_of_input = s->in_n == 0;
        }
        if (out_of_input && !s->inside)
            return 0;
        rc = s->packing == PACKING_GZIP ? unpack_gzip(s, buf, cap, ret_n, reterr)
                                        : unpack_zstd(s, buf, cap, ret_n, reterr);
        if (rc == 0 && out_of_input && *ret_n == 0)
            return s->inside ? damaged(s, "it is cut short", reterr) : 0;
    }
    return rc;
}

int text_stream_skip(struct text_stream *s, uint64_t n, struct lh_err *reterr)
{
    char dropped[4096];
    size_t got = 1;
    int rc = 0;

    if (s->packing == PACKING_NONE) {
        if (lseek(s->fd, (off_t)n, SEEK_SET) < 0)
            return lh_err_set(reterr, LH_EINPUT, "'%s' cannot be read: %s", s->path,
                              strerror(errno));
        s->taken = n;
        return 0;
    }
    for (; rc == 0 && n > 0 && got > 0; n -= got)
        rc = text_stream_read(s, dropped, LH_MIN(n, sizeof(dropped)), &got, reterr);
    if (rc == 0 && n > 0)
        rc = lh_err_set(reterr, LH_EINPUT, "'%s' has become shorter", s->path);
    return rc;
}
