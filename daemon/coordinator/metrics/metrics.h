/* metrics.h - counters, gauges and histograms, and their text form for Prometheus (version 0.0.4).
 *
 * A registry belongs to one thread, the loop. Families appear in the text in the order they were
 * made. Labels are given as one text, `state="queued",queue="default"`, made with metrics_labels
 * when a value is not a plain word. Always true: a family is written only when it has at least one
 * sample, and a registry never holds more than METRICS_SERIES_MAX samples: beyond that new label
 * sets are dropped and counted in `longhaul_metrics_dropped_total`.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/buf.h"
#include <stddef.h>

#define METRICS_SERIES_MAX 4096 /* routes x codes is some 200, the rest are tens */
#define METRICS_BUCKETS_MAX 16

enum metrics_type { METRICS_COUNTER, METRICS_GAUGE, METRICS_HISTOGRAM };

struct metrics;
struct metrics_family;

struct metrics *metrics_new(void); /* NULL: no memory */
void metrics_free(struct metrics *m);

/* The family of that name, made when it is not there yet. name is given whole
 * ("longhaul_http_requests_total"); name and help are copied. NULL only without memory; all
 * functions below accept NULL and do nothing. */
struct metrics_family *metrics_family(struct metrics *m, enum metrics_type type, const char *name,
                                      const char *help);

/* Bounds of a histogram's buckets, ascending, without +Inf; to be called before its first sample.
 * Without it: 1 ms to 60 s. */
void metrics_buckets(struct metrics_family *f, const double *bounds, size_t n);

void metrics_add(struct metrics_family *f, const char *labels, double delta); /* labels "": none */
void metrics_set(struct metrics_family *f, const char *labels, double value);
void metrics_observe(struct metrics_family *f, const char *labels, double value);

/* Writes `name="value"` pairs (n of each) into buf, escaped and cut to whole pairs that fit;
 * returns buf. */
const char *metrics_labels(char *buf, size_t cap, size_t n, const char *const *names,
                           const char *const *values);

/* Appends the text of all families to out. */
LH_MUST_CHECK int metrics_write(const struct metrics *m, struct lh_buf *out);
