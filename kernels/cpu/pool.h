/* pool.h - the threads of a CPU stream, and the one way they share work.
 *
 * Work is a number of items. Thread i of n does items i, i+n, i+2n, ...: no queue, nothing to race
 * for. Items must not depend on each other nor on n; then results have the same bits for any number
 * of threads. The thread that calls pool_run is thread 0 and works too.
 */
#pragma once
#include "proto/base/err.h"
#include <stdint.h>

#define POOL_THREADS_MAX 1024 /* more than the cores of any node today; a guard against rubbish */

struct pool;
typedef void pool_fn(void *arg, int64_t item, int thread);

/* threads: 1..POOL_THREADS_MAX. Errors: LH_EINTERNAL for another number, -errno. */
LH_MUST_CHECK int pool_new(int threads, struct pool **ret_pool, struct lh_err *reterr);
void pool_free(struct pool *p);
int pool_threads(const struct pool *p);

/* From here on pool_run returns at once. */
void pool_rest(struct pool *p);

/* Calls fn(arg, item, thread) once for every item in [0, n_items); returns when all are done. One
 * caller at a time, and not from within fn. */
void pool_run(struct pool *p, int64_t n_items, pool_fn *fn, void *arg);
