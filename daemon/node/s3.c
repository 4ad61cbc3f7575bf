/* s3.c - see s3.h. libcurl's easy interface with our own signature; every header that is sent and
 * matters is signed. */
#include "daemon/node/s3.h"
#include "daemon/node/s3_config.h"
#include "daemon/node/sigv4.h"
#include "proto/base/clock.h"
#include "proto/base/sha256.h"
#include "proto/base/str.h"
#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 10000
#define SLOW_BYTES_PER_S 1024 /* slower than this for SLOW_S: the line is dead */
#define SLOW_S 30
#define ANSWER_MAX (4u << 20)
#define KEY_MAX 1024 /* S3's own limit */

struct s3 {
    CURL *easy;
    struct s3_config config;
    char bucket[128], host[256], base[300]; /* base: scheme://host */
    const volatile bool *cancel;
};

/* What goes into one request, alive while it runs. */
struct exchange {
    const struct s3_request *q;
    struct s3_reply *reply;
    struct curl_slist *lines;
    struct sigv4_request signed_part;
    char path[3 * KEY_MAX + 256], payload[LH_SHA256_HEX], date[SIGV4_DATE_MAX], checksum[64];
    uint64_t written;
    int write_error;
};

int s3_open(const char *bucket, const char *config, const volatile bool *cancel, struct s3 **ret_s3,
            struct lh_err *reterr)
{
    struct s3 *s = calloc(1, sizeof(*s));
    const char *at;
    int rc;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "S3 session");
    rc = s3_config_load(config, &s->config, reterr);
    if (rc < 0) {
        free(s);
        return rc;
    }
    at = strstr(s->config.endpoint, "://");
    (void)snprintf(s->bucket, sizeof(s->bucket), "%s", bucket);
    (void)snprintf(s->host, sizeof(s->host), "%s", at ? at + 3 : s->config.endpoint);
    (void)snprintf(s->base, sizeof(s->base), "%s", s->config.endpoint);
    s->cancel = cancel;
    s->easy = curl_easy_init();
    if (!s->easy) {
        free(s);
        return lh_err_set(reterr, -ENOMEM, "S3 session");
    }
    *ret_s3 = s;
    return 0;
}

void s3_close(struct s3 *s)
{
    if (!s)
        return;
    curl_easy_cleanup(s->easy);
    free(s);
}

void s3_reply_release(struct s3_reply *r)
{
    lh_buf_release(&r->body);
}

bool s3_xml(const struct s3_reply *r, const char *tag, char *buf, size_t cap)
{
    char open[64], close[64];
    const char *begin, *end;

    (void)snprintf(open, sizeof(open), "<%s>", tag);
    (void)snprintf(close, sizeof(close), "</%s>", tag);
    begin = r->body.data ? strstr(r->body.data, open) : NULL;
    end = begin ? strstr(begin, close) : NULL;
    if (!end)
        return false;
    begin += strlen(open);
    (void)snprintf(buf, cap, "%.*s", (int)(end - begin), begin);
    return true;
}

/* ---- the request ------------------------------------------------------------------------ */

static void add(struct exchange *x, const char *name, const char *value)
{
    char line[1200];
    struct curl_slist *more;

    (void)snprintf(line, sizeof(line), "%s: %s", name, value);
    more = curl_slist_append(x->lines, line);
    if (more)
        x->lines = more;
    x->signed_part.headers[x->signed_part.n_headers++] = (struct sigv4_header){name, value};
}

static void base64_digest(const char *hex, char out[static 64])
{
    unsigned char bytes[32];

    for (unsigned i = 0; i < sizeof(bytes); i++)
        (void)sscanf(hex + 2 * i, "%2hhx", &bytes[i]);
    (void)EVP_EncodeBlock((unsigned char *)out, bytes, sizeof(bytes));
}

/* Headers in the order of their names, which is the order in which they are signed. */
static int sign(const struct s3 *s, struct exchange *x, struct lh_err *reterr)
{
    const struct s3_request *q = x->q;
    const struct sigv4_keys keys = {s->config.access, s->config.secret, s->config.region, "s3"};
    uint64_t now_s = lh_now_ms() / 1000u;
    char auth[SIGV4_AUTH_MAX], line[SIGV4_AUTH_MAX + 32];
    struct curl_slist *more;

    sigv4_date(now_s, x->date);
    add(x, "host", s->host);
    if (q->if_none_match)
        add(x, "if-none-match", "*");
    if (q->checksum_algorithm)
        add(x, "x-amz-checksum-algorithm", q->checksum_algorithm);
    if (q->checksum_mode)
        add(x, "x-amz-checksum-mode", "ENABLED");
    if (q->checksum)
        add(x, "x-amz-checksum-sha256", x->checksum);
    add(x, "x-amz-content-sha256", x->payload);
    add(x, "x-amz-date", x->date);
    if (s->config.token[0])
        add(x, "x-amz-security-token", s->config.token);
    x->signed_part.method = q->method;
    x->signed_part.path = x->path;
    x->signed_part.query = q->query;
    x->signed_part.payload_sha256 = x->payload;
    if (sigv4_sign(&x->signed_part, &keys, now_s, auth) < 0)
        return lh_err_set(reterr, -E2BIG, "the request for '%s' cannot be signed", q->key);
    (void)snprintf(line, sizeof(line), "Authorization: %s", auth);
    more = curl_slist_append(x->lines, line);
    if (more)
        x->lines = more;
    more = curl_slist_append(x->lines,
                             "Expect:"); /* not signed: what is not listed need not be there */
    if (more)
        x->lines = more;
    return 0;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct exchange *x = arg;
    size_t len = size * n, done = 0;

    if (x->q->out_fd < 0 || x->reply->status >= 300)
        return lh_buf_append(&x->reply->body, data, len) < 0 ? 0 : len;
    if (x->written + len > x->q->out_max) {
        x->write_error = EFBIG;
        return 0;
    }
    while (done < len) {
        ssize_t k = write(x->q->out_fd, data + done, len - done);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0) {
            x->write_error = errno;
            return 0;
        }
        done += (size_t)k;
    }
    x->written += len;
    return len;
}

static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
    struct exchange *x = arg;
    size_t len = size * n;
    char line[512], *value;
    int status;

    (void)snprintf(line, sizeof(line), "%.*s", (int)LH_MIN(len, sizeof(line) - 1), data);
    line[strcspn(line, "\r\n")] = '\0';
    if (sscanf(line, "HTTP/%*s %d", &status) == 1)
        x->reply->status = status;
    value = strchr(line, ':');
    if (!value)
        return len;
    *value++ = '\0';
    value += strspn(value, " ");
    if (strcasecmp(line, "etag") == 0)
        (void)snprintf(x->reply->etag, sizeof(x->reply->etag), "%.79s", value);
    else if (strcasecmp(line, "x-amz-checksum-sha256") == 0)
        (void)snprintf(x->reply->checksum, sizeof(x->reply->checksum), "%.79s", value);
    else if (strcasecmp(line, "content-length") == 0)
        x->reply->length = strtoull(value, NULL, 10);
    return len;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct s3 *s = arg;

    (void)a, (void)b, (void)c, (void)d;
    return s->cancel && *s->cancel;
}

static void set_up(struct s3 *s, struct exchange *x, const char *url, char *error)
{
    CURL *e = s->easy;

    curl_easy_reset(e); /* keeps the connection */
    (void)curl_easy_setopt(e, CURLOPT_URL, url);
    (void)curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
    (void)curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, x->q->method);
    (void)curl_easy_setopt(e, CURLOPT_HTTPHEADER, x->lines);
    (void)curl_easy_setopt(e, CURLOPT_USERAGENT, "longhaul-node/" LH_VERSION);
    if (x->q->body) {
        (void)curl_easy_setopt(e, CURLOPT_POSTFIELDS, x->q->body);
        (void)curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)x->q->body_len);
    }
    if (strcmp(x->q->method, "HEAD") == 0)
        (void)curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
    (void)curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    (void)curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES_PER_S);
    (void)curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, (long)SLOW_S);
    (void)curl_easy_setopt(e, CURLOPT_ERRORBUFFER, error);
    (void)curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_data);
    (void)curl_easy_setopt(e, CURLOPT_WRITEDATA, x);
    (void)curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(e, CURLOPT_HEADERDATA, x);
    (void)curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
    (void)curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress);
    (void)curl_easy_setopt(e, CURLOPT_XFERINFODATA, s);
}

/* ---- the answer ------------------------------------------------------------------------- */

static int judge(const struct s3 *s, const struct s3_request *q, const struct s3_reply *r,
                 struct lh_err *reterr)
{
    char code[128] = "", message[300] = "";
    bool has_code = s3_xml(r, "Code", code, sizeof(code)), retry;

    (void)s3_xml(r, "Message", message, sizeof(message));
    /* Some requests answer 200 and tell an error in the body once the work is done. */
    if (r->status >= 200 && r->status < 300 && !(has_code && strstr(r->body.data, "<Error>")))
        return 0;
    if (r->status == 404 && strcmp(code, "NoSuchUpload") != 0 && strcmp(code, "NoSuchBucket") != 0)
        return lh_err_set(reterr, -ENOENT, "s3://%s/%s", s->bucket, q->key);
    if (r->status == 412)
        return lh_err_set(reterr, -EEXIST, "s3://%s/%s", s->bucket, q->key);
    retry = r->status >= 500 || r->status == 429 || r->status == 408 || r->status < 300 ||
            strcmp(code, "ExpiredToken") == 0 || strcmp(code, "RequestTimeTooSkewed") == 0 ||
            strcmp(code, "BadDigest") == 0;
    return lh_err_set(reterr, retry ? LH_ETRYAGAIN : LH_EREMOTE,
                      "%s s3://%s/%s: the server at %s answered %d %s: %s", q->method, s->bucket,
                      q->key, s->base, r->status, code, message);
}

static int prepare(const struct s3 *s, struct exchange *x, char *url, size_t cap,
                   struct lh_err *reterr)
{
    const struct s3_request *q = x->q;
    char key[3 * KEY_MAX + 1];

    if (sigv4_encode(q->key, 1, key, sizeof(key)) < 0)
        return lh_err_set(reterr, -E2BIG, "the name 's3://%s/%.100s...' is too long", s->bucket,
                          q->key);
    (void)snprintf(x->path, sizeof(x->path), "/%s%s%s", s->bucket, *key ? "/" : "", key);
    if (snprintf(url, cap, "%s%s%s%s", s->base, x->path, *q->query ? "?" : "", q->query) >=
        (int)cap)
        return lh_err_set(reterr, -E2BIG, "the name 's3://%s/%.100s...' is too long", s->bucket,
                          q->key);
    if (q->body_sha256)
        (void)snprintf(x->payload, sizeof(x->payload), "%s", q->body_sha256);
    else
        lh_sha256_hex(q->body ? q->body : "", q->body_len, x->payload);
    base64_digest(x->payload, x->checksum);
    return sign(s, x, reterr);
}

int s3_send(struct s3 *s, const struct s3_request *q, struct s3_reply *ret_reply,
            struct lh_err *reterr)
{
    struct exchange x = {.q = q, .reply = ret_reply};
    char url[4 * KEY_MAX], error[CURL_ERROR_SIZE] = "";
    CURLcode code;
    int rc;

    memset(ret_reply, 0, sizeof(*ret_reply));
    lh_buf_init(&ret_reply->body, ANSWER_MAX);
    rc = prepare(s, &x, url, sizeof(url), reterr);
    if (rc < 0) {
        curl_slist_free_all(x.lines);
        return rc;
    }
    set_up(s, &x, url, error);
    code = curl_easy_perform(s->easy);
    curl_slist_free_all(x.lines);
    if (code == CURLE_OK)
        return judge(s, q, ret_reply, reterr);
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return lh_err_set(reterr, -ECANCELED, "%s s3://%s/%s", q->method, s->bucket, q->key);
    if (x.write_error)
        return lh_err_set(reterr, -x.write_error, "store what s3://%s/%s sends", s->bucket, q->key);
    return lh_err_set(reterr, LH_ETRYAGAIN, "%s s3://%s/%s: %s", q->method, s->bucket, q->key,
                      error[0] ? error : curl_easy_strerror(code));
}
