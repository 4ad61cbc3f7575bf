/* plan.c - the memory plan; see plan.h. Pure bookkeeping, but for plan_machine_*. */
#include "worker/plan/plan.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const part_names[PLAN_PARTS] = {
    [PLAN_WEIGHTS] = "weights",
    [PLAN_ADAPTER] = "adapter",
    [PLAN_GRADIENTS] = "gradients",
    [PLAN_OPTIMIZER] = "optimizer",
    [PLAN_CACHE] = "cache",
    [PLAN_ACTIVATIONS] = "activations",
    [PLAN_WORKSPACE] = "workspace",
    [PLAN_SCRATCH] = "scratch",
    [PLAN_COMMUNICATION] = "communication",
    [PLAN_HOST] = "host",
};

void plan_release(struct plan *p)
{
    free(p->items);
    *p = (struct plan){0};
}

static void push(struct plan *p, void *slot, uint64_t offset)
{
    if (p->n == p->cap) {
        unsigned cap = p->cap ? p->cap * 2 : 256;
        struct plan_item *items =
            cap <= PLAN_ITEMS_MAX ? realloc(p->items, cap * sizeof(*items)) : NULL;

        if (!items) {
            p->failed = cap <= PLAN_ITEMS_MAX ? -ENOMEM : -E2BIG;
            return;
        }
        p->items = items;
        p->cap = cap;
    }
    p->items[p->n++] = (struct plan_item){slot, offset};
}

void plan_add(struct plan *p, enum plan_part part, void *slot, uint64_t bytes)
{
    assert(part < PLAN_SCRATCH);
    if (p->failed)
        return;
    if (bytes > (UINT64_MAX >> 2) - p->at) {
        p->failed = -E2BIG;
        return;
    }
    push(p, bytes > 0 ? slot : NULL, p->at);
    if (bytes == 0 && slot)
        memset(slot, 0, sizeof(void *));
    p->at += (bytes + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;
    if (p->at > p->peak) {
        p->bytes[part] += p->at - p->peak;
        p->peak = p->at;
    }
}

void plan_add_alias(struct plan *p, void *slot)
{
    if (p->failed)
        return;
    assert(p->n > 0);
    push(p, slot, p->items[p->n - 1].offset);
}

void plan_add_outside(struct plan *p, enum plan_part part, uint64_t bytes)
{
    assert(part >= PLAN_SCRATCH);
    assert(part < PLAN_PARTS);
    p->bytes[part] += bytes;
}

uint64_t plan_mark(const struct plan *p)
{
    return p->at;
}

void plan_rewind(struct plan *p, uint64_t mark)
{
    assert(p->failed || mark <= p->at);
    p->at = mark;
}

uint64_t plan_total(const struct plan *p)
{
    uint64_t bytes = p->peak;

    for (int i = PLAN_SCRATCH; i < PLAN_PARTS; i++)
        bytes += p->bytes[i];
    return bytes;
}

int plan_check(const struct plan *p, uint64_t limit_bytes, const char *pointer,
               struct lh_err *reterr)
{
    char table[400] = "", need[32], have[32];
    size_t used = 0;

    if (p->failed)
        return lh_err_set(reterr, p->failed, "the memory plan");
    if (limit_bytes == 0 || plan_total(p) <= limit_bytes)
        return 0;
    for (int i = 0; i < PLAN_PARTS; i++) {
        char bytes[32];
        int n = snprintf(table + used, sizeof(table) - used, "%s%s %s", i ? ", " : "",
                         part_names[i], lh_bytes_text(p->bytes[i], bytes));

        assert(n > 0);
        used += (size_t)n;
        assert(used < sizeof(table));
    }
    return lh_err_at(reterr, LH_ENOFIT, pointer,
                     "the plan needs %s a rank (%s) and %s may be used; take a shorter "
                     "context.length, fewer rows a "
                     "micro-batch, precision bf16 or more memory",
                     lh_bytes_text(plan_total(p), need), table, lh_bytes_text(limit_bytes, have));
}

void plan_bind(const struct plan *p, void *base)
{
    assert(!p->failed);
    for (unsigned i = 0; i < p->n; i++) {
        void *address = (char *)base + p->items[i].offset;

        if (p->items[i].slot)
            memcpy(p->items[i].slot, &address, sizeof(address));
    }
}

json_t *plan_json(const struct plan *p)
{
    json_t *parts = json_object();
    json_t *plan =
        json_pack("{s:I, s:o}", "bytes_per_rank", (json_int_t)plan_total(p), "parts", parts);

    if (!plan)
        return NULL;
    for (int i = 0; i < PLAN_PARTS; i++)
        (void)json_object_set_new(parts, part_names[i], json_integer((json_int_t)p->bytes[i]));
    if (p->flops_step > 0)
        (void)json_object_set_new(plan, "flops_per_step", json_real(p->flops_step));
    return plan;
}

/* The number in a file such as /sys/fs/cgroup/memory.max; UINT64_MAX when there is none ("max", no
 * file). */
static uint64_t number_in(const char *path)
{
    char *text = NULL;
    size_t len = 0;
    int64_t value;

    if (lh_read_file(path, 4096, &text, &len, NULL) < 0)
        return UINT64_MAX;
    text[strcspn(text, "\n")] = '\0';
    if (!lh_parse_i64(text, 0, INT64_MAX, &value))
        value = -1;
    free(text);
    return value < 0 ? UINT64_MAX : (uint64_t)value;
}

/* A line such as "MemTotal:  123 kB" of a file, in bytes; otherwise when there is none. */
static uint64_t line_bytes(const char *path, const char *name, uint64_t otherwise)
{
    char *text = NULL;
    size_t len = 0;

    if (lh_read_file(path, 65536, &text, &len, NULL) == 0) {
        const char *line = strstr(text, name);
        unsigned long long kib = 0;

        if (line && sscanf(line + strlen(name), "%llu kB", &kib) == 1)
            otherwise = kib * 1024;
    }
    free(text);
    return otherwise;
}

uint64_t plan_process_peak(void)
{
    return line_bytes("/proc/self/status", "VmHWM:", 0);
}

/* A line of /proc/meminfo, or the cgroup's limit when that is less. */
static uint64_t machine_bytes(const char *name)
{
    return LH_MIN(line_bytes("/proc/meminfo", name, UINT64_MAX),
                  number_in("/sys/fs/cgroup/memory.max"));
}

uint64_t plan_machine_total(void)
{
    return machine_bytes("MemTotal:");
}

uint64_t plan_machine_free(void)
{
    return machine_bytes("MemAvailable:");
}

int plan_machine_ranks(int local_ranks)
{
    const char *slots = getenv("LONGHAUL_NODE_SLOTS");
    int64_t n;

    assert(local_ranks > 0);
    return slots && lh_parse_i64(slots, 1, INT_MAX, &n) ? LH_MAX(local_ranks, (int)n) : local_ranks;
}
