/* s3_list.c - ListObjectsV2: what is in a bucket below a prefix, page by page.
 *
 * The answer is XML of a known shape; it is searched for its tags, not parsed. Keys are taken apart
 * from their entities.
 */
#include "daemon/node/s3.h"
#include "daemon/node/sigv4.h"
#include "proto/base/str.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_CAP 1025 /* S3's limit */
#define QUERY_CAP 6144
#define PAGES_MAX 10000u

static size_t put_utf8(unsigned long c, char *to)
{
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (char)(0xc0 | c >> 6);
        to[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        to[0] = (char)(0xe0 | c >> 12);
        to[1] = (char)(0x80 | (c >> 6 & 0x3f));
        to[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | (c >> 18 & 7));
    to[1] = (char)(0x80 | (c >> 12 & 0x3f));
    to[2] = (char)(0x80 | (c >> 6 & 0x3f));
    to[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* The character that an entity "&...;" stands for, and its length; 0: none that is known. */
static size_t entity(const char *text, size_t len, unsigned long *ret_char)
{
    static const struct {
        const char *name;
        char c;
    } named[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    char *end;

    for (size_t i = 0; i < LH_ARRAY_LEN(named); i++)
        if (len >= strlen(named[i].name) &&
            strncmp(text, named[i].name, strlen(named[i].name)) == 0) {
            *ret_char = (unsigned char)named[i].c;
            return strlen(named[i].name);
        }
    if (len < 4 || text[1] != '#')
        return 0;
    *ret_char = text[2] == 'x' ? strtoul(text + 3, &end, 16) : strtoul(text + 2, &end, 10);
    if (*end != ';' || (size_t)(end - text) >= len || *ret_char == 0 || *ret_char > 0x10ffff)
        return 0;
    return (size_t)(end - text) + 1;
}

/* False when it does not fit, or has an entity that is not known. */
static bool decode(const char *text, size_t len, char *buf, size_t cap)
{
    size_t n = 0;

    for (size_t i = 0; i < len;) {
        unsigned long c = (unsigned char)text[i];
        size_t used = 1;

        if (n + 5 > cap)
            return false;
        if (text[i] == '&') {
            used = entity(text + i, len - i, &c);
            if (used == 0)
                return false;
            n += put_utf8(c, buf + n);
        } else {
            buf[n++] = text[i];
        }
        i += used;
    }
    buf[n] = '\0';
    return true;
}

/* The text of <tag> between from and to; false: there is none that fits. */
static bool tag_text(const char *from, const char *to, const char *tag, char *buf, size_t cap)
{
    char open[40], close[40];
    const char *begin, *end;

    (void)snprintf(open, sizeof(open), "<%s>", tag);
    (void)snprintf(close, sizeof(close), "</%s>", tag);
    begin = strstr(from, open);
    if (!begin || begin >= to)
        return false;
    begin += strlen(open);
    end = strstr(begin, close);
    return end && end <= to && decode(begin, (size_t)(end - begin), buf, cap);
}

static int give_objects(const char *text, const char *prefix, s3_object_fn *fn, void *arg,
                        struct lh_err *reterr)
{
    static const char open[] = "<Contents>", close[] = "</Contents>";
    int rc = 0;

    while (rc == 0 && (text = strstr(text, open))) {
        const char *end = strstr(text, close);
        char key[KEY_CAP + 4], size[32], etag[80] = "";
        int64_t bytes;

        if (!end || !tag_text(text, end, "Key", key, sizeof(key)) ||
            !tag_text(text, end, "Size", size, sizeof(size)) ||
            !lh_parse_i64(size, 0, INT64_MAX, &bytes) || !lh_starts_with(key, prefix))
            return lh_err_set(reterr, LH_EREMOTE,
                              "the server's list of what begins with '%.200s' cannot be read",
                              prefix);
        (void)tag_text(text, end, "ETag", etag, sizeof(etag));
        rc = fn(arg, key, (uint64_t)bytes, etag, reterr);
        text = end + sizeof(close) - 1;
    }
    return rc;
}

static int make_query(const char *token, const char *prefix, char *query, struct lh_err *reterr)
{
    char t[QUERY_CAP / 2], p[QUERY_CAP / 2];

    if (sigv4_encode(token, 0, t, sizeof(t)) < 0 || sigv4_encode(prefix, 0, p, sizeof(p)) < 0 ||
        snprintf(query, QUERY_CAP, "%s%s%slist-type=2&prefix=%s",
                 *token ? "continuation-token=" : "", t, *token ? "&" : "", p) >= QUERY_CAP)
        return lh_err_set(reterr, -E2BIG, "the prefix '%.100s...' is too long", prefix);
    return 0;
}

int s3_list(struct s3 *s, const char *prefix, s3_object_fn *fn, void *arg, struct lh_err *reterr)
{
    char token[QUERY_CAP / 4] = "", query[QUERY_CAP], more[8];
    bool truncated = true;
    int rc = 0;

    for (unsigned page = 0; rc == 0 && truncated; page++) {
        struct s3_request q = {.method = "GET", .key = "", .query = query, .out_fd = -1};
        struct s3_reply r;
        const char *end;

        if (page == PAGES_MAX)
            return lh_err_set(reterr, LH_EREMOTE, "the server's list does not end");
        rc = make_query(token, prefix, query, reterr);
        if (rc < 0)
            return rc;
        rc = s3_send(s, &q, &r, reterr);
        if (rc == 0 && lh_buf_append(&r.body, "", 0) < 0)
            rc = lh_err_set(reterr, -ENOMEM, "list objects");
        if (rc == 0)
            rc = give_objects(r.body.data, prefix, fn, arg, reterr);
        if (rc == 0) {
            end = r.body.data + r.body.len;
            truncated = tag_text(r.body.data, end, "IsTruncated", more, sizeof(more)) &&
                        strcmp(more, "true") == 0;
            if (truncated &&
                !tag_text(r.body.data, end, "NextContinuationToken", token, sizeof(token)))
                rc = lh_err_set(reterr, LH_EREMOTE, "the server's list is cut and has no token");
        }
        s3_reply_release(&r);
    }
    return rc;
}
