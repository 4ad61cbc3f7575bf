/* event.h - what a worker reports: one JSON object a line, appended to OUT/events/rank-N.jsonl.
 *
 * The file is the journal: the shim and the node daemon read it by offset, so a report is lost only with the
 * disk. Each line is one write(2). Types and members: proto/spec/events.md.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdint.h>

struct lh_reporter; /* one rank's open journal */

/* Opens (creates) DIR/rank-RANK.jsonl for appending. dir NULL: a reporter that drops everything. */
LH_MUST_CHECK int lh_reporter_open(const char *dir, int rank, struct lh_reporter **ret_reporter,
                                   struct lh_err *reterr);
void lh_reporter_close(struct lh_reporter *r); /* accepts NULL */

/* Appends {"type": type, "time": now, "rank": rank, ...data}. data (an object or NULL) is stolen. A failed write
 * is ignored: training goes on without its journal. */
void lh_report(struct lh_reporter *r, const char *type, json_t *data);

/* Marks that this rank is alive and made progress: sets the file time of DIR/rank-RANK.beat. Cheap, per layer. */
void lh_report_beat(struct lh_reporter *r);

/* Reads the next complete line at *offset of an open journal and moves *offset behind it. Returns 1 and a new
 * reference, 0 when no complete line is there yet, or a negative code. A line that is not JSON is skipped. */
LH_MUST_CHECK int lh_journal_next(int fd, uint64_t *offset, json_t **ret_line);
