/* auth.c - who is asking: bearer tokens, or local callers without one.
 *
 * A token's role is looked up by its SHA-256; all entries are compared, each in constant time. With
 * auth local a caller on loopback or a unix socket is the operator. Browsers on the same machine
 * reach loopback too, so such a caller must name the server by an address or localhost (a foreign
 * name that resolves to 127.0.0.1 is DNS rebinding), and must not come from another origin. What a
 * role may do is decided by the routes.
 */
#include "daemon/coordinator/http/internal.h"
#include "proto/base/fs.h"
#include "proto/base/sha256.h"
#include "proto/base/str.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TOKEN_FILE_MAX ((size_t)1 << 20)
#define TOKEN_MAX 512

static int role_parse(const char *name)
{
    static const char *const names[] = {"", "viewer", "submitter", "node", "operator"};

    for (int i = HTTP_VIEWER; i <= HTTP_OPERATOR; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return -1;
}

static bool is_sha256(const char *s)
{
    return strlen(s) == 64 && strspn(s, "0123456789abcdefABCDEF") == 64;
}

static int load_line(struct http_server *s, char *line, unsigned number, struct lh_err *reterr)
{
    char *save = NULL;
    char *role = strtok_r(line, " \t\r", &save);
    char *name = strtok_r(NULL, " \t\r", &save);
    char *sha256 = strtok_r(NULL, " \t\r", &save);
    struct http_token *t;

    if (!role || role[0] == '#')
        return 0;
    if (!name || !sha256 || strtok_r(NULL, " \t\r", &save))
        return lh_err_set(reterr, LH_EINPUT,
                          "token file '%s' line %u: expected ROLE NAME SHA256-OF-TOKEN",
                          s->config.token_file, number);
    if (role_parse(role) < 0)
        return lh_err_set(
            reterr, LH_EINPUT,
            "token file '%s' line %u: role '%s' is none of viewer, submitter, node, operator",
            s->config.token_file, number, role);
    if (!is_sha256(sha256))
        return lh_err_set(
            reterr, LH_EINPUT,
            "token file '%s' line %u: the third word is not a SHA-256 in 64 hex digits",
            s->config.token_file, number);
    if (s->n_tokens == HTTP_TOKENS_MAX)
        return lh_err_set(reterr, LH_EINPUT, "token file '%s' has more than %d tokens",
                          s->config.token_file, HTTP_TOKENS_MAX);
    t = &s->tokens[s->n_tokens];
    t->name = strdup(name);
    if (!t->name)
        return lh_err_set(reterr, -ENOMEM, "token file '%s'", s->config.token_file);
    t->role = (enum http_role)role_parse(role);
    for (size_t i = 0; i < 64; i++)
        t->sha256[i] = (char)(sha256[i] >= 'A' && sha256[i] <= 'F' ? sha256[i] + 32 : sha256[i]);
    s->n_tokens++;
    return 0;
}

int auth_load(struct http_server *s, struct lh_err *reterr)
{
    char *text = NULL;
    unsigned number = 0;
    size_t len;
    int r;

    if (!s->config.token_file) {
        if (s->config.auth == HTTP_AUTH_TOKEN)
            return lh_err_set(reterr, LH_EINPUT, "auth by token needs a token file");
        return 0;
    }
    r = lh_read_file(s->config.token_file, TOKEN_FILE_MAX, &text, &len, reterr);
    if (r < 0)
        return r;
    s->tokens = calloc(HTTP_TOKENS_MAX, sizeof(s->tokens[0]));
    if (!s->tokens)
        r = lh_err_set(reterr, -ENOMEM, "token file '%s'", s->config.token_file);
    for (char *at = text, *line; r == 0 && (line = strsep(&at, "\n"));)
        r = load_line(s, line, ++number, reterr);
    free(text);
    return r;
}

void auth_release(struct http_server *s)
{
    for (unsigned i = 0; i < s->n_tokens; i++)
        free(s->tokens[i].name);
    free(s->tokens);
    s->tokens = NULL;
    s->n_tokens = 0;
}

static bool same_hash(const char *a, const char *b)
{
    unsigned char differ = 0;

    for (size_t i = 0; i < 64; i++)
        differ = (unsigned char)(differ | (a[i] ^ b[i]));
    return differ == 0;
}

static const struct http_token *find_token(const struct http_server *s, const char *secret)
{
    const struct http_token *found = NULL;
    char hex[LH_SHA256_HEX];

    lh_sha256_hex(secret, strlen(secret), hex);
    for (unsigned i = 0; i < s->n_tokens; i++)
        if (same_hash(hex, s->tokens[i].sha256))
            found = &s->tokens[i];
    return found;
}

/* Host names that cannot have been made to resolve here by a stranger. */
static bool host_is_own(const struct http_server *s, const char *host)
{
    char name[256];
    unsigned char address[16];
    size_t n;

    if (host[0] == '[')
        return true; /* an address */
    n = strcspn(host, ":");
    if (n >= sizeof(name))
        return false;
    memcpy(name, host, n);
    name[n] = 0;
    return inet_pton(AF_INET, name, address) == 1 || strcasecmp(name, "localhost") == 0 ||
           strcasecmp(name, s->host) == 0 || n == 0;
}

static bool origin_is_own(const char *origin, const char *host)
{
    const char *at = strstr(origin, "://");

    return host && at && strcasecmp(at + 3, host) == 0;
}

static void refuse(struct http_request *q, int status, const char *code, const char *text)
{
    if (q->refuse_status)
        return;
    q->refuse_status = status;
    q->refuse_code = code;
    q->refuse_text = text;
}

void auth_check(struct http_request *q)
{
    const struct http_server *s = q->server;
    const char *authorization = http_header(q, "Authorization");
    const char *host = http_header(q, "Host");
    const char *origin = http_header(q, "Origin");

    if (authorization) {
        const struct http_token *t = NULL;

        if (strncasecmp(authorization, "Bearer ", 7) == 0 && strlen(authorization) < TOKEN_MAX)
            t = find_token(s, authorization + 7 + strspn(authorization + 7, " "));
        if (!t) {
            refuse(q, 401, "bad_token",
                   "the Authorization header has no bearer token that is known here");
            return;
        }
        q->role = t->role;
        q->principal = t->name;
        return;
    }
    if (s->config.auth != HTTP_AUTH_LOCAL || !q->conn->local_peer)
        return;
    if (host && !host_is_own(s, host)) {
        refuse(q, 403, "foreign_host",
               "without a token this server is only reached as localhost or by address");
        return;
    }
    if (origin && !origin_is_own(origin, host)) {
        refuse(q, 403, "cross_origin",
               "without a token, pages of other origins may not call this server");
        return;
    }
    q->role = HTTP_OPERATOR;
    q->principal = "local";
}
