/* test_http.c - the HTTP server over real sockets: what clients may do wrong, and what they may
 * rely on.
 *
 * The server runs on a libuv loop in a thread of its own with a handler of a few routes; the tests
 * are blocking clients. Deadlines are short (request 600 ms, idle 900 ms) so that they can be
 * watched.
 */
#include "daemon/coordinator/http/http.h"
#include "daemon/coordinator/metrics/metrics.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/sha256.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define BODY_MAX ((size_t)64 * 1024)
#define BIG_BYTES ((size_t)8 << 20) /* more than socket buffers hold */
#define REQUEST_MS 600
#define IDLE_MS 900
#define ANSWER_MAX ((size_t)4 << 20)

struct later {
    uv_timer_t timer;
    struct http_request *q;
};
struct flood {
    uv_timer_t timer;
    struct http_stream *stream;
};
struct fixture {
    pthread_t thread;
    uv_loop_t loop;
    uv_async_t stop;
    struct http_server *server;
    struct http_config config;
    int port;
    struct lh_err err;
    struct http_request *waiting[512];
    unsigned n_waiting;
    atomic_uint n_cancelled, n_closed, n_wait;
    uv_async_t release; /* answers all that wait */
};

/* ---- the server side ---- */

static void free_handle(uv_handle_t *h)
{
    free(h->data);
}

static void later_on_timer(uv_timer_t *t)
{
    struct later *l = t->data;

    http_answer_json(l->q, 200, json_pack("{s:b}", "later", 1), NULL);
    uv_close((uv_handle_t *)t, free_handle);
}

static void on_cancelled(void *arg)
{
    struct fixture *f = arg;

    atomic_fetch_add(&f->n_cancelled, 1);
}

static void on_closed(void *arg)
{
    struct flood *fl = arg;

    fl->stream = NULL;
    atomic_fetch_add((atomic_uint *)fl->timer.loop->data, 1);
    uv_close((uv_handle_t *)&fl->timer, free_handle);
}

static void flood_on_timer(uv_timer_t *t)
{
    static const char kib[] = "0123456789012345678901234567890123456789012345678901234567890123";
    struct flood *fl = t->data;
    static uint64_t seq;

    if (fl->stream)
        http_stream_send(fl->stream, ++seq, "tick", kib);
}

static void open_stream(struct fixture *f, struct http_request *q, uint64_t period_ms)
{
    struct flood *fl = calloc(1, sizeof(*fl));

    fl->timer.data = fl;
    f->loop.data = &f->n_closed;
    assert_int_equal(uv_timer_init(&f->loop, &fl->timer), 0);
    assert_int_equal(http_stream_open(q, on_closed, fl, &fl->stream), 0);
    if (period_ms == 0)
        for (int i = 0; i < 20000 && fl->stream; i++)
            flood_on_timer(&fl->timer);
    else
        assert_int_equal(uv_timer_start(&fl->timer, flood_on_timer, period_ms, period_ms), 0);
}

static void handler(void *arg, struct http_request *q)
{
    struct fixture *f = arg;
    const char *path = http_path(q);
    size_t len;

    http_set_route(q, "/test");
    if (strcmp(path, "/echo") == 0) {
        const void *body = http_body(q, &len);

        http_answer_bytes(q, 200, "application/octet-stream", body, len,
                          (const char *const[]){"ETag: \"7\"", "X-Two: a: b", NULL});
    } else if (strcmp(path, "/later") == 0) {
        struct later *l = calloc(1, sizeof(*l));

        l->q = q;
        l->timer.data = l;
        assert_int_equal(uv_timer_init(&f->loop, &l->timer), 0);
        assert_int_equal(uv_timer_start(&l->timer, later_on_timer, 50, 0), 0);
    } else if (strcmp(path, "/wait") == 0) {
        assert_true(f->n_waiting < 512);
        http_on_cancel(q, on_cancelled, f);
        f->waiting[f->n_waiting++] = q;
        atomic_fetch_add(&f->n_wait, 1);
    } else if (strcmp(path, "/sse") == 0) {
        open_stream(f, q, 20);
    } else if (strcmp(path, "/flood") == 0) {
        open_stream(f, q, 0);
    } else if (strcmp(path, "/who") == 0) {
        http_answer_json(
            q, 200,
            json_pack("{s:s, s:i}", "principal", http_principal(q), "role", (int)http_role(q)),
            NULL);
    } else if (strcmp(path, "/big") == 0) {
        char *big = calloc(1, BIG_BYTES);

        assert_non_null(big);
        http_answer_bytes(q, 200, "application/octet-stream", big, BIG_BYTES, NULL);
        free(big);
    } else if (strcmp(path, "/query") == 0) {
        json_t *all = json_array();
        const char *name, *value;

        for (unsigned i = 0; http_query_at(q, i, &name, &value); i++)
            assert_int_equal(json_array_append_new(all, json_pack("[s,s]", name, value)), 0);
        http_answer_json(q, 200, all, NULL);
    } else {
        http_answer_problem(q, 404, "not_found", NULL, "nothing at '%s'", path);
    }
}

static void release_on_async(uv_async_t *a)
{
    struct fixture *f = a->data;

    for (unsigned i = 0; i < f->n_waiting; i++)
        http_answer_json(f->waiting[i], 200, json_pack("{s:i}", "n", (int)i), NULL);
    f->n_waiting = 0;
}

static void stop_on_async(uv_async_t *a)
{
    struct fixture *f = a->data;

    http_server_stop(f->server);
    http_server_free(f->server);
    release_on_async(&f->release); /* what still waited: answers that are dropped */
    uv_close((uv_handle_t *)&f->release, NULL);
    uv_close((uv_handle_t *)&f->stop, NULL);
}

static void *loop_main(void *arg)
{
    struct fixture *f = arg;

    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    return NULL;
}

static struct fixture *start_with(const struct http_config *config)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int r;

    assert_non_null(f);
    f->config = *config;
    assert_int_equal(uv_loop_init(&f->loop), 0);
    r = http_server_new(&f->loop, &f->config, handler, f, &f->server, &f->err);
    if (r < 0) {
        (void)uv_run(&f->loop, UV_RUN_DEFAULT);
        assert_int_equal(uv_loop_close(&f->loop), 0);
        f->port = r;
        return f;
    }
    f->port = http_server_port(f->server);
    f->stop.data = f->release.data = f;
    assert_int_equal(uv_async_init(&f->loop, &f->stop, stop_on_async), 0);
    assert_int_equal(uv_async_init(&f->loop, &f->release, release_on_async), 0);
    assert_int_equal(pthread_create(&f->thread, NULL, loop_main, f), 0);
    return f;
}

static struct fixture *start(void)
{
    return start_with(&(struct http_config){.listen = "127.0.0.1:0",
                                            .body_max = BODY_MAX,
                                            .request_ms = REQUEST_MS,
                                            .idle_ms = IDLE_MS,
                                            .listen_fd = -1});
}

static void stop(struct fixture *f)
{
    assert_int_equal(uv_async_send(&f->stop), 0);
    assert_int_equal(pthread_join(f->thread, NULL), 0);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    free(f);
}

/* ---- the client side ---- */

static int dial(const struct fixture *f)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)f->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
    return fd;
}

static void put(int fd, const char *text)
{
    size_t n = strlen(text);

    assert_int_equal(send(fd, text, n, MSG_NOSIGNAL), (ssize_t)n);
}

/* Reads for at most ms or until the end; *ret_closed tells whether the server closed. Caller frees.
 */
static char *get(int fd, int ms, bool *ret_closed)
{
    char *text = calloc(1, ANSWER_MAX + 1);
    uint64_t end = lh_mono_ms() + (uint64_t)ms;
    size_t len = 0;

    *ret_closed = false;
    while (len < ANSWER_MAX) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint64_t now = lh_mono_ms();
        ssize_t n;

        if (now >= end || poll(&p, 1, (int)(end - now)) <= 0)
            break;
        n = recv(fd, text + len, ANSWER_MAX - len, 0);
        if (n <= 0) {
            *ret_closed = true;
            break;
        }
        len += (size_t)n;
    }
    return text;
}

/* Sends a whole request on a new connection and gives the status; the answer's text is left in
 * *ret_text when not NULL. 0: closed without an answer; -1: still open, nothing came. */
static int ask_bytes(const struct fixture *f, const char *request, size_t n, int ms,
                     char **ret_text)
{
    int fd = dial(f);
    bool closed;
    char *text;
    int status = -1;

    assert_int_equal(send(fd, request, n, MSG_NOSIGNAL), (ssize_t)n);
    text = get(fd, ms, &closed);
    (void)close(fd);
    if (strncmp(text, "HTTP/1.1 ", 9) == 0)
        status = atoi(text + 9);
    else if (closed)
        status = 0;
    if (ret_text)
        *ret_text = text;
    else
        free(text);
    return status;
}

static int ask(const struct fixture *f, const char *request)
{
    return ask_bytes(f, request, strlen(request), 250, NULL);
}

static bool wait_for(atomic_uint *n, unsigned value, int ms)
{
    for (int i = 0; i < ms / 10; i++) {
        if (atomic_load(n) >= value)
            return true;
        (void)usleep(10000);
    }
    return atomic_load(n) >= value;
}

/* ---- ordinary requests ---- */

static void answers_carry_id_date_type_and_own_headers(void **state)
{
    struct fixture *f = start();
    const char *request = "POST /echo HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: abc-1\r\n"
                          "Content-Length: 5\r\n\r\nhello";
    char *text;

    (void)state;
    assert_int_equal(ask_bytes(f, request, strlen(request), 250, &text), 200);
    assert_non_null(strstr(text, "X-Request-Id: abc-1\r\n"));
    assert_non_null(strstr(text, "Date: "));
    assert_non_null(strstr(text, "Content-Type: application/octet-stream\r\n"));
    assert_non_null(strstr(text, "ETag: \"7\"\r\n"));
    assert_non_null(strstr(text, "X-Two: a: b\r\n"));
    assert_non_null(strstr(text, "\r\n\r\nhello"));
    free(text);
    stop(f);
}

static void head_has_the_header_and_no_body(void **state)
{
    struct fixture *f = start();
    const char *request = "HEAD /who HTTP/1.1\r\nHost: localhost\r\n\r\n";
    char *text;

    (void)state;
    assert_int_equal(ask_bytes(f, request, strlen(request), 250, &text), 200);
    assert_non_null(strstr(text, "Content-Length: "));
    assert_string_equal(strstr(text, "\r\n\r\n"), "\r\n\r\n");
    free(text);
    stop(f);
}

static void keep_alive_and_pipelining_answer_in_order(void **state)
{
    struct fixture *f = start();
    int fd = dial(f);
    bool closed;
    char *text, *a, *b, *c;

    (void)state;
    put(fd, "GET /later HTTP/1.1\r\nHost: localhost\r\n\r\n"
            "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\none"
            "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: "
            "chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n");
    text = get(fd, 400, &closed);
    a = strstr(text, "{\"later\":true}");
    b = strstr(text, "\r\n\r\none");
    c = strstr(text, "\r\n\r\ntwo");
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(c);
    assert_true(a < b && b < c);
    assert_false(closed);
    free(text);
    put(fd, "GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n");
    text = get(fd, 200, &closed);
    assert_non_null(strstr(text, "\"local\""));
    free(text);
    (void)close(fd);
    stop(f);
}

static void query_parameters_keep_their_order_and_repeats(void **state)
{
    struct fixture *f = start();
    const char *request = "GET /query?a=1&b&a=%C3%A4+x&=e HTTP/1.1\r\nHost: localhost\r\n\r\n";
    char *text;

    (void)state;
    assert_int_equal(ask_bytes(f, request, strlen(request), 250, &text), 200);
    assert_non_null(strstr(text, "[[\"a\",\"1\"],[\"b\",\"\"],[\"a\",\"ä x\"],[\"\",\"e\"]]"));
    free(text);
    stop(f);
}

static void broken_targets_are_refused(void **state)
{
    struct fixture *f = start();

    (void)state;
    assert_int_equal(ask(f, "GET /a%00b HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400);
    assert_int_equal(ask(f, "GET /a%zz HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400);
    assert_int_equal(ask(f, "GET /a%2 HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400);
    assert_int_equal(ask(f, "GET /%ff HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400);
    assert_int_equal(ask(f, "GET /?q=%c0%80 HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400);
    assert_int_equal(ask(f, "GET who HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400);
    assert_int_equal(ask(f, "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400);
    assert_int_equal(ask(f, "GET http://localhost/who HTTP/1.1\r\nHost: localhost\r\n\r\n"), 200);
    stop(f);
}

/* ---- ambiguous framing ---- */

static void ambiguous_framing_is_refused_and_the_connection_closed(void **state)
{
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: "
         "2\r\n\r\nab",
         400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: "
         "1\r\n\r\na",
         400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: "
         "chunked\r\n\r\n0\r\n\r\n",
         400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
         501},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: "
         "chunked\r\nTransfer-Encoding: "
         "identity\r\n\r\n0\r\n\r\n",
         400},
        {"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length : 1\r\n\r\na", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\n Content-Length: 1\r\n\r\na", 400},
        {"GET /who HTTP/1.1\r\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\r\nX:\rTransfer-Encoding: chunked\r\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\nX: a\r\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\r\nX: a\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\n", 400},
        {"GET /who HTTP/1.1\nHost: localhost\r\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\nY: c\r\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\tb\r\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\r\nX: a\x01\r\n\r\n", 400},
        {"GET /who HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n", 400},
        {"GET  /who HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
        {"GET /who  HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
        {"GE(T /who HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
        /* and what must pass */
        {"GET /who HTTP/1.1\r\nHost: localhost\r\nX:\r\nY:  \t b \r\nZ:c\r\nCookie: a=b; "
         "c=d\r\n\r\n",
         200},
        {"\r\nGET /who?a=b HTTP/1.1\r\nhost:localhost\r\n\r\n", 200},
        {"GET /who HTTP/1.0\r\n\r\n", 200},
    };
    struct fixture *f = start();

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *text;
        int status = ask_bytes(f, cases[i].request, strlen(cases[i].request), 100, &text);

        if (status != cases[i].status)
            fail_msg("case %zu: %d in place of %d\n%s\n%s", i, status, cases[i].status,
                     cases[i].request, text);
        if (status >= 400) {
            assert_non_null(strstr(text, "application/problem+json"));
            if (!strstr(text, "Connection: close"))
                fail_msg("case %zu stays open\n%s\n%s", i, cases[i].request, text);
        }
        free(text);
    }
    stop(f);
}

static void a_nul_in_the_header_is_refused(void **state)
{
    static const char value[] = "GET /who HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n";
    static const char target[] = "GET /who\0x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct fixture *f = start();

    (void)state;
    assert_int_equal(ask_bytes(f, value, sizeof(value) - 1, 250, NULL), 400);
    assert_int_equal(ask_bytes(f, target, sizeof(target) - 1, 250, NULL), 400);
    stop(f);
}

/* The layout comparison must hold when the header arrives in pieces and the buffer has to grow. */
static void long_headers_in_pieces_are_accepted_up_to_the_limit(void **state)
{
    struct fixture *f = start();
    char line[700];
    bool closed;

    (void)state;
    for (int n_lines = 22; n_lines <= 25; n_lines += 3) { /* 15.3 and 17.3 KiB */
        int fd = dial(f);
        char *text;

        put(fd, "GET /who HTTP/1.1\r\nHost: localhost\r\n");
        for (int i = 0; i < n_lines; i++) {
            (void)snprintf(line, sizeof(line), "X-%d: %0680d\r\n", i, i);
            put(fd, line);
            (void)usleep(2000);
        }
        put(fd, "\r\n");
        text = get(fd, 200, &closed);
        if (strncmp(text, n_lines == 22 ? "HTTP/1.1 200" : "HTTP/1.1 431", 12) != 0)
            fail_msg("%d lines: %s", n_lines, text);
        free(text);
        (void)close(fd);
    }
    stop(f);
}

/* ---- sizes ---- */

static void a_body_over_the_limit_is_413_and_the_connection_goes_on(void **state)
{
    struct fixture *f = start();
    char *body = calloc(1, 3 * BODY_MAX + 200);
    int fd = dial(f);
    bool closed;
    char *text;
    int n;

    (void)state;
    if (!body)
        abort();
    n = sprintf(body, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n",
                2 * BODY_MAX);
    memset(body + n, 'x', 2 * BODY_MAX);
    put(fd, body);
    put(fd, "GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n");
    text = get(fd, 300, &closed);
    assert_int_equal(strncmp(text, "HTTP/1.1 413", 12), 0);
    assert_non_null(strstr(text, "\"code\":\"body_too_large\""));
    assert_non_null(strstr(text, "HTTP/1.1 200"));
    free(text);
    (void)close(fd);

    n = sprintf(
        body, "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n%zx\r\n",
        BODY_MAX + 1);
    memset(body + n, 'x', BODY_MAX + 1);
    memcpy(body + (size_t)n + BODY_MAX + 1, "\r\n0\r\n\r\n", 8);
    assert_int_equal(ask_bytes(f, body, strlen(body), 300, NULL), 413);

    n = sprintf(body, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n",
                BODY_MAX);
    memset(body + n, 'x', BODY_MAX + 1);
    body[(size_t)n + BODY_MAX] = 0;
    assert_int_equal(ask_bytes(f, body, strlen(body), 300, NULL), 200);
    /* A client that waits for the 100 is told at once, and nothing hangs on a body that will not
     * come. */
    assert_int_equal(ask(f, "POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                            "Content-Length: 999999999\r\n\r\n"),
                     413);
    assert_int_equal(
        ask(f, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"),
        413);
    free(body);
    stop(f);
}

/* ---- time ---- */

/* Sends text one byte each 50 ms; milliseconds until the server closed. */
static uint64_t drip(const struct fixture *f, const char *head, const char *text, int max_ms)
{
    int fd = dial(f);
    uint64_t start_ms = lh_mono_ms();
    char buf[256];

    put(fd, head);
    for (size_t i = 0; lh_mono_ms() - start_ms < (uint64_t)max_ms; i++) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        if (*text && send(fd, &text[i % strlen(text)], 1, MSG_NOSIGNAL) < 0)
            break;
        if (poll(&p, 1, 50) > 0 && recv(fd, buf, sizeof(buf), 0) <= 0)
            break;
    }
    (void)close(fd);
    return lh_mono_ms() - start_ms;
}

static void dripped_requests_are_cut_at_the_absolute_deadline(void **state)
{
    struct fixture *f = start();
    uint64_t ms;

    (void)state;
    ms = drip(f, "", "", 3000);
    assert_in_range(ms, REQUEST_MS - 50, REQUEST_MS + 500);
    ms = drip(f, "GET /who HTTP/1.1\r\nX: ", "a", 3000);
    assert_in_range(ms, REQUEST_MS - 50, REQUEST_MS + 500);
    ms = drip(f, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n", "a",
              3000);
    assert_in_range(ms, REQUEST_MS - 50, REQUEST_MS + 500);
    /* The second request of a connection: its line within idle_ms, the rest within request_ms. */
    ms = drip(f, "GET /who HTTP/1.1\r\nHost: localhost\r\n\r\nGET /wh", "o", 4000);
    assert_in_range(ms, IDLE_MS - 50, IDLE_MS + 500);
    ms = drip(
        f,
        "GET /who HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /echo HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Length: 5000\r\n\r\n",
        "o", 4000);
    assert_in_range(ms, REQUEST_MS - 50, REQUEST_MS + 500);
    stop(f);
}

static void an_idle_connection_is_closed(void **state)
{
    struct fixture *f = start();
    uint64_t ms;

    (void)state;
    ms = drip(f, "GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n", "", 4000);
    assert_in_range(ms, IDLE_MS - 50, IDLE_MS + 500);
    stop(f);
}

static void an_answer_that_is_not_read_is_cut_and_a_slow_reader_gets_it_all(void **state)
{
    struct fixture *f = start();
    int lazy = dial(f), slow = dial(f);
    static char buf[256 * 1024];
    size_t got = 0;
    ssize_t n;

    (void)state;
    assert_int_equal(setsockopt(lazy, SOL_SOCKET, SO_RCVBUF, &(int){65536}, sizeof(int)), 0);
    put(lazy, "GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n");
    put(slow, "GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for (int i = 0; i < 40 && got <= BIG_BYTES;
         i++) { /* 2.4 s at most; due is 0.9 s + 2.1 s for 8 MiB */
        n = recv(slow, buf, sizeof(buf), MSG_DONTWAIT);
        got += n > 0 ? (size_t)n : 0;
        (void)usleep(60000);
    }
    (void)usleep(1600000);
    assert_true(got > BIG_BYTES);
    for (got = 0;
         (n = recv(lazy, buf, sizeof(buf), 0)) > 0;) /* what the sockets held, then the end */
        got += (size_t)n;
    assert_true(got < BIG_BYTES);
    (void)close(lazy);
    (void)close(slow);
    stop(f);
}

/* ---- waits and streams ---- */

static void two_hundred_waiting_requests_are_all_answered(void **state)
{
    struct fixture *f = start();
    int fds[200];

    (void)state;
    for (int i = 0; i < 200; i++) {
        fds[i] = dial(f);
        put(fds[i], "GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    assert_true(wait_for(&f->n_wait, 200, 3000));
    (void)usleep(1200000); /* longer than the deadlines: a waiting request has none */
    assert_int_equal(uv_async_send(&f->release), 0);
    for (int i = 0; i < 200; i++) {
        char buf[512] = "";

        assert_true(recv(fds[i], buf, sizeof(buf) - 1, 0) > 0);
        assert_int_equal(strncmp(buf, "HTTP/1.1 200", 12), 0);
        (void)close(fds[i]);
    }
    assert_int_equal(atomic_load(&f->n_cancelled), 0);
    stop(f);
}

static void a_client_that_leaves_while_it_waits_is_noticed(void **state)
{
    struct fixture *f = start();
    int fd = dial(f);

    (void)state;
    put(fd, "GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(wait_for(&f->n_wait, 1, 1000));
    (void)close(fd);
    assert_true(wait_for(&f->n_cancelled, 1, 1500));
    /* Also when it left more bytes behind, and when it reset the connection. */
    fd = dial(f);
    put(fd, "GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\nGET /who HTTP/1.1\r\n");
    assert_true(wait_for(&f->n_wait, 2, 1000));
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1},
                                sizeof(struct linger)),
                     0);
    (void)close(fd);
    assert_true(wait_for(&f->n_cancelled, 2, 1500));
    /* The late answers are dropped. */
    assert_int_equal(uv_async_send(&f->release), 0);
    assert_int_equal(ask(f, "GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n"), 200);
    stop(f);
}

static void a_stream_delivers_events_and_its_client_leaving_is_noticed(void **state)
{
    struct fixture *f = start();
    int fd = dial(f);
    bool closed;
    char *text;

    (void)state;
    put(fd, "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    text = get(fd, 300, &closed);
    assert_non_null(strstr(text, "Content-Type: text/event-stream"));
    assert_non_null(strstr(text, "retry: 2000"));
    assert_non_null(strstr(text, "event: tick\ndata: 0123456789"));
    assert_false(closed);
    free(text);
    (void)close(fd);
    assert_true(wait_for(&f->n_closed, 1, 1500));
    stop(f);
}

static void a_stream_reader_that_does_not_read_is_dropped(void **state)
{
    struct fixture *f = start();
    int fd = dial(f);
    bool closed;
    char *text;

    (void)state;
    put(fd, "GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n"); /* 2 MB at once against 256 KiB */
    assert_true(wait_for(&f->n_closed, 1, 1500));
    text = get(fd, 500, &closed);
    assert_true(closed);
    free(text);
    (void)close(fd);
    stop(f);
}

static void stopping_answers_waiting_requests_with_503(void **state)
{
    struct fixture *f = start();
    int fd = dial(f);
    bool closed;
    char *text;

    (void)state;
    put(fd, "GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(wait_for(&f->n_wait, 1, 1000));
    stop(f);
    text = get(fd, 500, &closed);
    assert_int_equal(strncmp(text, "HTTP/1.1 503", 12), 0);
    assert_non_null(strstr(text, "Retry-After: 1"));
    assert_true(closed);
    free(text);
    (void)close(fd);
}

/* ---- who may ---- */

static void tokens_give_roles_and_unknown_ones_are_refused(void **state)
{
    char path[] = "/tmp/longhaul-tokens-XXXXXX";
    char hex[LH_SHA256_HEX], line[200], *text;
    int fd = mkstemp(path);
    struct fixture *f;
    const char *good =
        "GET /who HTTP/1.1\r\nHost: any.example\r\nAuthorization: Bearer s3cret\r\n\r\n";
    const char *none = "GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n";

    (void)state;
    lh_sha256_hex("s3cret", 6, hex);
    (void)snprintf(line, sizeof(line), "# tokens\n\nsubmitter alice %s\n", hex);
    assert_int_equal(write(fd, line, strlen(line)), (ssize_t)strlen(line));
    f = start_with(&(struct http_config){
        .listen = "127.0.0.1:0", .auth = HTTP_AUTH_TOKEN, .token_file = path, .listen_fd = -1});
    assert_true(f->port > 0);
    assert_int_equal(ask_bytes(f, good, strlen(good), 250, &text), 200);
    assert_non_null(strstr(text, "{\"principal\":\"alice\",\"role\":2}"));
    free(text);
    assert_int_equal(ask_bytes(f, none, strlen(none), 250, &text), 200);
    assert_non_null(strstr(text, "{\"principal\":\"\",\"role\":0}"));
    free(text);
    assert_int_equal(
        ask(f, "GET /who HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cre\r\n\r\n"), 401);
    assert_int_equal(
        ask(f, "GET /who HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic s3cret\r\n\r\n"), 401);
    stop(f);
    (void)ftruncate(fd, 0);
    assert_int_equal(pwrite(fd, "root x y\n", 9, 0), 9);
    f = start_with(&(struct http_config){
        .listen = "127.0.0.1:0", .auth = HTTP_AUTH_TOKEN, .token_file = path, .listen_fd = -1});
    assert_int_equal(f->port, LH_EINPUT);
    assert_non_null(strstr(f->err.text, "line 1: role 'root'"));
    free(f);
    (void)close(fd);
    (void)unlink(path);
}

static void local_callers_are_operators_unless_a_browser_page_sent_them(void **state)
{
    struct fixture *f = start();
    const char *request = "GET /who HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n";
    char *text;

    (void)state;
    assert_int_equal(ask_bytes(f, request, strlen(request), 250, &text), 200);
    assert_non_null(strstr(text, "{\"principal\":\"local\",\"role\":4}"));
    free(text);
    assert_int_equal(ask(f, "GET /who HTTP/1.1\r\nHost: evil.example\r\n\r\n"), 403);
    assert_int_equal(
        ask(f, "POST /who HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n"),
        403);
    assert_int_equal(
        ask(f, "POST /who HTTP/1.1\r\nHost: localhost:1\r\nOrigin: http://localhost:1\r\n\r\n"),
        200);
    stop(f);
}

/* ---- listening ---- */

static void bad_addresses_are_refused_with_a_reason(void **state)
{
    struct fixture *f = start();
    struct fixture *g;
    char text[64];

    (void)state;
    (void)snprintf(text, sizeof(text), "127.0.0.1:%d", f->port);
    g = start_with(&(struct http_config){.listen = text, .listen_fd = -1});
    assert_int_equal(g->port, -EADDRINUSE);
    assert_non_null(strstr(g->err.text, text));
    free(g);
    g = start_with(&(struct http_config){.listen = "0.0.0.0:0", .listen_fd = -1});
    assert_int_equal(g->port, LH_EINPUT);
    assert_non_null(strstr(g->err.text, "insecure"));
    free(g);
    g = start_with(&(struct http_config){.listen = "8080", .listen_fd = -1});
    assert_int_equal(g->port, LH_EINPUT);
    free(g);
    g = start_with(&(struct http_config){.listen = "0.0.0.0:0", .insecure = true, .listen_fd = -1});
    assert_true(g->port > 0);
    (void)snprintf(text, sizeof(text), "http://127.0.0.1:%d", g->port);
    assert_string_equal(http_server_address(g->server), text);
    stop(g);
    stop(f);
}

static void a_unix_socket_serves_local_callers_and_a_stale_one_is_replaced(void **state)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct fixture *f;
    bool closed;
    char *text, listen_text[128];
    int fd;

    (void)state;
    (void)snprintf(un.sun_path, sizeof(un.sun_path), "/tmp/longhaul-http-%d.sock", (int)getpid());
    (void)snprintf(listen_text, sizeof(listen_text), "unix:%s", un.sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&un, sizeof(un)), 0);
    (void)close(fd); /* leaves the file */
    f = start_with(&(struct http_config){.listen = listen_text, .listen_fd = -1});
    if (f->port < 0)
        fail_msg("%s", f->err.text);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&un, sizeof(un)), 0);
    put(fd, "GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n");
    text = get(fd, 250, &closed);
    assert_non_null(strstr(text, "{\"principal\":\"local\",\"role\":4}"));
    free(text);
    (void)close(fd);
    stop(f);
    assert_int_not_equal(access(un.sun_path, F_OK), 0);
}

static void connections_beyond_the_limit_wait_their_turn(void **state)
{
    struct fixture *f = start_with(&(struct http_config){.listen = "127.0.0.1:0",
                                                         .connections_max = 4,
                                                         .request_ms = REQUEST_MS,
                                                         .idle_ms = IDLE_MS,
                                                         .listen_fd = -1});
    int fds[4];
    int extra;
    char *text;
    bool closed;

    (void)state;
    for (int i = 0; i < 4; i++) {
        fds[i] = dial(f);
        put(fds[i], "GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    assert_true(wait_for(&f->n_wait, 4, 1000));
    extra = dial(f);
    put(extra, "GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n");
    text = get(extra, 200, &closed);
    assert_string_equal(text, "");
    free(text);
    (void)close(fds[0]);
    text = get(extra, 1500, &closed);
    assert_int_equal(strncmp(text, "HTTP/1.1 200", 12), 0);
    free(text);
    for (int i = 1; i < 4; i++)
        (void)close(fds[i]);
    (void)close(extra);
    stop(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_carry_id_date_type_and_own_headers),
        cmocka_unit_test(head_has_the_header_and_no_body),
        cmocka_unit_test(keep_alive_and_pipelining_answer_in_order),
        cmocka_unit_test(query_parameters_keep_their_order_and_repeats),
        cmocka_unit_test(broken_targets_are_refused),
        cmocka_unit_test(ambiguous_framing_is_refused_and_the_connection_closed),
        cmocka_unit_test(a_nul_in_the_header_is_refused),
        cmocka_unit_test(long_headers_in_pieces_are_accepted_up_to_the_limit),
        cmocka_unit_test(a_body_over_the_limit_is_413_and_the_connection_goes_on),
        cmocka_unit_test(dripped_requests_are_cut_at_the_absolute_deadline),
        cmocka_unit_test(an_idle_connection_is_closed),
        cmocka_unit_test(an_answer_that_is_not_read_is_cut_and_a_slow_reader_gets_it_all),
        cmocka_unit_test(two_hundred_waiting_requests_are_all_answered),
        cmocka_unit_test(a_client_that_leaves_while_it_waits_is_noticed),
        cmocka_unit_test(a_stream_delivers_events_and_its_client_leaving_is_noticed),
        cmocka_unit_test(a_stream_reader_that_does_not_read_is_dropped),
        cmocka_unit_test(stopping_answers_waiting_requests_with_503),
        cmocka_unit_test(tokens_give_roles_and_unknown_ones_are_refused),
        cmocka_unit_test(local_callers_are_operators_unless_a_browser_page_sent_them),
        cmocka_unit_test(bad_addresses_are_refused_with_a_reason),
        cmocka_unit_test(a_unix_socket_serves_local_callers_and_a_stale_one_is_replaced),
        cmocka_unit_test(connections_beyond_the_limit_wait_their_turn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
