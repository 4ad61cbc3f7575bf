/* reports.h - what the coordinator is still to be told: repeated until it says that it is done with
 * each (NODE-6).
 *
 * Nothing here is on disk: each report is derived from files of the attempt, and is made again
 * after a restart.
 */
#pragma once
#include "daemon/node/node.h"

struct reports *reports_new(struct node *n); /* NULL when memory is exhausted */
void reports_free(struct reports *r);

/* Queues a report (stolen; {type, job, attempt, ...}); id names it, the same id replaces what still
 * waits. */
void reports_put(struct reports *r, const char *id, json_t *report);

/* The same for an attempt: adds job, attempt and type; id is made of them and of `which` ("" or a
 * step, a node, ...). */
void reports_attempt(struct reports *r, const struct held *h, const char *type, const char *which,
                     json_t *data);

/* Sends what waits, now that the coordinator knows us. */
void reports_flush(struct reports *r);

/* Whether the report with that id still waits. */
bool reports_waits(const struct reports *r, const char *id);
