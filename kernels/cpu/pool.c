/* pool.c - threads that sleep on a condition variable between pieces of work; see pool.h.
 *
 * A piece of work is published under the mutex by a new round number. Each side spins for some ten
 * microseconds before it sleeps: ops follow each other closely in a training step, and waking a
 * thread costs more than that.
 */
#include "kernels/cpu/pool.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#define POOL_SPINS 2000

struct pool_thread {
    struct pool *pool;
    pthread_t id;
    int index;
};

struct pool {
    int n_threads; /* thread 0, the caller's, included */
    int n_started;
    struct pool_thread *thread; /* index 0 is unused */
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    atomic_uint round;  /* grows with each piece of work */
    atomic_int running; /* threads that have not finished the round */
    bool stop;          /* read after a new round */
    bool rests;         /* work is not done (pool_rest) */
    pool_fn *fn;
    void *arg;
    int64_t n_items;
};

static void pool_pause(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static void pool_share(struct pool *p, int thread)
{
    for (int64_t item = thread; item < p->n_items; item += p->n_threads)
        p->fn(p->arg, item, thread);
}

static void pool_wait_round(struct pool *p, unsigned seen)
{
    for (int i = 0; i < POOL_SPINS; i++) {
        if (atomic_load_explicit(&p->round, memory_order_acquire) != seen)
            return;
        pool_pause();
    }
    pthread_mutex_lock(&p->mutex);
    while (atomic_load(&p->round) == seen)
        pthread_cond_wait(&p->work, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
}

static void *pool_main(void *arg)
{
    struct pool_thread *self = arg;
    struct pool *p = self->pool;
    unsigned seen = 0;

    for (;;) {
        pool_wait_round(p, seen);
        seen++;
        if (p->stop)
            return NULL;
        pool_share(p, self->index);
        if (atomic_fetch_sub_explicit(&p->running, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&p->mutex);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->mutex);
        }
    }
}

/* Hands the round to the threads. The caller has filled fn, arg, n_items or stop. */
static void pool_publish(struct pool *p)
{
    atomic_store(&p->running, p->n_started);
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->round, 1);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->mutex);
}

int pool_new(int threads, struct pool **ret_pool, struct lh_err *reterr)
{
    struct pool *p;
    sigset_t all, old;
    int rc = 0;

    if (threads < 1 || threads > POOL_THREADS_MAX)
        return lh_err_set(reterr, LH_EINTERNAL, "%d threads for a stream; 1 to %d are possible",
                          threads, POOL_THREADS_MAX);
    p = calloc(1, sizeof(*p));
    if (p)
        p->thread = calloc((size_t)threads, sizeof(*p->thread));
    if (!p || !p->thread) {
        free(p);
        return lh_err_set(reterr, -ENOMEM, "a pool of %d threads", threads);
    }
    p->n_threads = threads;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    /* Signals belong to the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 1; i < threads && rc == 0; i++) {
        p->thread[i].pool = p;
        p->thread[i].index = i;
        rc = pthread_create(&p->thread[i].id, NULL, pool_main, &p->thread[i]);
        p->n_started += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        rc = lh_err_set(reterr, -rc, "start thread %d of %d", p->n_started + 1, threads);
        pool_free(p);
        return rc;
    }
    *ret_pool = p;
    return 0;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    p->stop = true;
    pool_publish(p);
    for (int i = 1; i <= p->n_started; i++)
        pthread_join(p->thread[i].id, NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->mutex);
    free(p->thread);
    free(p);
}

void pool_rest(struct pool *p)
{
    p->rests = true;
}

int pool_threads(const struct pool *p)
{
    return p->n_threads;
}

void pool_run(struct pool *p, int64_t n_items, pool_fn *fn, void *arg)
{
    if (p->rests)
        return;
    p->fn = fn;
    p->arg = arg;
    p->n_items = n_items;
    if (p->n_started == 0 || n_items <= 1) {
        for (int64_t item = 0; item < n_items; item++)
            fn(arg, item, 0);
        return;
    }
    pool_publish(p);
    pool_share(p, 0);
    for (int i = 0; i < POOL_SPINS; i++) {
        if (atomic_load_explicit(&p->running, memory_order_acquire) == 0)
            return;
        pool_pause();
    }
    pthread_mutex_lock(&p->mutex);
    while (atomic_load(&p->running) != 0)
        pthread_cond_wait(&p->done, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
}
