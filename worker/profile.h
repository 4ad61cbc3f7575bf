/* profile.h - where the time of a run goes: a trace of all ops and phases, and a table by op.
 *
 * Everything takes NULL for "no profile", so that callers do not ask. A span is a phase of the
 * work; spans nest. The table covers the spans that are of the same name as the first outermost one
 * (steps of training, windows of evaluation), without the first of them where there are more: it
 * makes kernels and touches memory for the first time.
 *
 * The file is a trace of Chrome's format (chrome://tracing, ui.perfetto.dev) with the table in its
 * members "ops", "spans" and "machine". Members beside traceEvents do not disturb those programs.
 */
#pragma once
#include "kernels/ops.h"
#include <jansson.h>
#include <stdio.h>

struct profile;

/* Creates the file: `path`, or path.rankN for ranks above 0. */
LH_MUST_CHECK int profile_open(const char *path, int rank, struct profile **ret_profile,
                               struct lh_err *reterr);

/* A stream whose ops are written down, as kn_profile_new makes it; measures the machine's rates
 * with it, of products in t. peak: FLOPs a busy second that registers allow, 0 when not known. The
 * profile must outlive the stream. */
LH_MUST_CHECK int profile_stream(struct profile *p, const struct kn_ops *inner, int threads,
                                 enum kn_dtype t, double peak, const struct kn_ops **ret_ops,
                                 struct kn_stream **ret_stream, struct lh_err *reterr);

/* name: a constant, written into JSON as it is. */
void profile_begin(struct profile *p, const char *name);
void profile_end(struct profile *p);

/* Ends open spans, and the file. Errors: -errno when it could not be written; the table is there
 * all the same. Once; no op may follow. */
LH_MUST_CHECK int profile_finish(struct profile *p, struct lh_err *reterr);

/* After profile_finish: the table for people, and for programs (new reference, NULL without
 * memory):
 * {"machine": {...}, "spans": [...], "ops": [...]}. */
void profile_print(const struct profile *p, FILE *out);
json_t *profile_json(const struct profile *p);

void profile_free(struct profile *p);
