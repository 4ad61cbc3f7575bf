/* find.c - jobs by id, number and name: two chained hashes, and the array by number. */
#include "daemon/coordinator/core/table.h"
#include "proto/base/str.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

static uint64_t hash(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */

    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h ^ (h >> 32);
}

static void hash_insert(struct core *c, struct entry *e)
{
    struct entry **id = &c->by_id[hash(e->pub.id) & (c->n_buckets - 1)];

    e->hash_next = *id;
    *id = e;
    if (e->pub.job->name[0]) {
        struct entry **name = &c->by_name[hash(e->pub.job->name) & (c->n_buckets - 1)];

        while (*name && (*name)->pub.number > e->pub.number) /* the newest of a name comes first */
            name = &(*name)->name_next;
        e->name_next = *name;
        *name = e;
    }
}

void hash_remove(struct core *c, struct entry *e)
{
    struct entry **at = &c->by_id[hash(e->pub.id) & (c->n_buckets - 1)];

    while (*at != e)
        at = &(*at)->hash_next;
    *at = e->hash_next;
    if (!e->pub.job->name[0])
        return;
    at = &c->by_name[hash(e->pub.job->name) & (c->n_buckets - 1)];
    while (*at != e)
        at = &(*at)->name_next;
    *at = e->name_next;
}

static void grow_buckets(struct core *c)
{
    free(c->by_id);
    free(c->by_name);
    c->n_buckets *= 4;
    c->by_id = core_alloc(c->n_buckets * sizeof(*c->by_id));
    c->by_name = core_alloc(c->n_buckets * sizeof(*c->by_name));
    for (unsigned i = 0; i < c->n_jobs;
         i++) /* in order of number: the newest of a name comes first */
        hash_insert(c, c->jobs[i]);
}

/* The first job whose number is at least `number`. */
static unsigned lower_bound(const struct core *c, uint64_t number)
{
    unsigned lo = 0, hi = c->n_jobs;

    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;

        if (c->jobs[mid]->pub.number < number)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void entry_insert(struct core *c, struct entry *e)
{
    unsigned at = lower_bound(c, e->pub.number);

    assert(at == c->n_jobs || c->jobs[at]->pub.number != e->pub.number);
    if (c->n_jobs == c->cap_jobs) {
        c->cap_jobs = c->cap_jobs ? 2 * c->cap_jobs : 256;
        c->jobs = core_grow(c->jobs, c->cap_jobs, sizeof(*c->jobs));
    }
    memmove(&c->jobs[at + 1], &c->jobs[at],
            (c->n_jobs - at) * sizeof(*c->jobs)); /* a recalled one */
    c->jobs[at] = e;
    c->n_jobs++;
    c->last_number = LH_MAX(c->last_number, e->pub.number);
    c->count[e->pub.state]++;
    if (c->n_jobs > 2 * c->n_buckets)
        grow_buckets(c);
    else
        hash_insert(c, e);
}

struct entry *entry_of(const struct core_job *j)
{
    return (struct entry *)(uintptr_t)j; /* pub is the first member */
}

struct entry *find_id(const struct core *c, const char *id)
{
    for (struct entry *e = c->by_id[hash(id) & (c->n_buckets - 1)]; e; e = e->hash_next)
        if (strcmp(e->pub.id, id) == 0)
            return e;
    return NULL;
}

struct entry *find_number(const struct core *c, uint64_t number)
{
    unsigned i = lower_bound(c, number);

    return i < c->n_jobs && c->jobs[i]->pub.number == number ? c->jobs[i] : NULL;
}

struct entry *find_any(const struct core *c, const char *what)
{
    struct entry *e = find_id(c, what);
    int64_t number;

    if (e)
        return e;
    if (lh_parse_i64(what, 1, INT64_MAX, &number) && (e = find_number(c, (uint64_t)number)))
        return e;
    for (e = what[0] ? c->by_name[hash(what) & (c->n_buckets - 1)] : NULL; e; e = e->name_next)
        if (strcmp(e->pub.job->name, what) == 0)
            return e;
    return NULL;
}

const struct core_job *core_find_job(const struct core *c, const char *id_or_number_or_name)
{
    struct entry *e = find_any(c, id_or_number_or_name);

    return e ? &e->pub : NULL;
}

const struct core_job *core_next_job(const struct core *c, uint64_t after_number, bool descending)
{
    unsigned i;

    if (descending) {
        i = after_number ? lower_bound(c, after_number) : c->n_jobs;
        return i > 0 ? &c->jobs[i - 1]->pub : NULL;
    }
    i = lower_bound(c, after_number + 1);
    return i < c->n_jobs ? &c->jobs[i]->pub : NULL;
}
