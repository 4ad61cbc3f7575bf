/* store_s3.c - a bucket and prefix as a store.
 *
 * Up to PART_BYTES an object is one PUT; above, a multipart upload whose id and parts the caller
 * keeps, so that a killed daemon or server costs one part. Each part carries its SHA-256 for the
 * server to check; at the end HEAD must tell the size and, when the server knows it, the checksum.
 */
#include "daemon/node/s3.h"
#include "daemon/node/sigv4.h"
#include "daemon/node/store.h"
#include "proto/base/buf.h"
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/sha256.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PART_BYTES ((uint64_t)8 << 20)
#define PARTS_MAX 10000 /* S3's limit: objects up to 80 GB with 8 MiB, beyond with larger parts */
#define KEY_CAP 1024
#define DIGEST_BYTES 32

struct store_s3 {
    struct store base;
    struct s3 *s3;
    char bucket[128], prefix[KEY_CAP];
};

static int make_key(const struct store_s3 *s, const char *name, char key[static KEY_CAP],
                    struct lh_err *reterr)
{
    if (snprintf(key, KEY_CAP, "%s%s%s", s->prefix, s->prefix[0] ? "/" : "", name) >= KEY_CAP)
        return lh_err_set(reterr, -ENAMETOOLONG, "s3://%s/%.200s.../%.200s", s->bucket, s->prefix,
                          name);
    return 0;
}

static void to_base64(const unsigned char *bytes, size_t n, char *out)
{
    (void)EVP_EncodeBlock((unsigned char *)out, bytes, (int)n);
}

static void from_hex(const char *hex, unsigned char out[static DIGEST_BYTES])
{
    memset(out, 0, DIGEST_BYTES);
    if (strlen(hex) != 2 * DIGEST_BYTES)
        return; /* not one of ours: will not verify */
    for (unsigned i = 0; i < DIGEST_BYTES; i++)
        (void)sscanf(hex + 2 * i, "%2hhx", &out[i]);
}

/* checksum: what the server should know of the object, in base64 (a multipart one: "...-N"). A
 * server that keeps none is believed by size: it has checked each body against the signed digest.
 */
static int verify(struct store_s3 *s, const char *key, uint64_t bytes, const char *checksum,
                  struct lh_err *reterr)
{
    struct s3_request q = {
        .method = "HEAD", .key = key, .query = "", .checksum_mode = true, .out_fd = -1};
    struct s3_reply r;
    int rc = s3_send(s->s3, &q, &r, reterr);

    if (rc == -ENOENT)
        rc = lh_err_set(reterr, LH_ETRYAGAIN, "s3://%s/%s is not there after the upload", s->bucket,
                        key);
    if (rc == 0 && r.length != bytes)
        rc = lh_err_set(reterr, LH_ETRYAGAIN,
                        "s3://%s/%s has %" PRIu64 " bytes after the upload, not %" PRIu64,
                        s->bucket, key, r.length, bytes);
    if (rc == 0 && r.checksum[0] && strcmp(r.checksum, checksum) != 0)
        rc = lh_err_set(reterr, LH_ETRYAGAIN,
                        "s3://%s/%s has the checksum %s after the upload, not %s", s->bucket, key,
                        r.checksum, checksum);
    s3_reply_release(&r);
    return rc;
}

/* ---- one PUT ---------------------------------------------------------------------------- */

static int put_bytes(struct store_s3 *s, const char *key, const void *data, size_t len,
                     bool if_none_match, struct lh_err *reterr)
{
    struct s3_request q = {.method = "PUT",
                           .key = key,
                           .query = "",
                           .body = data,
                           .body_len = len,
                           .checksum = true,
                           .if_none_match = if_none_match,
                           .out_fd = -1};
    struct s3_reply r;
    int rc = s3_send(s->s3, &q, &r, reterr);

    s3_reply_release(&r);
    return rc;
}

static int put_whole(struct store_s3 *s, const char *key, const char *path, uint64_t bytes,
                     const char *sha256, struct lh_err *reterr)
{
    unsigned char digest[DIGEST_BYTES];
    char hex[LH_SHA256_HEX], checksum[64], *data = NULL;
    size_t len = 0;
    int rc = lh_read_file(path, (size_t)PART_BYTES, &data, &len, reterr);

    if (rc < 0)
        return rc;
    lh_sha256_hex(data, len, hex);
    if (len != bytes || strcmp(hex, sha256) != 0)
        rc = lh_err_set(reterr, LH_EINPUT, "'%s' is not what its manifest says", path);
    if (rc == 0)
        rc = put_bytes(s, key, data, len, false, reterr);
    free(data);
    if (rc < 0)
        return rc;
    from_hex(sha256, digest);
    to_base64(digest, sizeof(digest), checksum);
    return verify(s, key, bytes, checksum, reterr);
}

/* ---- multipart -------------------------------------------------------------------------- */

struct multipart {
    struct store_s3 *s;
    const char *key, *path;
    uint64_t bytes, part_bytes;
    unsigned n_parts;
    json_t *state; /* borrowed: {id, part_bytes, parts: {"1": {etag, sha256}}} */
    struct store_progress *progress;
    char *buffer;
    int fd;
};

static void save(const struct multipart *m)
{
    if (m->progress->save)
        m->progress->save(m->progress->arg);
}

static int begin(struct multipart *m, struct lh_err *reterr)
{
    struct s3_request q = {.method = "POST",
                           .key = m->key,
                           .query = "uploads=",
                           .body = "",
                           .checksum_algorithm = "SHA256",
                           .out_fd = -1};
    struct s3_reply r;
    char id[512];
    int rc = s3_send(m->s->s3, &q, &r, reterr);

    if (rc == 0 && !s3_xml(&r, "UploadId", id, sizeof(id)))
        rc = lh_err_set(reterr, LH_EREMOTE,
                        "s3://%s/%s: the server began an upload without an UploadId", m->s->bucket,
                        m->key);
    s3_reply_release(&r);
    if (rc < 0)
        return rc;
    (void)json_object_set_new(m->state, "id", json_string(id));
    (void)json_object_set_new(m->state, "part_bytes", json_integer((json_int_t)m->part_bytes));
    (void)json_object_set_new(m->state, "parts", json_object());
    save(m);
    return 0;
}

static int query_of(const struct multipart *m, unsigned part, char *buf, size_t cap,
                    struct lh_err *reterr)
{
    char id[1600];

    if (sigv4_encode(lh_json_str(m->state, "id", ""), 0, id, sizeof(id)) < 0)
        return lh_err_set(reterr, LH_EREMOTE, "s3://%s/%s: the upload's id is too long",
                          m->s->bucket, m->key);
    if (part)
        (void)snprintf(buf, cap, "partNumber=%u&uploadId=%s", part, id);
    else
        (void)snprintf(buf, cap, "uploadId=%s", id);
    return 0;
}

static int send_part(struct multipart *m, unsigned part, struct lh_err *reterr)
{
    uint64_t at = (uint64_t)(part - 1) * m->part_bytes;
    size_t len = (size_t)LH_MIN(m->part_bytes, m->bytes - at);
    char name[16], query[1700], hex[LH_SHA256_HEX];
    struct s3_request q = {.method = "PUT",
                           .key = m->key,
                           .query = query,
                           .body = m->buffer,
                           .body_len = len,
                           .body_sha256 = hex,
                           .checksum = true,
                           .out_fd = -1};
    struct s3_reply r;
    int rc;

    (void)snprintf(name, sizeof(name), "%u", part);
    if (json_object_get(json_object_get(m->state, "parts"), name))
        return 0; /* of an earlier try */
    if (pread(m->fd, m->buffer, len, (off_t)at) != (ssize_t)len)
        return lh_err_set(reterr, LH_EINPUT, "'%s' is not what its manifest says", m->path);
    lh_sha256_hex(m->buffer, len, hex);
    rc = query_of(m, part, query, sizeof(query), reterr);
    if (rc < 0)
        return rc;
    rc = s3_send(m->s->s3, &q, &r, reterr);
    if (rc == 0) {
        (void)json_object_set_new(json_object_get(m->state, "parts"), name,
                                  json_pack("{s:s, s:s}", "etag", r.etag, "sha256", hex));
        save(m);
    }
    s3_reply_release(&r);
    lh_fault("node.upload.part");
    return rc;
}

/* The list of parts for the server, and the checksum of their checksums that it should come to. */
static int describe(const struct multipart *m, struct lh_buf *xml, char ret_checksum[static 80],
                    struct lh_err *reterr)
{
    unsigned char digest[DIGEST_BYTES];
    char base64[64], hex[LH_SHA256_HEX];
    struct lh_sha256 all;
    int rc = lh_sha256_init(&all);

    if (rc == 0)
        rc = lh_buf_printf(xml, "<CompleteMultipartUpload>");
    for (unsigned part = 1; rc == 0 && part <= m->n_parts; part++) {
        char name[16];
        const json_t *p;

        (void)snprintf(name, sizeof(name), "%u", part);
        p = json_object_get(json_object_get(m->state, "parts"), name);
        from_hex(lh_json_str(p, "sha256", ""), digest);
        lh_sha256_update(&all, digest, sizeof(digest));
        to_base64(digest, sizeof(digest), base64);
        rc = lh_buf_printf(xml,
                           "<Part><PartNumber>%u</PartNumber><ETag>%s</ETag><ChecksumSHA256>%s</"
                           "ChecksumSHA256></Part>",
                           part, lh_json_str(p, "etag", ""), base64);
    }
    if (rc == 0)
        rc = lh_buf_printf(xml, "</CompleteMultipartUpload>");
    lh_sha256_final(&all, hex);
    from_hex(hex, digest);
    to_base64(digest, sizeof(digest), base64);
    (void)snprintf(ret_checksum, 80, "%s-%u", base64, m->n_parts);
    return rc < 0 ? lh_err_set(reterr, rc, "s3://%s/%s: the list of parts", m->s->bucket, m->key)
                  : 0;
}

static int complete(struct multipart *m, char ret_checksum[static 80], struct lh_err *reterr)
{
    char query[1700];
    struct s3_request q = {.method = "POST", .key = m->key, .query = query, .out_fd = -1};
    struct s3_reply r;
    struct lh_buf xml;
    int rc;

    lh_buf_init(&xml, 4u << 20);
    rc = describe(m, &xml, ret_checksum, reterr);
    if (rc == 0)
        rc = query_of(m, 0, query, sizeof(query), reterr);
    if (rc == 0) {
        q.body = xml.data;
        q.body_len = xml.len;
        rc = s3_send(m->s->s3, &q, &r, reterr);
        s3_reply_release(&r);
    }
    lh_buf_release(&xml);
    return rc;
}

static void give_up(struct multipart *m)
{
    char query[1700];
    struct s3_request q = {.method = "DELETE", .key = m->key, .query = query, .out_fd = -1};
    struct s3_reply r;

    if (json_object_get(m->state, "id") && query_of(m, 0, query, sizeof(query), NULL) == 0) {
        (void)!s3_send(m->s->s3, &q, &r, NULL);
        s3_reply_release(&r);
    }
    (void)json_object_clear(m->state);
    save(m);
}

static int put_parts(struct multipart *m, char ret_checksum[static 80], struct lh_err *reterr)
{
    int rc = 0;

    if (!json_object_get(m->state, "id"))
        rc = begin(m, reterr);
    else
        m->part_bytes = (uint64_t)lh_json_i64(m->state, "part_bytes", (int64_t)PART_BYTES);
    m->n_parts = (unsigned)((m->bytes + m->part_bytes - 1) / m->part_bytes);
    for (unsigned part = 1; rc == 0 && part <= m->n_parts; part++)
        rc = send_part(m, part, reterr);
    if (rc == 0)
        rc = complete(m, ret_checksum, reterr);
    /* The server no longer knows the upload or its parts: from the start, with the next try. */
    if (rc == LH_EREMOTE && reterr &&
        (strstr(reterr->text, "NoSuchUpload") || strstr(reterr->text, "InvalidPart"))) {
        (void)json_object_clear(m->state);
        save(m);
        reterr->code = rc = LH_ETRYAGAIN;
    } else if (rc == LH_EREMOTE || rc == LH_EINPUT) {
        give_up(m);
    }
    return rc;
}

static int put_multipart(struct store_s3 *s, const char *key, const char *path, uint64_t bytes,
                         const char *sha256, struct store_progress *progress, struct lh_err *reterr)
{
    struct multipart m = {.s = s,
                          .key = key,
                          .path = path,
                          .bytes = bytes,
                          .part_bytes = PART_BYTES,
                          .progress = progress};
    char checksum[80], hex[LH_SHA256_HEX];
    uint64_t size;
    int rc;

    while (bytes / m.part_bytes >= PARTS_MAX)
        m.part_bytes *= 2;
    m.state = json_object_get(progress->parts, key);
    if (!json_object_get(
            m.state,
            "id")) { /* a first try: is it what the manifest says? Parts are checked one by one */
        rc = lh_sha256_file(path, hex, &size, reterr);
        if (rc == 0 && (size != bytes || strcmp(hex, sha256) != 0))
            rc = lh_err_set(reterr, LH_EINPUT, "'%s' is not what its manifest says", path);
        if (rc < 0)
            return rc;
    }
    if (!m.state) {
        (void)json_object_set_new(progress->parts, key, json_object());
        m.state = json_object_get(progress->parts, key);
    }
    m.buffer = malloc((size_t)m.part_bytes);
    m.fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!m.state || !m.buffer || m.fd < 0)
        rc = lh_err_set(reterr, m.fd < 0 ? -errno : -ENOMEM, "upload '%s'", path);
    else
        rc = put_parts(&m, checksum, reterr);
    if (m.fd >= 0)
        (void)close(m.fd);
    free(m.buffer);
    return rc < 0 ? rc : verify(s, key, bytes, checksum, reterr);
}

/* ---- the table -------------------------------------------------------------------------- */

static int s3_put(struct store *base, const char *name, const char *path, uint64_t bytes,
                  const char *sha256, struct store_progress *progress, struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    char key[KEY_CAP];
    int rc = make_key(s, name, key, reterr);

    if (rc < 0)
        return rc;
    return bytes <= PART_BYTES ? put_whole(s, key, path, bytes, sha256, reterr)
                               : put_multipart(s, key, path, bytes, sha256, progress, reterr);
}

static int s3_read(struct store *base, const char *name, char **ret_data, size_t *ret_len,
                   struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    char key[KEY_CAP];
    struct s3_request q = {.method = "GET", .key = key, .query = "", .out_fd = -1};
    struct s3_reply r;
    int rc = make_key(s, name, key, reterr);

    if (rc < 0)
        return rc;
    rc = s3_send(s->s3, &q, &r, reterr);
    if (rc == 0 && lh_buf_append(&r.body, "", 0) < 0)
        rc = lh_err_set(reterr, -ENOMEM, "read s3://%s/%s", s->bucket, key);
    if (rc == 0) {
        *ret_len = r.body.len;
        *ret_data = lh_buf_take(&r.body);
    }
    s3_reply_release(&r);
    return rc;
}

static int s3_create(struct store *base, const char *name, const void *data, size_t len,
                     struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    char key[KEY_CAP], *there = NULL;
    size_t there_len = 0;
    int rc = make_key(s, name, key, reterr);

    if (rc == 0)
        rc = put_bytes(s, key, data, len, true, reterr);
    if (rc != -EEXIST)
        return rc;
    rc =
        s3_read(base, name, &there, &there_len, reterr); /* ours, of a try whose answer was lost? */
    if (rc == 0 && (there_len != len || memcmp(there, data, len) != 0))
        rc = lh_err_set(reterr, -EEXIST, "s3://%s/%s was written by another attempt", s->bucket,
                        key);
    free(there);
    return rc;
}

static int s3_get(struct store *base, const char *name, const char *path, uint64_t max_bytes,
                  struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    char key[KEY_CAP];
    struct s3_request q = {.method = "GET", .key = key, .query = "", .out_max = max_bytes};
    struct s3_reply r;
    int rc = make_key(s, name, key, reterr);

    if (rc < 0)
        return rc;
    q.out_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (q.out_fd < 0)
        return lh_err_set(reterr, -errno, "create '%s'", path);
    rc = s3_send(s->s3, &q, &r, reterr);
    s3_reply_release(&r);
    if (rc == 0 && fsync(q.out_fd) < 0)
        rc = lh_err_set(reterr, -errno, "sync '%s'", path);
    (void)close(q.out_fd);
    return rc;
}

static int s3_stat(struct store *base, const char *name, struct store_stat *ret_stat,
                   struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    struct store_stat out = {0};
    char key[KEY_CAP];
    struct s3_request q = {
        .method = "HEAD", .key = key, .query = "", .checksum_mode = true, .out_fd = -1};
    struct s3_reply r;
    int rc = make_key(s, name, key, reterr);

    if (rc < 0)
        return rc;
    rc = s3_send(s->s3, &q, &r, reterr);
    out.bytes = r.length;
    (void)snprintf(out.etag, sizeof(out.etag), "%s", r.etag);
    if (!strchr(r.checksum, '-')) /* one of parts says nothing about the whole */
        (void)snprintf(out.checksum, sizeof(out.checksum), "%s", r.checksum);
    s3_reply_release(&r);
    if (rc == 0)
        *ret_stat = out;
    return rc;
}

struct listing {
    size_t skip; /* bytes of a key that are the directory */
    store_object_fn *fn;
    void *arg;
};

static int give_name(void *arg, const char *key, uint64_t bytes, const char *etag,
                     struct lh_err *reterr)
{
    const struct listing *l = arg;

    return l->fn(l->arg, key + l->skip, bytes, etag, reterr);
}

static int store_s3_list(struct store *base, store_object_fn *fn, void *arg, struct lh_err *reterr)
{
    struct store_s3 *s = (struct store_s3 *)base;
    struct listing l = {.fn = fn, .arg = arg};
    char prefix[KEY_CAP + 1];

    (void)snprintf(prefix, sizeof(prefix), "%s%s", s->prefix, s->prefix[0] ? "/" : "");
    l.skip = strlen(prefix);
    return s3_list(s->s3, prefix, give_name, &l, reterr);
}

static void store_s3_close(struct store *base)
{
    struct store_s3 *s = (struct store_s3 *)base;

    s3_close(s->s3);
    free(s);
}

int store_s3_open(const char *bucket, const char *prefix, const char *config,
                  const volatile bool *cancel, struct store **ret_store, struct lh_err *reterr)
{
    static const struct store_ops ops = {.put = s3_put,
                                         .create = s3_create,
                                         .get = s3_get,
                                         .read = s3_read,
                                         .stat = s3_stat,
                                         .list = store_s3_list,
                                         .close = store_s3_close};
    struct store_s3 *s = calloc(1, sizeof(*s));
    size_t n = strlen(prefix);
    int rc;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "store s3://%s", bucket);
    while (n > 0 && prefix[n - 1] == '/')
        n--;
    rc = n < sizeof(s->prefix) ? s3_open(bucket, config, cancel, &s->s3, reterr)
                               : lh_err_set(reterr, -ENAMETOOLONG, "store s3://%s", bucket);
    if (rc < 0) {
        free(s);
        return rc;
    }
    memcpy(s->prefix, prefix, n);
    (void)snprintf(s->bucket, sizeof(s->bucket), "%s", bucket);
    s->base.ops = &ops;
    *ret_store = &s->base;
    return 0;
}
