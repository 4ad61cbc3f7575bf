/* ranks.h - what the shim reads about the ranks of its node: records, journals, beats. Polled a few
 * times a second. */
#pragma once
#include "daemon/shim/attempt.h"
#include "daemon/shim/outcome.h"
#include <jansson.h>

struct ranks;

LH_MUST_CHECK int ranks_new(const struct attempt *a, struct ranks **ret_ranks,
                            struct lh_err *reterr);
void ranks_free(struct ranks *r); /* accepts NULL */

/* Reads what is new. now_ms is monotonic. */
void ranks_poll(struct ranks *r, uint64_t now_ms);

const struct rank_record *ranks_records(const struct ranks *r, unsigned *ret_n);
unsigned ranks_reported(const struct ranks *r); /* how many have written their `start` event */

/* Monotonic time of the last sign of life of any rank (0: none yet), and the median step in ms (0:
 * no steps yet). */
uint64_t ranks_alive_ms(const struct ranks *r);
uint64_t ranks_median_step_ms(const struct ranks *r);

/* The last `error` and `done` events of any rank of this node, borrowed, or NULL. */
const json_t *ranks_error(const struct ranks *r);
const json_t *ranks_done(const struct ranks *r);

/* Sends sig to the ranks that still run. */
void ranks_signal(const struct ranks *r, int sig);

/* TERM, once to each rank: called again while a stop lasts, for ranks that start late. */
void ranks_terminate(struct ranks *r);

/* [{rank, node, exit, signal, ms}] for exit.json. */
json_t *ranks_json(const struct ranks *r, const char *node);
