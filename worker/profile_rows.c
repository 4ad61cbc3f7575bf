/* profile_rows.c - sums by op and by shape of product, and the table of them for people and for
 * programs.
 *
 * Rates are per busy second: of a processor's cores, so that one thread and many, a quiet machine
 * and a shared one give the same figures; the measured rates are taken the same way.
 */
#include "worker/profile_rows.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char *flags_name(const struct kn_op_call *call)
{
    return call->ta ? (call->tb ? "tt" : "tn") : call->tb ? "nt" : "nn";
}

static struct profile_row *row_find(struct profile_sums *s, const char *op, const char *shape)
{
    for (unsigned i = 0; i < s->n_rows; i++)
        if (strcmp(s->row[i].op, op) == 0 && strcmp(s->row[i].shape, shape) == 0)
            return &s->row[i];
    return NULL;
}

struct profile_row *profile_row_of(struct profile_sums *s, const struct kn_op_call *call)
{
    char shape[sizeof(s->row[0].shape)] = "";
    struct profile_row *row;

    if (call->inner > 0)
        (void)snprintf(shape, sizeof(shape), "%lldx%lldx%lld %s", (long long)call->rows,
                       (long long)call->cols, (long long)call->inner, flags_name(call));
    row = row_find(s, call->op, shape);
    if (!row && *shape && s->n_rows >= PROFILE_SHAPES_MAX) {
        (void)snprintf(shape, sizeof(shape), "other shapes");
        row = row_find(s, call->op, shape);
    }
    if (row)
        return row;
    assert(s->n_rows < PROFILE_ROWS_MAX);
    row = &s->row[s->n_rows++];
    *row = (struct profile_row){.op = call->op};
    (void)memcpy(row->shape, shape, sizeof(shape));
    return row;
}

void profile_row_add(struct profile_row *row, const struct kn_op_call *call)
{
    row->calls++;
    row->seconds += (double)call->wall_ns * 1e-9;
    row->busy += (double)call->busy_ns * 1e-9;
    row->flop += call->flop;
    row->bytes += call->bytes;
}

static void row_sum(struct profile_row *sum, const struct profile_row *row)
{
    sum->calls += row->calls;
    sum->seconds += row->seconds;
    sum->busy += row->busy;
    sum->flop += row->flop;
    sum->bytes += row->bytes;
}

static int row_slower(const void *a, const void *b)
{
    const struct profile_row *x = a, *y = b;

    return x->busy < y->busy ? 1 : x->busy > y->busy ? -1 : 0;
}

/* One row an op, the slowest first; returns how many. */
static unsigned sum_by_op(const struct profile_sums *s, struct profile_row *ret_rows)
{
    unsigned n = 0;

    for (unsigned i = 0; i < s->n_rows; i++) {
        unsigned at = 0;

        while (at < n && strcmp(ret_rows[at].op, s->row[i].op) != 0)
            at++;
        if (at == n)
            ret_rows[n++] = (struct profile_row){.op = s->row[i].op};
        row_sum(&ret_rows[at], &s->row[i]);
    }
    qsort(ret_rows, n, sizeof(*ret_rows), row_slower);
    return n;
}

static double ratio(double part, double of)
{
    return of > 0 ? part / of : 0;
}

static void print_rate(FILE *out, double work, double busy, double most)
{
    if (work <= 0 || busy <= 0)
        (void)fprintf(out, " %9s %7s", "-", "-");
    else if (most <= 0)
        (void)fprintf(out, " %9.1f %7s", work / busy * 1e-9, "-");
    else
        (void)fprintf(out, " %9.1f %6.1f%%", work / busy * 1e-9, 100 * work / busy / most);
}

static void print_row(FILE *out, const char *indent, const char *name, const struct profile_row *r,
                      const struct profile_sums *s)
{
    (void)fprintf(out, "%s%-*s %8lld %9.3f %9.3f %6.1f%%", indent, 28 - (int)strlen(indent), name,
                  (long long)r->calls, r->seconds, r->busy,
                  100 * ratio(r->busy, s->n_spans > 0 ? s->span[0].busy : 0));
    print_rate(out, r->flop, r->busy, s->peak_rate);
    print_rate(out, r->bytes, r->busy, s->copy_rate);
    (void)fprintf(out, "\n");
}

static void print_spans(const struct profile_sums *s, FILE *out)
{
    (void)fprintf(out, "%-28s %8s %9s %9s %7s\n", "phase", "calls", "seconds", "busy s", "share");
    for (unsigned i = 0; i < s->n_spans; i++) {
        const struct profile_span *p = &s->span[i];

        if (p->calls > 0)
            (void)fprintf(out, "%*s%-*s %8lld %9.3f %9.3f %6.1f%%\n", 2 * p->depth, "",
                          28 - 2 * p->depth, p->name, (long long)p->calls, p->seconds, p->busy,
                          100 * ratio(p->busy, s->span[0].busy));
    }
}

void profile_sums_print(const struct profile_sums *s, FILE *out)
{
    struct profile_row by_op[PROFILE_ROWS_MAX], all = {0}, shapes[PROFILE_ROWS_MAX];
    unsigned n = sum_by_op(s, by_op);

    (void)memcpy(shapes, s->row, s->n_rows * sizeof(*shapes));
    qsort(shapes, s->n_rows, sizeof(*shapes), row_slower);
    (void)fprintf(out, "profile of device %s, %d threads%s\n", s->device ? s->device : "-",
                  s->threads, s->first_left_out ? "; the first step is left out" : "");
    if (s->product_rate > 0)
        (void)fprintf(out,
                      "measured here, a busy second of one core: registers %.1f GFLOP (the peak), "
                      "a large product %.1f GFLOP, a large copy %.1f GB\n",
                      s->peak_rate * 1e-9, s->product_rate * 1e-9, s->copy_rate * 1e-9);
    print_spans(s, out);
    (void)fprintf(out, "%-28s %8s %9s %9s %7s %9s %7s %9s %7s\n", "op", "calls", "seconds",
                  "busy s", "share", "GFLOP/s", "of peak", "GB/s", "of copy");
    for (unsigned i = 0; i < n; i++) {
        print_row(out, "", by_op[i].op, &by_op[i], s);
        row_sum(&all, &by_op[i]);
        for (unsigned j = 0; j < s->n_rows; j++)
            if (strcmp(shapes[j].op, by_op[i].op) == 0 && *shapes[j].shape)
                print_row(out, "  ", shapes[j].shape, &shapes[j], s);
    }
    print_row(out, "", "all ops", &all, s);
    if (s->events_left_out > 0)
        (void)fprintf(out, "the trace is full; %lld events are not in it\n",
                      (long long)s->events_left_out);
}

json_t *profile_sums_json(const struct profile_sums *s)
{
    json_t *ops = json_array(), *spans = json_array();

    for (unsigned i = 0; i < s->n_spans; i++)
        (void)json_array_append_new(
            spans, json_pack("{s:s, s:i, s:I, s:f, s:f}", "name", s->span[i].name, "depth",
                             s->span[i].depth, "calls", (json_int_t)s->span[i].calls, "seconds",
                             s->span[i].seconds, "busy_s", s->span[i].busy));
    for (unsigned i = 0; i < s->n_rows; i++) {
        const struct profile_row *r = &s->row[i];

        (void)json_array_append_new(
            ops, json_pack("{s:s, s:s, s:I, s:f, s:f, s:f, s:f}", "op", r->op, "shape", r->shape,
                           "calls", (json_int_t)r->calls, "seconds", r->seconds, "busy_s", r->busy,
                           "flop", r->flop, "bytes", r->bytes));
    }
    return json_pack("{s:{s:s, s:i, s:f, s:f, s:f, s:b}, s:o, s:o}", "machine", "device",
                     s->device ? s->device : "", "threads", s->threads, "peak_flop_per_busy_s",
                     s->peak_rate, "product_flop_per_busy_s", s->product_rate,
                     "copy_bytes_per_busy_s", s->copy_rate, "first_left_out",
                     (int)s->first_left_out, "spans", spans, "ops", ops);
}
