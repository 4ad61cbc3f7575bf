/* curl_uv.c - see curl_uv.h.
 *
 * libcurl tells which sockets to watch (on_socket) and when to call it at the latest (on_timeout);
 * libuv calls back. uv handles die in their close callbacks: a socket's with the socket, the timer
 * with the client.
 */
#include "daemon/node/curl_uv.h"
#include "proto/base/buf.h"
#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 5000

struct watch {
    uv_poll_t poll;
    curl_socket_t fd;
    struct client *client;
};
struct client_call {
    struct client *client;
    struct client_call *next, **link;
    CURL *easy;
    struct curl_slist *headers;
    struct lh_buf answer;
    char *body;
    char error[CURL_ERROR_SIZE];
    client_done_fn *done;
    void *arg;
};
struct client {
    CURLM *multi;
    uv_timer_t timer;
    uv_loop_t *loop;
    struct client_call *calls;
    char *token, *ca_file;
};

static void call_free(struct client_call *call)
{
    if (call->link) {
        *call->link = call->next;
        if (call->next)
            call->next->link = call->link;
    }
    if (call->easy) {
        (void)curl_multi_remove_handle(call->client->multi, call->easy);
        curl_easy_cleanup(call->easy);
    }
    curl_slist_free_all(call->headers);
    lh_buf_release(&call->answer);
    free(call->body);
    free(call);
}

static void call_finish(struct client_call *call, CURLcode code)
{
    struct client_reply reply = {.body = call->answer.data ? call->answer.data : "",
                                 .len = call->answer.len};
    client_done_fn *done = call->done;
    void *arg = call->arg;
    long status = 0;

    if (code == CURLE_OK)
        (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    else
        (void)lh_err_set(&reply.err, LH_ETRYAGAIN, "%s",
                         call->error[0] ? call->error : curl_easy_strerror(code));
    reply.status = (int)status;
    done(arg, &reply);
    call_free(call);
}

static void check_done(struct client *c)
{
    CURLMsg *m;
    int left;

    while ((m = curl_multi_info_read(c->multi, &left))) {
        struct client_call *call = NULL;

        if (m->msg != CURLMSG_DONE)
            continue;
        (void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        assert(call);
        call_finish(call, m->data.result);
    }
}

static void on_timer(uv_timer_t *t)
{
    struct client *c = t->data;
    int running;

    (void)curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    check_done(c);
}

static int on_timeout(CURLM *multi, long timeout_ms, void *arg)
{
    struct client *c = arg;

    (void)multi;
    if (timeout_ms < 0)
        (void)uv_timer_stop(&c->timer);
    else /* never from within libcurl: 0 means the next turn of the loop */
        (void)uv_timer_start(&c->timer, on_timer, (uint64_t)timeout_ms, 0);
    return 0;
}

static void on_ready(uv_poll_t *p, int status, int events)
{
    struct watch *w = p->data;
    struct client *c = w->client; /* w may be gone after the call below */
    int running, flags = 0;

    if (status < 0)
        flags = CURL_CSELECT_ERR;
    flags |= events & UV_READABLE ? CURL_CSELECT_IN : 0;
    flags |= events & UV_WRITABLE ? CURL_CSELECT_OUT : 0;
    (void)curl_multi_socket_action(c->multi, w->fd, flags, &running);
    check_done(c);
}

static void watch_on_closed(uv_handle_t *h)
{
    free(h->data);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct client *c = arg;
    struct watch *w = socket_arg;
    int events = 0;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            (void)uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, watch_on_closed);
        }
        (void)curl_multi_assign(c->multi, fd, NULL);
        return 0;
    }
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (!w || uv_poll_init_socket(c->loop, &w->poll, fd) < 0) {
            free(w);
            return -1;
        }
        w->poll.data = w;
        w->fd = fd;
        w->client = c;
        (void)curl_multi_assign(c->multi, fd, w);
    }
    events |= what & CURL_POLL_IN ? UV_READABLE : 0;
    events |= what & CURL_POLL_OUT ? UV_WRITABLE : 0;
    return uv_poll_start(&w->poll, events, on_ready) < 0 ? -1 : 0;
}

int client_new(uv_loop_t *loop, const struct client_config *config, struct client **ret_client,
               struct lh_err *reterr)
{
    struct client *c = calloc(1, sizeof(*c));

    if (!c || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
        !(c->multi = curl_multi_init())) {
        free(c);
        return lh_err_set(reterr, -ENOMEM, "HTTP client");
    }
    c->loop = loop;
    c->token = config->token ? strdup(config->token) : NULL;
    c->ca_file = config->ca_file ? strdup(config->ca_file) : NULL;
    (void)uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    (void)curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    (void)curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    (void)curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timeout);
    (void)curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    *ret_client = c;
    return 0;
}

static void client_on_closed(uv_handle_t *h)
{
    free(h->data);
}

void client_free(struct client *c)
{
    if (!c)
        return;
    while (c->calls)
        call_free(c->calls);
    (void)curl_multi_cleanup(c->multi);
    free(c->token);
    free(c->ca_file);
    uv_close((uv_handle_t *)&c->timer, client_on_closed);
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct client_call *call = arg;

    return lh_buf_append(&call->answer, data, size * n) < 0 ? 0 : size * n;
}

static bool add_header(struct client_call *call, const char *name, const char *value)
{
    char line[1024];
    struct curl_slist *more = NULL;

    if (snprintf(line, sizeof(line), "%s: %s", name, value) < (int)sizeof(line))
        more = curl_slist_append(call->headers, line);
    if (more)
        call->headers = more;
    return more != NULL;
}

/* A PUT is a POST with another word: bodies are in memory, so no read callback is needed. */
static bool set_body(struct client_call *call, const struct client_request *q)
{
    if (!q->content_type)
        return true;
    call->body = malloc(q->body_len + 1);
    if (!call->body || !add_header(call, "Content-Type", q->content_type) ||
        !add_header(call, "Expect", ""))
        return false;
    if (q->body_len)
        memcpy(call->body, q->body, q->body_len);
    (void)curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->body);
    (void)curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body_len);
    return true;
}

static bool set_up(struct client *c, struct client_call *call, const struct client_request *q)
{
    CURL *e = call->easy = curl_easy_init();
    char bearer[600];

    if (!e || !set_body(call, q))
        return false;
    if (c->token) {
        (void)snprintf(bearer, sizeof(bearer), "Bearer %s", c->token);
        if (!add_header(call, "Authorization", bearer))
            return false;
    }
    if (c->ca_file)
        (void)curl_easy_setopt(e, CURLOPT_CAINFO, c->ca_file);
    (void)curl_easy_setopt(e, CURLOPT_URL, q->url);
    (void)curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, q->method);
    (void)curl_easy_setopt(e, CURLOPT_HTTPHEADER, call->headers);
    (void)curl_easy_setopt(e, CURLOPT_USERAGENT, "longhaul-node/" LH_VERSION);
    (void)curl_easy_setopt(
        e, CURLOPT_PROXY,
        ""); /* the coordinator is ours: never through a proxy of the environment */
    (void)curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
    (void)curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    (void)curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)q->timeout_ms);
    (void)curl_easy_setopt(e, CURLOPT_ERRORBUFFER, call->error);
    (void)curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_data);
    (void)curl_easy_setopt(e, CURLOPT_WRITEDATA, call);
    (void)curl_easy_setopt(e, CURLOPT_PRIVATE, call);
    return true;
}

int client_send(struct client *c, const struct client_request *q, client_done_fn *done, void *arg,
                struct client_call **ret_call, struct lh_err *reterr)
{
    struct client_call *call = calloc(1, sizeof(*call));

    if (!call)
        return lh_err_set(reterr, -ENOMEM, "request '%s'", q->url);
    call->client = c;
    call->done = done;
    call->arg = arg;
    lh_buf_init(&call->answer, q->answer_max);
    call->next = c->calls;
    call->link = &c->calls;
    if (c->calls)
        c->calls->link = &call->next;
    c->calls = call;
    if (!set_up(c, call, q) || curl_multi_add_handle(c->multi, call->easy) != CURLM_OK) {
        call_free(call);
        return lh_err_set(reterr, -ENOMEM, "request '%s'", q->url);
    }
    if (ret_call)
        *ret_call = call;
    return 0;
}

void client_cancel(struct client_call *call)
{
    call_free(call);
}
