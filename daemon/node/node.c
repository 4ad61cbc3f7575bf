/* node.c - paths below STATE, for all parts of longhaul-node; see node.h. */
#include "daemon/node/node.h"
#include <stdarg.h>
#include <stdio.h>

const char *node_path(const struct node *n, char *buf, const char *fmt, ...)
{
    size_t used = (size_t)snprintf(buf, NODE_PATH_MAX, "%s/", n->config.state);
    va_list ap;

    va_start(ap, fmt);
    if (used < NODE_PATH_MAX)
        (void)vsnprintf(buf + used, NODE_PATH_MAX - used, fmt, ap);
    va_end(ap);
    return buf;
}
