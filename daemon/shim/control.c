/* control.c - see control.h. Only processes of the same user (or root) are answered. */
#include "daemon/shim/control.h"
#include "proto/base/buf.h"
#include "proto/base/json.h"
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_NAME "control.sock"
#define DEPTH_MAX 16

struct client {
    int fd; /* -1: free */
    struct lh_buf in;
};
struct control {
    int fd;
    control_handler_fn *handler;
    void *arg;
    struct client clients[CONTROL_CLIENTS_MAX];
};

int control_open(control_handler_fn *handler, void *arg, struct control **ret_control,
                 struct lh_err *reterr)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = SOCKET_NAME};
    struct control *c = calloc(1, sizeof(*c));
    mode_t old;
    int rc = 0;

    if (!c)
        return lh_err_set(reterr, -ENOMEM, "control socket");
    c->handler = handler;
    c->arg = arg;
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
        c->clients[i].fd = -1;
    (void)unlink(SOCKET_NAME);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    old = umask(0177);
    if (c->fd < 0 || bind(c->fd, (const struct sockaddr *)&at, sizeof(at)) < 0 ||
        listen(c->fd, 8) < 0)
        rc = lh_err_set(reterr, -errno, "control socket");
    (void)umask(old);
    if (rc < 0) {
        control_close(c);
        return rc;
    }
    *ret_control = c;
    return 0;
}

static void client_close(struct client *cl)
{
    (void)close(cl->fd);
    cl->fd = -1;
    lh_buf_release(&cl->in);
}

void control_close(struct control *c)
{
    if (!c)
        return;
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i].fd >= 0)
            client_close(&c->clients[i]);
    if (c->fd >= 0)
        (void)close(c->fd);
    (void)unlink(SOCKET_NAME);
    free(c);
}

static bool same_user(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static void accept_client(struct control *c)
{
    int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX && same_user(fd); i++)
        if (c->clients[i].fd < 0) {
            c->clients[i].fd = fd;
            lh_buf_init(&c->clients[i].in, CONTROL_LINE_MAX);
            return;
        }
    (void)close(fd);
}

/* Answers are small: what does not fit into the socket's buffer belongs to a client that does not
 * read. */
static bool answer(struct control *c, struct client *cl, const char *line, size_t len)
{
    LH_CLEANUP(lh_json_decrefp) json_t *request = NULL, *reply = NULL;
    struct lh_err err;
    char *text = NULL;
    size_t n;
    bool sent;

    if (lh_json_parse(line, len, DEPTH_MAX, &request, &err) < 0)
        reply = json_pack("{s:i, s:b, s:s}", "v", 1, "ok", 0, "error", err.text);
    else if (lh_json_i64(request, "v", 0) != 1)
        reply = json_pack("{s:i, s:b, s:s}", "v", 1, "ok", 0, "error",
                          "only version 1 of this protocol is spoken");
    else
        reply = c->handler(c->arg, request);
    text = reply ? lh_json_text(reply, 0) : NULL;
    if (!text)
        return false;
    n = strlen(text);
    text[n++] = '\n';
    sent = send(cl->fd, text, n, MSG_NOSIGNAL) == (ssize_t)n;
    free(text);
    return sent;
}

static void serve(struct control *c, struct client *cl)
{
    char chunk[4096], *end;
    ssize_t n = read(cl->fd, chunk, sizeof(chunk));

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0 || lh_buf_append(&cl->in, chunk, (size_t)n) < 0) {
        client_close(cl);
        return;
    }
    while (cl->in.len > 0 && (end = memchr(cl->in.data, '\n', cl->in.len))) {
        size_t len = (size_t)(end - cl->in.data);

        if (!answer(c, cl, cl->in.data, len)) {
            client_close(cl);
            return;
        }
        lh_buf_consume(&cl->in, len + 1);
    }
}

nfds_t control_poll_fds(const struct control *c, struct pollfd *fds)
{
    nfds_t n = 0;

    fds[n++] = (struct pollfd){c->fd, POLLIN, 0};
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i].fd >= 0)
            fds[n++] = (struct pollfd){c->clients[i].fd, POLLIN, 0};
    return n;
}

void control_dispatch(struct control *c, const struct pollfd *fds, nfds_t n)
{
    for (nfds_t k = 1; k < n; k++)
        for (unsigned i = 0; fds[k].revents && i < CONTROL_CLIENTS_MAX; i++)
            if (c->clients[i].fd == fds[k].fd) {
                serve(c, &c->clients[i]);
                break;
            }
    if (n > 0 && fds[0].revents)
        accept_client(c);
}
