/* str.c - see str.h. */
#include "proto/base/str.h"
#include "proto/base/clock.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define NEAREST_MAX 64

static unsigned edit_distance(const char *a, size_t n, const char *b, size_t m)
{
    unsigned row[NEAREST_MAX + 1];

    for (size_t j = 0; j <= m; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned above = row[j];
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);

            best = LH_MIN(best, above + 1);
            best = LH_MIN(best, row[j - 1] + 1);
            diagonal = above;
            row[j] = best;
        }
    }
    return row[m];
}

const char *lh_nearest(const char *word, const char *const *names, size_t n)
{
    size_t len = strlen(word);
    unsigned best = (unsigned)(len / 3 + 2);
    const char *nearest = NULL;

    if (len > NEAREST_MAX)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t m = strlen(names[i]);
        unsigned d;

        if (m > NEAREST_MAX)
            continue;
        d = edit_distance(word, len, names[i], m);
        if (d < best) {
            best = d;
            nearest = names[i];
        }
    }
    return nearest;
}

bool lh_starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool lh_ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);

    return n >= m && strcmp(s + n - m, suffix) == 0;
}

bool lh_utf8_valid(const void *bytes, size_t n)
{
    const unsigned char *p = bytes;

    for (size_t i = 0; i < n;) {
        unsigned c = p[i], need, code;

        if (c < 0x80) {
            i++;
            continue;
        }
        need = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if (c < 0xc2 || c > 0xf4 || i + need >= n)
            return false;
        code = c & (0x3fu >> need);
        for (unsigned k = 1; k <= need; k++) {
            if ((p[i + k] & 0xc0) != 0x80)
                return false;
            code = code << 6 | (p[i + k] & 0x3f);
        }
        if ((need == 2 && code < 0x800) || (need == 3 && (code < 0x10000 || code > 0x10ffff)) ||
            (code >= 0xd800 && code <= 0xdfff))
            return false;
        i += need + 1;
    }
    return true;
}

void lh_utf8_trim(char *s)
{
    size_t n = strlen(s), lead = n, want;
    unsigned c;

    while (lead > 0 && n - lead < 3 && ((unsigned char)s[lead - 1] & 0xc0) == 0x80)
        lead--;
    if (lead == 0)
        return;
    c = (unsigned char)s[lead - 1]; /* what the continuation bytes at the end belong to */
    want = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
    if (n - lead < want)
        s[lead - 1] = '\0';
}

/* "", "." and ".." as parts: they would step out of a bucket's or a job's folder once it is a path.
 */
static bool has_dots(const char *path)
{
    for (const char *part = path; *part;) {
        size_t n = strcspn(part, "/");

        if ((n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
            return true;
        part += n + (part[n] == '/');
    }
    return false;
}

/* The scheme of "abc:rest", or 0: letters and digits before a colon that no slash precedes. */
static size_t scheme_length(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");

    return text[n] == ':' ? n : 0;
}

static int uri_split(const char *rest, struct lh_uri *ret_uri, const char *text,
                     struct lh_err *reterr)
{
    const char *slash = strchr(rest, '/');
    size_t n = slash ? (size_t)(slash - rest) : strlen(rest);

    if (n == 0 || n >= sizeof(ret_uri->authority))
        return lh_err_set(reterr, LH_EJOB, "'%s' is not a usable address", text);
    memcpy(ret_uri->authority, rest, n);
    ret_uri->authority[n] = '\0';
    (void)snprintf(ret_uri->path, sizeof(ret_uri->path), "%s", slash ? slash + 1 : "");
    return 0;
}

int lh_uri_parse(const char *text, struct lh_uri *ret_uri, struct lh_err *reterr)
{
    size_t scheme = scheme_length(text);

    if (text[0] == '\0')
        return lh_err_set(reterr, LH_EJOB, "an empty address");
    if (strlen(text) >= sizeof(ret_uri->path))
        return lh_err_set(reterr, LH_EJOB, "an address of more than %zu bytes",
                          sizeof(ret_uri->path) - 1);
    memset(ret_uri, 0, sizeof(*ret_uri));
    if (lh_starts_with(text, "file://")) {
        if (text[7] != '/')
            return lh_err_set(reterr, LH_EJOB, "'%s' must be file:///ABSOLUTE/PATH", text);
        ret_uri->scheme = LH_URI_FILE;
        (void)snprintf(ret_uri->path, sizeof(ret_uri->path), "%s", text + 7);
        return 0;
    }
    if (lh_starts_with(text, "s3://")) {
        ret_uri->scheme = LH_URI_S3;
        if (has_dots(text + 5))
            return lh_err_set(reterr, LH_EJOB, "'%s' must have no part '.' or '..'", text);
        return uri_split(text + 5, ret_uri, text, reterr);
    }
    if (lh_starts_with(text, "job:")) {
        ret_uri->scheme = LH_URI_JOB;
        if (has_dots(text + 4) || uri_split(text + 4, ret_uri, text, reterr) < 0 ||
            ret_uri->path[0] == '\0')
            return lh_err_set(reterr, LH_EJOB, "'%s' must be job:ID/NAME", text);
        return 0;
    }
    if (scheme > 0)
        return lh_err_set(reterr, LH_EJOB,
                          "'%s' has a scheme that is none of file:///, s3://, job: (a file of that "
                          "name: './%s')",
                          text, text);
    ret_uri->scheme = LH_URI_FILE;
    (void)snprintf(ret_uri->path, sizeof(ret_uri->path), "%s", text);
    return 0;
}

static void random_bytes(void *out, size_t n)
{
    char *p = out;

    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);

        if (got < 0) {
            assert(errno == EINTR);
            continue;
        }
        p += got;
        n -= (size_t)got;
    }
}

void lh_id_new(const char *prefix, char ret_id[static LH_ID_MAX])
{
    static const char digits[] =
        "0123456789abcdefghjkmnpqrstvwxyz"; /* Crockford: sorts as its value */
    uint64_t ms = lh_now_ms() & ((UINT64_C(1) << 48) - 1), high;
    uint32_t noise;
    size_t used = strlen(prefix);

    assert(used + 17 <= LH_ID_MAX);
    memcpy(ret_id, prefix, used);
    random_bytes(&noise, sizeof(noise));
    high = ms << 12 | noise >> 20; /* 80 bits: 60 here, 20 left in noise */
    for (int shift = 55; shift >= 0; shift -= 5)
        ret_id[used++] = digits[high >> shift & 31];
    for (int shift = 15; shift >= 0; shift -= 5)
        ret_id[used++] = digits[noise >> shift & 31];
    ret_id[used] = '\0';
}

void lh_random_hex(size_t n, char *ret_hex)
{
    ret_hex[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        unsigned char byte;

        random_bytes(&byte, 1);
        (void)sprintf(ret_hex + 2 * i, "%02x", byte);
    }
}

bool lh_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret_value)
{
    char *end;
    long long value;

    if (!((s[0] >= '0' && s[0] <= '9') || (s[0] == '-' && s[1] >= '0' && s[1] <= '9')))
        return false;
    errno = 0;
    value = strtoll(s, &end, 10);
    if (errno != 0 || *end != '\0' || value < min || value > max)
        return false;
    *ret_value = value;
    return true;
}

const char *lh_bytes_text(uint64_t bytes, char buf[static 32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    unsigned unit = 0;

    while (value >= 1024 && unit + 1 < LH_ARRAY_LEN(units)) {
        value /= 1024;
        unit++;
    }
    (void)snprintf(buf, 32, unit == 0 || value >= 100 ? "%.0f %s" : "%.2f %s", value, units[unit]);
    return buf;
}
