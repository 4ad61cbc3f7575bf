/* prepare.h - from a `prepare` command to a shim that waits; and preflight, which stages and asks
 * the worker. */
#pragma once
#include "daemon/node/held.h"

/* Stages the inputs of an entry in STAGING on a worker thread, then starts its shim. */
void prepare_start(struct held *h);

/* Writes refused.json and ends the entry: reported as prepare_failed. class: "app", "infra",
 * "storage". */
void prepare_refuse(struct held *h, const char *class, const struct lh_err *err);

/* `preflight {job, spec, inputs}`: reported as preflight. A repeated command while one is under way
 * is dropped. */
void preflight_start(struct node *n, const json_t *command);

/* Ends the preflights of dry runs that take longer than their requests wait. */
void preflight_tick(struct node *n);

/* When the oldest staging or preflight under way began, wall clock; UINT64_MAX: there is none. */
uint64_t prepare_oldest_ms(const struct node *n);
