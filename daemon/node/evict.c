/* evict.c - see evict.h.
 *
 * An entry leaves by rename into cache/tmp, under the lock that fetches take to find and mark what
 * they use, and is removed there: it is whole or absent. tmp is emptied at each start.
 */
#include "daemon/node/evict.h"
#include "daemon/node/held.h"
#include "daemon/node/prepare.h"
#include "proto/base/clock.h"
#include "proto/base/fs.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define EVICT_EVERY_MS 60000
#define ENTRIES_MAX 1000000u
#define DEPTH_MAX 32u       /* of directories in an entry: names in manifests have fewer parts */
#define CLOCK_SLACK_MS 1000 /* times of files come from a coarser clock than ours */
#define PATH_CAP (NODE_PATH_MAX + 320)

struct entry {
    char *path;
    uint64_t bytes, used_ms;
};
struct entries {
    struct entry *at;
    unsigned n, cap;
    uint64_t bytes;
};

static uint64_t modified_ms(const char *path)
{
    struct stat st;

    return lstat(path, &st) < 0
               ? 0
               : (uint64_t)st.st_mtim.tv_sec * 1000 + (uint64_t)st.st_mtim.tv_nsec / 1000000;
}

/* Blocks in use below a directory. */
static uint64_t tree_bytes(const char *path, unsigned depth)
{
    uint64_t bytes = 0;
    struct dirent *d;
    DIR *dir = depth < DEPTH_MAX ? opendir(path) : NULL;

    while (dir && (d = readdir(dir))) {
        char below[PATH_CAP];
        struct stat st;

        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
            snprintf(below, sizeof(below), "%s/%s", path, d->d_name) >= (int)sizeof(below) ||
            lstat(below, &st) < 0)
            continue;
        bytes += S_ISDIR(st.st_mode) ? tree_bytes(below, depth + 1) : (uint64_t)st.st_blocks * 512;
    }
    if (dir)
        (void)closedir(dir);
    return bytes;
}

static void add_entries(struct entries *all, const char *cache, const char *part)
{
    char path[PATH_CAP];
    struct dirent *d;
    DIR *dir;

    (void)snprintf(path, sizeof(path), "%s/%s", cache, part);
    dir = opendir(path);
    while (dir && (d = readdir(dir)) && all->n < ENTRIES_MAX) {
        struct entry e = {0};

        if (d->d_name[0] == '.') /* itself, or one that is being made */
            continue;
        if (all->n == all->cap) {
            unsigned cap = all->cap ? 2 * all->cap : 64;
            struct entry *at = realloc(all->at, cap * sizeof(*at));

            if (!at)
                break;
            all->at = at;
            all->cap = cap;
        }
        if (asprintf(&e.path, "%s/%s", path, d->d_name) < 0)
            break;
        e.used_ms = modified_ms(e.path);
        e.bytes = tree_bytes(e.path, 0);
        all->bytes += e.bytes;
        all->at[all->n++] = e;
    }
    if (dir)
        (void)closedir(dir);
}

static int by_use(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return x->used_ms < y->used_ms ? -1 : x->used_ms > y->used_ms;
}

/* False when it was used meanwhile, or cannot be moved. */
static bool evict(const struct evict_request *q, const struct entry *e)
{
    char tmp[PATH_CAP], random[17];
    bool moved;

    lh_random_hex(8, random);
    (void)snprintf(tmp, sizeof(tmp), "%s/tmp", q->cache);
    (void)!lh_mkdir_p(tmp, NULL);
    (void)snprintf(tmp, sizeof(tmp), "%s/tmp/evicted-%s", q->cache, random);
    if (q->lock)
        (void)pthread_mutex_lock(q->lock);
    moved = modified_ms(e->path) == e->used_ms && rename(e->path, tmp) == 0;
    if (q->lock)
        (void)pthread_mutex_unlock(q->lock);
    if (moved) {
        lh_info("cache.evicted", "path=%s bytes=%" PRIu64, e->path, e->bytes);
        (void)!lh_remove_tree(tmp, NULL);
    }
    return moved;
}

static void bound_cache(const struct evict_request *q)
{
    /* A little more than needed, so that the next entry does not evict again. */
    uint64_t goal = q->max_bytes - q->max_bytes / 10;
    struct entries all = {0};
    bool over;

    add_entries(&all, q->cache, "objects");
    add_entries(&all, q->cache, "files");
    add_entries(&all, q->cache, "shards");
    over = all.bytes > q->max_bytes;
    if (all.n > 0)
        qsort(all.at, all.n, sizeof(*all.at), by_use);
    for (unsigned i = 0; over && i < all.n && all.bytes > goal; i++)
        if (all.at[i].used_ms < q->used_since_ms && evict(q, &all.at[i]))
            all.bytes -= all.at[i].bytes;
    if (over && all.bytes > q->max_bytes)
        lh_warn("cache.full",
                "bytes=%" PRIu64 " max=%" PRIu64 " text=\"what is left is in use; --cache-max\"",
                all.bytes, q->max_bytes);
    for (unsigned i = 0; i < all.n; i++)
        free(all.at[i].path);
    free(all.at);
}

/* kept/JOB/attempt-N: checkpoints that could not be uploaded, for people to rescue. */
static void age_kept(const struct evict_request *q)
{
    struct dirent *job, *attempt;
    DIR *jobs = opendir(q->kept), *attempts;

    while (jobs && (job = readdir(jobs))) {
        char path[PATH_CAP], below[PATH_CAP];

        if (job->d_name[0] == '.' ||
            snprintf(path, sizeof(path), "%s/%s", q->kept, job->d_name) >= (int)sizeof(path))
            continue;
        attempts = opendir(path);
        while (attempts && (attempt = readdir(attempts))) {
            if (attempt->d_name[0] == '.' ||
                snprintf(below, sizeof(below), "%s/%s", path, attempt->d_name) >=
                    (int)sizeof(below) ||
                modified_ms(below) >= q->kept_ms)
                continue;
            lh_warn("kept.removed", "path=%s text=\"kept longer than --kept-days\"", below);
            (void)!lh_remove_tree(below, NULL);
        }
        if (attempts)
            (void)closedir(attempts);
        (void)rmdir(path); /* when it is empty */
    }
    if (jobs)
        (void)closedir(jobs);
}

void evict_run(const struct evict_request *q)
{
    if (q->max_bytes)
        bound_cache(q);
    if (q->kept_ms)
        age_kept(q);
}

/* ---- from the loop ---------------------------------------------------------------------- */

struct evict_work {
    uv_work_t req;
    struct node *node;
    struct evict_request q;
};

static void on_thread(uv_work_t *req)
{
    struct evict_work *w = req->data;

    evict_run(&w->q);
}

static void on_done(uv_work_t *req, int status)
{
    struct evict_work *w = req->data;

    (void)status;
    w->node->evict_ms = lh_mono_ms();
    w->node->evicting = false;
    free(w);
}

/* Whatever a live attempt uses it has used since it was told of. */
static uint64_t oldest_use_ms(const struct node *n)
{
    uint64_t oldest = prepare_oldest_ms(n);
    char path[NODE_PATH_MAX];

    for (const struct held *h = n->held; h; h = h->next)
        if (h->state != HELD_OVER)
            oldest = LH_MIN(oldest, modified_ms(held_path(h, path, "attempt.json")));
    return oldest > CLOCK_SLACK_MS ? oldest - CLOCK_SLACK_MS : 0;
}

static uint64_t default_max(const char *state)
{
    struct statvfs v;

    return statvfs(state, &v) < 0 ? 0 : (uint64_t)v.f_blocks * v.f_frsize / 2;
}

void evict_tick(struct node *n)
{
    uint64_t every = n->config.evict_every_ms ? n->config.evict_every_ms : EVICT_EVERY_MS;
    struct evict_work *w;

    if (n->evicting || lh_mono_ms() - n->evict_ms < every || !(w = calloc(1, sizeof(*w))))
        return;
    w->req.data = w;
    w->node = n;
    w->q.max_bytes =
        n->config.cache_max_bytes ? n->config.cache_max_bytes : default_max(n->config.state);
    w->q.used_since_ms = oldest_use_ms(n);
    w->q.kept_ms = n->config.kept_ms ? lh_now_ms() - n->config.kept_ms : 0;
    w->q.lock = &n->cache_lock;
    (void)node_path(n, w->q.cache, "cache");
    (void)node_path(n, w->q.kept, "kept");
    n->evicting = true;
    (void)uv_queue_work(n->loop, &w->req, on_thread, on_done);
}
