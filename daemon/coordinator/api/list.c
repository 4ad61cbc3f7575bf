/* list.c - GET /v1/jobs: filters, pages and their cursors.
 *
 * Pages go down by job number, so jobs that are submitted meanwhile do not shift them.
 */
#include "daemon/coordinator/api/api.h"
#include "proto/base/str.h"
#include <stdio.h>
#include <string.h>

#define FILTERS_MAX 16

struct list_filter {
    unsigned states; /* bits of enum lh_job_state; 0: all */
    const char *name;
    const char *kind;
    const char *label_key[FILTERS_MAX], *label_value[FILTERS_MAX];
    unsigned n_labels;
};

static unsigned state_bits(const char *name, size_t n)
{
    static const struct {
        const char *name;
        unsigned bits;
    } groups[] = {
        {"pending", 1u << LH_JOB_HELD | 1u << LH_JOB_BLOCKED | 1u << LH_JOB_QUEUED},
        {"active", 1u << LH_JOB_STARTING | 1u << LH_JOB_RUNNING | 1u << LH_JOB_STOPPING},
        {"finished", 1u << LH_JOB_SUCCEEDED | 1u << LH_JOB_FAILED | 1u << LH_JOB_CANCELLED |
                         1u << LH_JOB_TIMED_OUT},
    };
    char copy[32];
    int state;

    if (n >= sizeof(copy))
        return 0;
    memcpy(copy, name, n);
    copy[n] = 0;
    for (size_t i = 0; i < LH_ARRAY_LEN(groups); i++)
        if (strcmp(copy, groups[i].name) == 0)
            return groups[i].bits;
    state = lh_job_state_parse(copy);
    return state < 0 ? 0 : 1u << state;
}

static bool take_states(struct api_call *c, const char *value, struct list_filter *f)
{
    while (*value) {
        size_t n = strcspn(value, ",");
        unsigned bits = state_bits(value, n);

        if (n > 0 && bits == 0) {
            api_bad_param(
                c, "state",
                "takes held, blocked, queued, starting, running, stopping, succeeded, failed, "
                "cancelled, timed_out, and the groups pending, active, finished");
            return false;
        }
        f->states |= bits;
        value += n;
        if (*value == ',')
            value++;
    }
    return true;
}

static bool is_kind(const char *name)
{
    for (int k = LH_KIND_PREPARE; k <= LH_KIND_GENERATE; k++)
        if (strcmp(name, lh_kind_name((enum lh_kind)k)) == 0)
            return true;
    return false;
}

static bool take_filters(struct api_call *c, struct list_filter *f)
{
    const char *name, *value;

    for (unsigned i = 0; http_query_at(c->q, i, &name, &value); i++) {
        if (strcmp(name, "state") == 0) {
            if (!take_states(c, value, f))
                return false;
        } else if (strcmp(name, "name") == 0) {
            f->name = value;
        } else if (strcmp(name, "kind") == 0) {
            if (!is_kind(value)) {
                api_bad_param(c, "kind", "takes prepare, train, eval, export, check, generate");
                return false;
            }
            f->kind = value;
        } else if (lh_starts_with(name, "label.")) {
            if (f->n_labels == FILTERS_MAX) {
                api_bad_param(c, name, "there are too many label filters");
                return false;
            }
            f->label_key[f->n_labels] = name + strlen("label.");
            f->label_value[f->n_labels++] = value;
        }
    }
    return true;
}

static bool has_label(const struct lh_job *job, const char *key, const char *value)
{
    for (unsigned i = 0; i < job->n_labels; i++)
        if (strcmp(job->labels[i].key, key) == 0)
            return strcmp(job->labels[i].value, value) == 0;
    return false;
}

static bool filter_admits(const struct list_filter *f, const struct core_job *j)
{
    if (f->states && !(f->states & 1u << j->state))
        return false;
    if (f->name && strcmp(f->name, j->job->name) != 0)
        return false;
    if (f->kind && strcmp(f->kind, lh_kind_name(j->job->kind)) != 0)
        return false;
    for (unsigned i = 0; i < f->n_labels; i++)
        if (!has_label(j->job, f->label_key[i], f->label_value[i]))
            return false;
    return true;
}

/* A cursor is "c" and the number of the last job that was looked at. */
static bool take_cursor(struct api_call *c, uint64_t *ret_after)
{
    const char *text = http_query(c->q, "cursor");
    int64_t value;

    *ret_after = 0;
    if (!text)
        return true;
    if (text[0] == 'c' && text[1] != '0' && text[1] != '+' && strlen(text) <= 19 &&
        lh_parse_i64(text + 1, 1, INT64_MAX, &value)) {
        *ret_after = (uint64_t)value;
        return true;
    }
    api_bad_param(c, "cursor", "is not one that a list has given");
    return false;
}

static void put_percent(char *buf, size_t cap, const char *text)
{
    size_t n = strlen(buf);

    for (; *text && n + 4 < cap; text++) {
        unsigned char ch = (unsigned char)*text;
        bool plain = (ch >= '0' && ch <= '9') || (ch >= 'A' && ch <= 'Z') ||
                     (ch >= 'a' && ch <= 'z') || strchr("-._~", ch) != NULL;

        n += (size_t)snprintf(buf + n, cap - n, plain ? "%c" : "%%%02X", ch);
    }
}

/* Link: the same request with the next cursor. */
static void set_next_link(struct http_request *q, const char *cursor)
{
    char link[2048] = "</v1/jobs?";
    const char *name, *value;

    for (unsigned i = 0; http_query_at(q, i, &name, &value); i++) {
        if (strcmp(name, "cursor") == 0)
            continue;
        put_percent(link, sizeof(link) - 64, name);
        (void)strcat(link, "=");
        put_percent(link, sizeof(link) - 64, value);
        (void)strcat(link, "&");
        if (strlen(link) > sizeof(link) - 128)
            return; /* a link that lost a filter would lie; next_cursor is there all the same */
    }
    (void)snprintf(link + strlen(link), sizeof(link) - strlen(link), "cursor=%s>; rel=\"next\"",
                   cursor);
    http_set_header(q, "Link", link);
}

/* Jobs that the core has let go have all ended: a list that wants none of those looks at the core
 * alone. */
static const struct core_job *next_job(struct api_call *c, const struct list_filter *f,
                                       uint64_t below, bool *ret_archived)
{
    static const unsigned ended = 1u << LH_JOB_SUCCEEDED | 1u << LH_JOB_FAILED |
                                  1u << LH_JOB_CANCELLED | 1u << LH_JOB_TIMED_OUT;

    *ret_archived = false;
    return f->states && !(f->states & ended) ? core_next_job(app_core(c->app), below, true)
                                             : app_next_job(c->app, below, ret_archived);
}

void api_jobs_list(struct api_call *c)
{
    struct list_filter filter = {0};
    const struct core_job *j;
    uint64_t limit, after;
    char cursor[32] = "";
    unsigned looked = 0;
    bool archived;
    json_t *jobs;

    if (!api_only(c, "application/json") || !take_filters(c, &filter) || !take_cursor(c, &after) ||
        !api_param_u64(c, "limit", 1, API_LIMIT_MAX, API_LIMIT_DEFAULT, &limit))
        return;
    jobs = json_array();
    while ((j = next_job(c, &filter, after, &archived))) {
        if (json_array_size(jobs) == limit || looked >= API_SCAN_MAX) {
            (void)snprintf(cursor, sizeof(cursor), "c%llu", (unsigned long long)after);
            break;
        }
        looked += archived ? API_SCAN_MAX / API_ARCHIVED_MAX : 1;
        after = j->number;
        if (filter_admits(&filter, j))
            (void)json_array_append_new(jobs, api_job_json(c->app, j, !lh_job_is_final(j->state)));
        if (after == 1)
            break;
    }
    if (cursor[0])
        set_next_link(c->q, cursor);
    http_answer_json(c->q, 200,
                     json_pack("{s:o, s:o}", "jobs", jobs, "next_cursor",
                               cursor[0] ? json_string(cursor) : json_null()),
                     NULL);
}
