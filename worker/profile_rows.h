/* profile_rows.h - the sums behind the table of a profile, shared by its two files. */
#pragma once
#include "kernels/profile.h"
#include <jansson.h>
#include <stdio.h>

/* Ops, and shapes of products: a step has some 20 shapes, and there are 30 ops. Where texts of all
 * lengths make more than PROFILE_SHAPES_MAX rows, new shapes share one. */
#define PROFILE_ROWS_MAX 256
#define PROFILE_SHAPES_MAX 192
#define PROFILE_SPANS_MAX 32 /* names of phases */

struct profile_row {
    const char *op;
    char shape[64]; /* of a product; "" for all others */
    int64_t calls;
    double seconds, busy, flop, bytes; /* busy: processor seconds */
};

struct profile_span {
    const char *name;
    int depth;
    int64_t calls;
    double seconds, busy;
};

struct profile_sums {
    const char *device;
    int threads;
    double peak_rate;               /* FLOPs a busy second that registers allow; 0: not known */
    double product_rate, copy_rate; /* FLOPs and bytes a busy second, measured; 0: not */
    struct profile_row row[PROFILE_ROWS_MAX];
    unsigned n_rows;
    struct profile_span span[PROFILE_SPANS_MAX]; /* [0] the outermost */
    unsigned n_spans;
    bool first_left_out;
    int64_t events_left_out; /* of the trace */
};

/* The row of a call, made when it is new. */
struct profile_row *profile_row_of(struct profile_sums *s, const struct kn_op_call *call);
void profile_row_add(struct profile_row *row, const struct kn_op_call *call);

void profile_sums_print(const struct profile_sums *s, FILE *out);
json_t *profile_sums_json(const struct profile_sums *s);
