/* sigv4.c - see sigv4.h. The steps carry the names they have in AWS's description. */
#include "daemon/node/sigv4.h"
#include "proto/base/buf.h"
#include "proto/base/sha256.h"
#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define CANONICAL_MAX (32u << 10)
#define HMAC_BYTES 32

void sigv4_date(uint64_t unix_s, char ret_date[static SIGV4_DATE_MAX])
{
    time_t t = (time_t)unix_s;
    struct tm tm;

    (void)gmtime_r(&t, &tm);
    (void)strftime(ret_date, SIGV4_DATE_MAX, "%Y%m%dT%H%M%SZ", &tm);
}

int sigv4_encode(const char *text, int keep_slash, char *buf, size_t cap)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    size_t n = 0;

    for (const char *p = text; *p; p++) {
        int as_is = strchr(plain, *p) || (keep_slash && *p == '/');

        if (n + (as_is ? 2 : 4) > cap)
            return -E2BIG;
        if (as_is)
            buf[n++] = *p;
        else
            n += (size_t)snprintf(buf + n, cap - n, "%%%02X", (unsigned char)*p);
    }
    buf[n] = '\0';
    return 0;
}

static void hmac(const void *key, size_t key_len, const char *text,
                 unsigned char out[static HMAC_BYTES])
{
    unsigned n = 0;

    (void)HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text, strlen(text), out, &n);
    assert(n == HMAC_BYTES);
}

static int signed_headers(const struct sigv4_request *q, char *buf, size_t cap)
{
    size_t n = 0;

    for (unsigned i = 0; i < q->n_headers; i++) {
        int k = snprintf(buf + n, cap - n, "%s%s", i ? ";" : "", q->headers[i].name);

        assert(i == 0 || strcmp(q->headers[i - 1].name, q->headers[i].name) < 0);
        if (k < 0 || (size_t)k >= cap - n)
            return -E2BIG;
        n += (size_t)k;
    }
    return 0;
}

static int canonical_request(const struct sigv4_request *q, const char *names,
                             char ret_hex[static LH_SHA256_HEX])
{
    struct lh_buf b;
    int rc;

    lh_buf_init(&b, CANONICAL_MAX);
    rc = lh_buf_printf(&b, "%s\n%s\n%s\n", q->method, q->path, q->query);
    for (unsigned i = 0; rc == 0 && i < q->n_headers; i++)
        rc = lh_buf_printf(&b, "%s:%s\n", q->headers[i].name, q->headers[i].value);
    if (rc == 0)
        rc = lh_buf_printf(&b, "\n%s\n%s", names, q->payload_sha256);
    if (rc == 0)
        lh_sha256_hex(b.data, b.len, ret_hex);
    lh_buf_release(&b);
    return rc;
}

static int signing_key(const struct sigv4_keys *keys, const char *day,
                       unsigned char key[static HMAC_BYTES])
{
    char first[300];
    int n = snprintf(first, sizeof(first), "AWS4%s", keys->secret);

    if (n < 0 || n >= (int)sizeof(first))
        return -E2BIG;
    hmac(first, (size_t)n, day, key);
    hmac(key, HMAC_BYTES, keys->region, key);
    hmac(key, HMAC_BYTES, keys->service, key);
    hmac(key, HMAC_BYTES, "aws4_request", key);
    return 0;
}

int sigv4_sign(const struct sigv4_request *q, const struct sigv4_keys *keys, uint64_t unix_s,
               char ret_authorization[static SIGV4_AUTH_MAX])
{
    char date[SIGV4_DATE_MAX], day[9], names[512], canonical[LH_SHA256_HEX], scope[256],
        to_sign[512];
    unsigned char key[HMAC_BYTES], signature[HMAC_BYTES];
    char hex[2 * HMAC_BYTES + 1];
    int rc = signed_headers(q, names, sizeof(names)), n;

    if (rc == 0)
        rc = canonical_request(q, names, canonical);
    if (rc < 0)
        return rc;
    sigv4_date(unix_s, date);
    (void)snprintf(day, sizeof(day), "%.8s", date);
    n = snprintf(scope, sizeof(scope), "%s/%s/%s/aws4_request", day, keys->region, keys->service);
    if (n < 0 || n >= (int)sizeof(scope))
        return -E2BIG;
    n = snprintf(to_sign, sizeof(to_sign), "AWS4-HMAC-SHA256\n%s\n%s\n%s", date, scope, canonical);
    if (n < 0 || n >= (int)sizeof(to_sign))
        return -E2BIG;
    rc = signing_key(keys, day, key);
    if (rc < 0)
        return rc;
    hmac(key, HMAC_BYTES, to_sign, signature);
    for (unsigned i = 0; i < HMAC_BYTES; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", signature[i]);
    n = snprintf(ret_authorization, SIGV4_AUTH_MAX,
                 "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", keys->access,
                 scope, names, hex);
    return n < 0 || n >= SIGV4_AUTH_MAX ? -E2BIG : 0;
}
