/* api_app.h - app.h for tests of the API: the real core and the real HTTP server, and no store.
 *
 * Commits are instant; events stay in memory. POST /v1/node/register and /v1/node/reports take what
 * nodes send and give it to the core, commands to nodes are dropped: so a test plays the node over
 * HTTP. A token of each role is known, its secret is the role's name; without a token a caller is
 * the operator.
 */
#pragma once
#include "daemon/coordinator/app.h"
#include "proto/base/err.h"

struct app;

/* Starts a server on a free loopback port in a thread of its own; job files are below dir. Aborts
 * on failure. */
struct app *api_app_start(const char *dir);
int api_app_port(const struct app *a);
void api_app_stop(struct app *a); /* joins the thread and frees all */
