/* share.h - ranks share the update of what trains: each sums the gradients of its part over all
 * ranks, updates that part, and hands what the ops read to the others. kinds/step.c calls it.
 *
 * A part is a range of each stretch of the regions (params.h), cut where comm_part cuts it, through
 * tensors. So of gradients half the traffic of a full sum is needed, of weights two bytes an
 * element in bf16, and a rank of N makes one Nth of the update. Between steps every rank has all
 * weights; masters behind bf16 weights and both moments are up to date in a rank's own part only,
 * until share_state. All calls but the first are collective.
 */
#pragma once
#include "worker/model/params.h"
#include "worker/parallel/comm.h"

/* Sets p->own for this rank. */
void share_split(struct params *p, const struct comm *c);

/* Gradients of this rank's part become the sums over ranks. */
LH_MUST_CHECK int share_sum(const struct params *p, struct comm *c, struct lh_err *reterr);

/* After share_sum: every rank has the sums of all. For dumps and to name a bad one. */
LH_MUST_CHECK int share_gradients(const struct params *p, struct comm *c, struct lh_err *reterr);

/* After an update: every rank has what the ops read. */
LH_MUST_CHECK int share_weights(const struct params *p, struct comm *c, struct lh_err *reterr);

/* Every rank has all masters and moments, for whoever writes them. */
LH_MUST_CHECK int share_state(const struct params *p, struct comm *c, struct lh_err *reterr);
