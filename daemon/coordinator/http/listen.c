/* listen.c - the listening socket: HOST:PORT, unix:/PATH, or one that systemd handed over.
 *
 * Plain HTTP beyond loopback is refused here unless it was asked for, before anything is bound.
 */
#include "daemon/coordinator/http/internal.h"
#include "proto/base/str.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_BACKLOG 1024

bool sockaddr_is_local(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)sa)->sin_addr.s_addr) >> 24 == 127;
    if (sa->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;

        return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
    }
    return sa->sa_family == AF_UNIX;
}

static bool is_wildcard(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)sa)->sin_addr.s_addr == INADDR_ANY;
    if (sa->sa_family == AF_INET6)
        return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
    return false;
}

static int refuse_plain(const struct http_server *s, const struct sockaddr *sa,
                        struct lh_err *reterr)
{
    if (sockaddr_is_local(sa) || s->tls_cert || s->config.insecure)
        return 0;
    return lh_err_set(
        reterr, LH_EINPUT,
        "listening on '%s' would send tokens and jobs in the clear: give --tls-cert and --tls-key, "
        "listen on 127.0.0.1, or allow it with --insecure on a network you trust",
        s->config.listen ? s->config.listen : "the passed socket");
}

/* Fills port and address from what the socket is bound to. */
static int note_address(struct http_server *s, int fd, struct lh_err *reterr)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    const struct sockaddr *sa = (const struct sockaddr *)&ss;
    char host[INET6_ADDRSTRLEN] = "";
    const char *scheme = s->tls_cert ? "https" : "http";

    if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
        return lh_err_set(reterr, -errno, "address of the listening socket");
    if (sa->sa_family == AF_UNIX) {
        (void)snprintf(s->address, sizeof(s->address), "unix:%s",
                       ((const struct sockaddr_un *)(const void *)sa)->sun_path);
        return 0;
    }
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;

        s->port = ntohs(in->sin_port);
        (void)inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        (void)snprintf(s->address, sizeof(s->address), "%s://%s:%d", scheme,
                       is_wildcard(sa) ? "127.0.0.1" : host, s->port);
        return 0;
    }
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)sa;

        s->port = ntohs(in->sin6_port);
        (void)inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof(host));
        (void)snprintf(s->address, sizeof(s->address), "%s://[%s]:%d", scheme,
                       is_wildcard(sa) ? "::1" : host, s->port);
        return 0;
    }
    return lh_err_set(reterr, LH_EINPUT, "the passed socket is neither TCP nor a unix socket");
}

static int bind_and_listen(int fd, const struct sockaddr *sa, socklen_t len,
                           const char *listen_text, struct lh_err *reterr)
{
    int one = 1;

    if (fd < 0)
        return lh_err_set(reterr, -errno, "socket for '%s'", listen_text);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, sa, len) < 0)
        return lh_err_set(reterr, -errno, "listen on '%s'", listen_text);
    if (listen(fd, LISTEN_BACKLOG) < 0)
        return lh_err_set(reterr, -errno, "listen on '%s'", listen_text);
    return 0;
}

/* A socket file that nobody answers at is what a killed server left. */
static int remove_stale(const char *path, const struct sockaddr_un *un, struct lh_err *reterr)
{
    struct stat st;
    int fd, r;

    if (lstat(path, &st) < 0)
        return 0;
    if (!S_ISSOCK(st.st_mode))
        return lh_err_set(reterr, -EADDRINUSE, "'%s' is there and is no socket", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return lh_err_set(reterr, -errno, "socket for '%s'", path);
    r = connect(fd, (const struct sockaddr *)un, sizeof(*un));
    (void)close(fd);
    if (r == 0)
        return lh_err_set(reterr, -EADDRINUSE, "listen on 'unix:%s'", path);
    (void)unlink(path);
    return 0;
}

static int open_unix(struct http_server *s, const char *path, int *ret_fd, struct lh_err *reterr)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    mode_t old_mask;
    int r;

    if (path[0] != '/' || strlen(path) >= sizeof(un.sun_path))
        return lh_err_set(reterr, LH_EINPUT,
                          "'unix:%s' needs an absolute path of at most %zu bytes", path,
                          sizeof(un.sun_path) - 1);
    memcpy(un.sun_path, path, strlen(path) + 1);
    r = remove_stale(path, &un, reterr);
    if (r < 0)
        return r;
    *ret_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* Whoever can open it may act as operator when auth is local: the owner and the group. */
    old_mask = umask(0117);
    r = bind_and_listen(*ret_fd, (const struct sockaddr *)&un, sizeof(un), s->config.listen,
                        reterr);
    (void)umask(old_mask);
    if (r == 0)
        s->unix_path = strdup(path);
    return r;
}

static int open_tcp(struct http_server *s, const char *text, int *ret_fd, struct lh_err *reterr)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    const char *colon = strrchr(text, ':');
    struct addrinfo *found = NULL;
    size_t n = colon ? (size_t)(colon - text) : 0;
    int64_t port;
    int r;

    if (!colon || n == 0 || n >= sizeof(s->host) || !lh_parse_i64(colon + 1, 0, 65535, &port))
        return lh_err_set(reterr, LH_EINPUT, "listen '%s' is neither HOST:PORT nor unix:/PATH",
                          text);
    if (text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    memcpy(s->host, text, n);
    s->host[n] = 0;
    r = getaddrinfo(s->host, colon + 1, &hints, &found);
    if (r != 0)
        return lh_err_set(reterr, LH_EINPUT, "listen on '%s': %s", s->config.listen,
                          gai_strerror(r));
    r = refuse_plain(s, found->ai_addr, reterr);
    if (r == 0) {
        *ret_fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        r = bind_and_listen(*ret_fd, found->ai_addr, found->ai_addrlen, s->config.listen, reterr);
    }
    freeaddrinfo(found);
    return r;
}

static int take_passed(struct http_server *s, int *ret_fd, struct lh_err *reterr)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    int flags = fcntl(s->config.listen_fd, F_GETFL);

    if (flags < 0 || getsockname(s->config.listen_fd, (struct sockaddr *)&ss, &len) < 0)
        return lh_err_set(reterr, -errno, "the passed listening socket");
    (void)fcntl(s->config.listen_fd, F_SETFL, flags | O_NONBLOCK);
    (void)fcntl(s->config.listen_fd, F_SETFD, FD_CLOEXEC);
    *ret_fd = s->config.listen_fd;
    return refuse_plain(s, (const struct sockaddr *)&ss, reterr);
}

int listen_open(struct http_server *s, int *ret_fd, struct lh_err *reterr)
{
    const char *text = s->config.listen;
    int fd = -1;
    int r;

    if (s->config.listen_fd > 2)
        r = take_passed(s, &fd, reterr);
    else if (text && lh_starts_with(text, "unix:"))
        r = open_unix(s, text + 5, &fd, reterr);
    else if (text)
        r = open_tcp(s, text, &fd, reterr);
    else
        r = lh_err_set(reterr, LH_EINPUT, "no address to listen on; give HOST:PORT or unix:/PATH");
    if (r == 0)
        r = note_address(s, fd, reterr);
    if (r < 0) {
        if (fd >= 0 && fd != s->config.listen_fd)
            (void)close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}
