/* control.h - the shim's control.sock: one JSON object a line in, one out (SHIM-2). */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <poll.h>

#define CONTROL_CLIENTS_MAX 8        /* the node daemon and a person or two */
#define CONTROL_LINE_MAX (64u << 10) /* an orted command line is a few KiB */

struct control;

/* Answers one request: a new object. */
typedef json_t *control_handler_fn(void *arg, const json_t *request);

/* Listens on ./control.sock (mode 0600; a relative name, because a socket's path is limited to 108
 * bytes). */
LH_MUST_CHECK int control_open(control_handler_fn *handler, void *arg, struct control **ret_control,
                               struct lh_err *reterr);
void control_close(struct control *c); /* removes the socket; accepts NULL */

/* Fills fds for poll() and returns how many (at most CONTROL_CLIENTS_MAX + 1). */
nfds_t control_poll_fds(const struct control *c, struct pollfd *fds);
void control_dispatch(struct control *c, const struct pollfd *fds, nfds_t n);
