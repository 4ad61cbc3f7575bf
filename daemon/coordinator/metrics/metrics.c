/* metrics.c - see metrics.h.
 *
 * Families and their series are short linked lists: a scrape writes them all, and a request touches
 * two series that are near the front of lists of tens.
 */
#include "daemon/coordinator/metrics/metrics.h"
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct series {
    struct series *next;
    char *labels;
    double value; /* of a histogram: the sum */
    uint64_t count;
    uint64_t bucket[METRICS_BUCKETS_MAX];
};
struct metrics_family {
    struct metrics_family *next;
    struct metrics *metrics;
    enum metrics_type type;
    char *name, *help;
    struct series *series, **series_end;
    size_t n_buckets;
    double bound[METRICS_BUCKETS_MAX];
};
struct metrics {
    struct metrics_family *families, **families_end;
    size_t n_series;
    struct metrics_family *dropped;
};

static const double default_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                        0.25,  0.5,    1,     2.5,  5,     10,   60};

struct metrics *metrics_new(void)
{
    struct metrics *m = calloc(1, sizeof(*m));

    if (!m)
        return NULL;
    m->families_end = &m->families;
    m->dropped = metrics_family(m, METRICS_COUNTER, "longhaul_metrics_dropped_total",
                                "Samples dropped because a registry was full.");
    return m;
}

static void series_free(struct series *s)
{
    while (s) {
        struct series *next = s->next;

        free(s->labels);
        free(s);
        s = next;
    }
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    while (m->families) {
        struct metrics_family *f = m->families;

        m->families = f->next;
        series_free(f->series);
        free(f->name);
        free(f->help);
        free(f);
    }
    free(m);
}

struct metrics_family *metrics_family(struct metrics *m, enum metrics_type type, const char *name,
                                      const char *help)
{
    struct metrics_family *f;

    if (!m)
        return NULL;
    for (f = m->families; f; f = f->next)
        if (strcmp(f->name, name) == 0) {
            assert(f->type == type);
            return f;
        }
    f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    f->name = strdup(name);
    f->help = strdup(help);
    if (!f->name || !f->help) {
        free(f->name);
        free(f->help);
        free(f);
        return NULL;
    }
    f->metrics = m;
    f->type = type;
    f->series_end = &f->series;
    metrics_buckets(f, default_bounds, LH_ARRAY_LEN(default_bounds));
    *m->families_end = f;
    m->families_end = &f->next;
    return f;
}

void metrics_buckets(struct metrics_family *f, const double *bounds, size_t n)
{
    if (!f)
        return;
    assert(n <= METRICS_BUCKETS_MAX);
    assert(!f->series);
    memcpy(f->bound, bounds, n * sizeof(bounds[0]));
    f->n_buckets = n;
}

static struct series *find_series(struct metrics_family *f, const char *labels)
{
    struct series *s;

    for (s = f->series; s; s = s->next)
        if (strcmp(s->labels, labels) == 0)
            return s;
    if (f->metrics->n_series >= METRICS_SERIES_MAX && f != f->metrics->dropped) {
        metrics_add(f->metrics->dropped, "", 1);
        return NULL;
    }
    s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->labels = strdup(labels);
    if (!s->labels) {
        free(s);
        return NULL;
    }
    *f->series_end = s;
    f->series_end = &s->next;
    f->metrics->n_series++;
    return s;
}

void metrics_add(struct metrics_family *f, const char *labels, double delta)
{
    struct series *s = f ? find_series(f, labels) : NULL;

    if (s)
        s->value += delta;
}

void metrics_set(struct metrics_family *f, const char *labels, double value)
{
    struct series *s = f ? find_series(f, labels) : NULL;

    if (s)
        s->value = value;
}

void metrics_observe(struct metrics_family *f, const char *labels, double value)
{
    struct series *s = f ? find_series(f, labels) : NULL;

    if (!s)
        return;
    assert(f->type == METRICS_HISTOGRAM);
    s->value += value;
    s->count++;
    for (size_t i = 0; i < f->n_buckets; i++)
        if (value <= f->bound[i]) {
            s->bucket[i]++; /* made cumulative when written */
            break;
        }
}

/* Appends one escaped pair at buf[len]; returns the new length, or len when it does not fit. */
static size_t put_label(char *buf, size_t cap, size_t len, const char *name, const char *value)
{
    size_t at = len;
    size_t name_len = strlen(name);

    if (at + name_len + 5 > cap)
        return len;
    if (at > 0)
        buf[at++] = ',';
    memcpy(buf + at, name, name_len);
    at += name_len;
    buf[at++] = '=';
    buf[at++] = '"';
    for (; *value; value++) {
        bool escape = *value == '"' || *value == '\\' || *value == '\n';

        if (at + 4 > cap) {
            buf[len] = 0;
            return len;
        }
        if (escape)
            buf[at++] = '\\';
        buf[at++] = *value == '\n' ? 'n' : *value;
    }
    if (at + 2 > cap) {
        buf[len] = 0;
        return len;
    }
    buf[at++] = '"';
    buf[at] = 0;
    return at;
}

const char *metrics_labels(char *buf, size_t cap, size_t n, const char *const *names,
                           const char *const *values)
{
    size_t len = 0;

    assert(cap > 0);
    buf[0] = 0;
    for (size_t i = 0; i < n; i++)
        len = put_label(buf, cap, len, names[i], values[i]);
    return buf;
}

static int write_number(struct lh_buf *out, double v)
{
    if (isnan(v))
        return lh_buf_printf(out, " NaN\n");
    if (isinf(v))
        return lh_buf_printf(out, v > 0 ? " +Inf\n" : " -Inf\n");
    if (v == floor(v) && fabs(v) < 1e15)
        return lh_buf_printf(out, " %.0f\n", v);
    return lh_buf_printf(out, " %.9g\n", v);
}

static int write_histogram(const struct metrics_family *f, const struct series *s,
                           struct lh_buf *out)
{
    const char *comma = s->labels[0] ? "," : "";
    uint64_t below = 0;
    int r;

    for (size_t i = 0; i < f->n_buckets; i++) {
        below += s->bucket[i];
        r = lh_buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", f->name, s->labels, comma,
                          f->bound[i], (unsigned long long)below);
        if (r < 0)
            return r;
    }
    r = lh_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", f->name, s->labels, comma,
                      (unsigned long long)s->count);
    if (r < 0)
        return r;
    r = lh_buf_printf(out, s->labels[0] ? "%s_sum{%s}" : "%s_sum%s", f->name, s->labels);
    if (r == 0)
        r = write_number(out, s->value);
    if (r == 0)
        r = lh_buf_printf(out, s->labels[0] ? "%s_count{%s}" : "%s_count%s", f->name, s->labels);
    if (r == 0)
        r = write_number(out, (double)s->count);
    return r;
}

static int write_family(const struct metrics_family *f, struct lh_buf *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    int r = lh_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name,
                          types[f->type]);

    for (const struct series *s = f->series; s && r == 0; s = s->next) {
        if (f->type == METRICS_HISTOGRAM) {
            r = write_histogram(f, s, out);
            continue;
        }
        r = lh_buf_printf(out, s->labels[0] ? "%s{%s}" : "%s%s", f->name, s->labels);
        if (r == 0)
            r = write_number(out, s->value);
    }
    return r;
}

int metrics_write(const struct metrics *m, struct lh_buf *out)
{
    for (const struct metrics_family *f = m->families; f; f = f->next) {
        int r = f->series ? write_family(f, out) : 0;

        if (r < 0)
            return r;
    }
    return 0;
}
