/* client.c - see client.h. The CLI's only file that includes curl. */
#include "daemon/cli/client.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <curl/curl.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* A list of 500 jobs with specs is about 1 MiB; log pieces are at most 1 MiB. */
#define REPLY_MAX ((size_t)64 << 20)
#define LINE_MAX_BYTES ((size_t)4 << 20)

struct client {
    CURL *curl;
    char server[512];
    char *authorization; /* a whole header line, or NULL */
};

static int newest_standalone(char *server, size_t cap)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char pattern[1024];
    time_t newest = 0;
    glob_t found;

    if (state && state[0])
        (void)snprintf(pattern, sizeof(pattern), "%s/longhaul/*/address", state);
    else
        (void)snprintf(pattern, sizeof(pattern), "%s/.local/state/longhaul/*/address", home ? home : "");
    if (glob(pattern, 0, NULL, &found) != 0)
        return -ENOENT;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct stat st;
        char *text;

        if (stat(found.gl_pathv[i], &st) < 0 || st.st_mtime < newest ||
            lh_read_file(found.gl_pathv[i], cap - 1, &text, NULL, NULL) < 0)
            continue;
        newest = st.st_mtime;
        text[strcspn(text, "\r\n")] = '\0';
        (void)snprintf(server, cap, "%s", text);
        free(text);
    }
    globfree(&found);
    return newest ? 0 : -ENOENT;
}

static int read_token(struct client *c, const char *token_file, struct lh_err *reterr)
{
    char *token;
    int rc = lh_read_file(token_file, 4096, &token, NULL, reterr);

    if (rc < 0)
        return rc;
    token[strcspn(token, "\r\n")] = '\0';
    if (asprintf(&c->authorization, "Authorization: Bearer %s", token) < 0)
        rc = lh_err_set(reterr, -ENOMEM, "token");
    free(token);
    return rc < 0 ? rc : 0;
}

int client_new(const char *server, const char *token_file, struct client **ret_client, struct lh_err *reterr)
{
    struct client *c = calloc(1, sizeof(*c));
    int rc = 0;

    if (!c)
        return lh_err_set(reterr, -ENOMEM, "client");
    if (!server)
        server = getenv("LONGHAUL_SERVER");
    if (server && server[0])
        (void)snprintf(c->server, sizeof(c->server), "%s", server);
    else if (newest_standalone(c->server, sizeof(c->server)) < 0)
        rc = lh_err_set(reterr, LH_EINPUT,
                        "no server: give --server http://HOST:PORT, set LONGHAUL_SERVER, or start 'longhauld --standalone'");
    for (size_t n = strlen(c->server); n > 0 && c->server[n - 1] == '/'; n--)
        c->server[n - 1] = '\0';
    if (!token_file)
        token_file = getenv("LONGHAUL_TOKEN_FILE");
    if (rc == 0 && token_file)
        rc = read_token(c, token_file, reterr);
    if (rc == 0 && !(c->curl = curl_easy_init()))
        rc = lh_err_set(reterr, -ENOMEM, "libcurl");
    if (rc < 0) {
        client_free(c);
        return rc;
    }
    *ret_client = c;
    return 0;
}

void client_free(struct client *c)
{
    if (!c)
        return;
    if (c->curl)
        curl_easy_cleanup(c->curl);
    free(c->authorization);
    free(c);
}

const char *client_server(const struct client *c)
{
    return c->server;
}

void reply_release(struct reply *r)
{
    json_decref(r->json);
    lh_buf_release(&r->body);
}

static size_t on_body(char *bytes, size_t size, size_t n, void *arg)
{
    struct reply *r = arg;

    return lh_buf_append(&r->body, bytes, size * n) < 0 ? 0 : size * n;
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    static const char name[] = "x-longhaul-offset:";
    struct reply *r = arg;

    if (size * n > sizeof(name) && strncasecmp(line, name, sizeof(name) - 1) == 0)
        r->offset = strtoull(line + sizeof(name) - 1, NULL, 10);
    return size * n;
}

/* Options every request starts from; the list of headers is the caller's to free. */
static struct curl_slist *prepare(struct client *c, const char *path, const char *header)
{
    struct curl_slist *headers = NULL;
    char *url = NULL;

    curl_easy_reset(c->curl);
    if (asprintf(&url, "%s%s", c->server, path) < 0)
        return NULL;
    (void)curl_easy_setopt(c->curl, CURLOPT_URL, url);
    free(url);
    (void)curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT, 10L);
    (void)curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "longhaul/" LH_VERSION);
    (void)curl_easy_setopt(c->curl, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
    headers = curl_slist_append(headers, "Expect:");
    if (c->authorization)
        headers = curl_slist_append(headers, c->authorization);
    if (header)
        headers = curl_slist_append(headers, header);
    return headers;
}

static int unreachable(struct client *c, CURLcode code, struct lh_err *reterr)
{
    return lh_err_set(reterr, LH_EREMOTE, "%s does not answer (%s); is longhauld running, and is --server right?",
                      c->server, curl_easy_strerror(code));
}

int client_request(struct client *c, const char *method, const char *path, const json_t *body, const char *header,
                   struct reply *ret_reply, struct lh_err *reterr)
{
    struct curl_slist *headers = prepare(c, path, header);
    struct reply reply = {0};
    char *text = NULL;
    CURLcode code;
    long status = 0;

    lh_buf_init(&reply.body, REPLY_MAX);
    (void)curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
    (void)curl_easy_setopt(c->curl, CURLOPT_TIMEOUT, 120L);
    if (body && (text = lh_json_text(body, 0))) {
        headers = curl_slist_append(headers, "Content-Type: application/json");
        (void)curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, text);
    } else if (strcmp(method, "POST") == 0) {
        (void)curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, "");
    }
    (void)curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &reply);
    (void)curl_easy_setopt(c->curl, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(c->curl, CURLOPT_HEADERDATA, &reply);
    code = curl_easy_perform(c->curl);
    (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    free(text);
    if (code != CURLE_OK) {
        reply_release(&reply);
        return unreachable(c, code, reterr);
    }
    reply.status = (int)status;
    if (reply.body.len > 0)
        (void)!lh_json_parse(reply.body.data, reply.body.len, 128, &reply.json, NULL);
    *ret_reply = reply;
    return 0;
}

/* ---- server-sent events ------------------------------------------------------------------------------------------ */

struct feed {
    struct lh_buf pending; /* bytes of an unfinished line */
    char id[32], event[64];
    struct lh_buf data;
    client_event_fn *fn;
    void *arg;
    bool stopped;
};

static void feed_line(struct feed *f, char *line)
{
    if (line[0] == '\0') { /* an empty line ends one event */
        if (f->data.len > 0 && !f->fn(f->arg, f->id, f->event, f->data.data))
            f->stopped = true;
        lh_buf_release(&f->data);
        f->id[0] = f->event[0] = '\0';
    } else if (lh_starts_with(line, "id: ")) {
        (void)snprintf(f->id, sizeof(f->id), "%s", line + 4);
    } else if (lh_starts_with(line, "event: ")) {
        (void)snprintf(f->event, sizeof(f->event), "%s", line + 7);
    } else if (lh_starts_with(line, "data: ")) {
        if (lh_buf_append(&f->data, line + 6, strlen(line + 6)) < 0)
            f->stopped = true;
    }
}

static size_t on_feed(char *bytes, size_t size, size_t n, void *arg)
{
    struct feed *f = arg;
    char *newline;

    if (lh_buf_append(&f->pending, bytes, size * n) < 0)
        return 0;
    while (!f->stopped && f->pending.len > 0 && (newline = memchr(f->pending.data, '\n', f->pending.len))) {
        *newline = '\0';
        if (newline > f->pending.data && newline[-1] == '\r')
            newline[-1] = '\0';
        feed_line(f, f->pending.data);
        lh_buf_consume(&f->pending, (size_t)(newline - f->pending.data) + 1);
    }
    return f->stopped ? 0 : size * n;
}

int client_events(struct client *c, const char *path, const char *last_id, client_event_fn *line, void *arg,
                  int *ret_status, struct lh_err *reterr)
{
    struct feed feed = {.fn = line, .arg = arg};
    struct curl_slist *headers;
    char resume[64];
    CURLcode code;
    long status = 0;

    (void)snprintf(resume, sizeof(resume), "Last-Event-ID: %s", last_id ? last_id : "");
    headers = prepare(c, path, last_id ? resume : NULL);
    headers = curl_slist_append(headers, "Accept: text/event-stream");
    lh_buf_init(&feed.pending, LINE_MAX_BYTES);
    lh_buf_init(&feed.data, LINE_MAX_BYTES);
    (void)curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_feed);
    (void)curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &feed);
    /* The server pings every 15 s: three missed pings and the line counts as cut. */
    (void)curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_TIME, 45L);
    code = curl_easy_perform(c->curl);
    (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    lh_buf_release(&feed.pending);
    lh_buf_release(&feed.data);
    *ret_status = (int)status;
    if (code != CURLE_OK && !feed.stopped)
        return unreachable(c, code, reterr);
    return 0;
}
