/* s3_upload.c - see s3_upload.h.
 *
 * Up to PART_BYTES an object is one PUT; above, a multipart upload whose id and parts the caller
 * keeps, so that a killed daemon or server costs one part. Each part carries its SHA-256 for the
 * server to check; at the end HEAD must tell the size and, when the server knows it, the checksum.
 */
#include "daemon/node/s3_upload.h"
#include "daemon/node/sigv4.h"
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
#define DIGEST_BYTES 32

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
static int verify(const struct s3_object *o, uint64_t bytes, const char *checksum,
                  struct lh_err *reterr)
{
    struct s3_request q = {
        .method = "HEAD", .key = o->key, .query = "", .checksum_mode = true, .out_fd = -1};
    struct s3_reply r;
    int rc = s3_send(o->s3, &q, &r, reterr);

    if (rc == -ENOENT)
        rc = lh_err_set(reterr, LH_ETRYAGAIN, "s3://%s/%s is not there after the upload", o->bucket,
                        o->key);
    if (rc == 0 && r.length != bytes)
        rc = lh_err_set(reterr, LH_ETRYAGAIN,
                        "s3://%s/%s has %" PRIu64 " bytes after the upload, not %" PRIu64,
                        o->bucket, o->key, r.length, bytes);
    if (rc == 0 && r.checksum[0] && strcmp(r.checksum, checksum) != 0)
        rc = lh_err_set(reterr, LH_ETRYAGAIN,
                        "s3://%s/%s has the checksum %s after the upload, not %s", o->bucket,
                        o->key, r.checksum, checksum);
    s3_reply_release(&r);
    return rc;
}

int s3_upload_bytes(const struct s3_object *o, const void *data, size_t len, bool if_none_match,
                    struct lh_err *reterr)
{
    struct s3_request q = {.method = "PUT",
                           .key = o->key,
                           .query = "",
                           .body = data,
                           .body_len = len,
                           .checksum = true,
                           .if_none_match = if_none_match,
                           .out_fd = -1};
    struct s3_reply r;
    int rc = s3_send(o->s3, &q, &r, reterr);

    s3_reply_release(&r);
    return rc;
}

static int put_whole(const struct s3_object *o, const char *path, uint64_t bytes,
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
        rc = s3_upload_bytes(o, data, len, false, reterr);
    free(data);
    if (rc < 0)
        return rc;
    from_hex(sha256, digest);
    to_base64(digest, sizeof(digest), checksum);
    return verify(o, bytes, checksum, reterr);
}

struct multipart {
    const struct s3_object *o;
    const char *path;
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
                           .key = m->o->key,
                           .query = "uploads=",
                           .body = "",
                           .checksum_algorithm = "SHA256",
                           .out_fd = -1};
    struct s3_reply r;
    char id[512];
    int rc = s3_send(m->o->s3, &q, &r, reterr);

    if (rc == 0 && !s3_xml(&r, "UploadId", id, sizeof(id)))
        rc = lh_err_set(reterr, LH_EREMOTE,
                        "s3://%s/%s: the server began an upload without an UploadId", m->o->bucket,
                        m->o->key);
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
                          m->o->bucket, m->o->key);
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
                           .key = m->o->key,
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
    rc = s3_send(m->o->s3, &q, &r, reterr);
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
    return rc < 0 ? lh_err_set(reterr, rc, "s3://%s/%s: the list of parts", m->o->bucket, m->o->key)
                  : 0;
}

static int complete(struct multipart *m, char ret_checksum[static 80], struct lh_err *reterr)
{
    char query[1700];
    struct s3_request q = {.method = "POST", .key = m->o->key, .query = query, .out_fd = -1};
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
        rc = s3_send(m->o->s3, &q, &r, reterr);
        s3_reply_release(&r);
    }
    lh_buf_release(&xml);
    return rc;
}

static void give_up(struct multipart *m)
{
    char query[1700];
    struct s3_request q = {.method = "DELETE", .key = m->o->key, .query = query, .out_fd = -1};
    struct s3_reply r;

    if (json_object_get(m->state, "id") && query_of(m, 0, query, sizeof(query), NULL) == 0) {
        (void)!s3_send(m->o->s3, &q, &r, NULL);
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

static int put_multipart(const struct s3_object *o, const char *path, uint64_t bytes,
                         const char *sha256, struct store_progress *progress, struct lh_err *reterr)
{
    struct multipart m = {
        .o = o, .path = path, .bytes = bytes, .part_bytes = PART_BYTES, .progress = progress};
    char checksum[80], hex[LH_SHA256_HEX];
    uint64_t size;
    int rc;

    while (bytes / m.part_bytes >= PARTS_MAX)
        m.part_bytes *= 2;
    m.state = json_object_get(progress->parts, o->key);
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
        (void)json_object_set_new(progress->parts, o->key, json_object());
        m.state = json_object_get(progress->parts, o->key);
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
    return rc < 0 ? rc : verify(o, bytes, checksum, reterr);
}

int s3_upload_file(const struct s3_object *o, const char *path, uint64_t bytes, const char *sha256,
                   struct store_progress *progress, struct lh_err *reterr)
{
    return bytes <= PART_BYTES ? put_whole(o, path, bytes, sha256, reterr)
                               : put_multipart(o, path, bytes, sha256, progress, reterr);
}
