/* uploads.h - what an attempt leaves, found, reported and uploaded: checkpoints while it runs,
 * other outputs at its end.
 *
 * Checkpoints come from rank 0's journal (so only on the head). Each is kept by hard links until it
 * is uploaded: the worker may remove its own (checkpoint.keep). An upload that fails for good is
 * reported and the files stay (CKPT-16).
 */
#pragma once
#include "daemon/node/held.h"

struct uploads *uploads_new(struct held *h); /* NULL when memory is exhausted */
void uploads_free(struct uploads *u);        /* accepts NULL */

void uploads_tick(struct uploads *u);
bool uploads_are_settled(
    const struct uploads *u); /* the attempt is over, and each upload is done or failed */
void uploads_tell_all(struct uploads *u); /* a new session: everything is reported again */

/* Before the attempt's directory is removed: moves what is stored nowhere else to
 * STATE/kept/JOB/attempt-N. */
LH_MUST_CHECK int uploads_rescue(struct uploads *u, struct lh_err *reterr);
