/* spawn.h - runs a program to its end and keeps what it wrote. Blocking: for worker threads. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/buf.h"
#include "proto/base/err.h"
#include <stdbool.h>

struct spawn_request {
    char *const *argv;
    const char *const
        *set_env; /* "NAME=value", ..., NULL: added to our own, less its secrets; or NULL */
    unsigned timeout_ms;
    const volatile bool *cancel; /* becomes true: the program is killed; or NULL */
};
struct spawn_result {
    int exit; /* -1: killed */
    int signal;
    struct lh_buf out; /* standard output; release it */
    char err[2000];    /* the end of standard error */
};

/* 0 when the program ran and ended, whatever its exit code; -ETIMEDOUT, -ECANCELED, or why it could
 * not run. */
LH_MUST_CHECK int spawn_run(const struct spawn_request *q, struct spawn_result *ret_result,
                            struct lh_err *reterr);

/* Our environment less what is nobody else's business (credentials, tokens, the notify socket),
 * with set_env put over it. NULL: memory. */
char **spawn_environment(const char *const *set_env);
void spawn_environment_free(char **env);
