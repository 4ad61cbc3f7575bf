/* plan.h - the memory plan: one table of every buffer that a rank allocates.
 *
 * The parts of the engine add their buffers (plan_add) with the pointers that will hold them.
 * `longhaul-worker --plan` prints the table; a run checks it against the memory it may use
 * (plan_check), asks the back end for one block of plan->peak bytes and hands out the addresses
 * (plan_bind). So what is printed is what is allocated, and nothing is allocated after that.
 * Buffers that are never alive together may share room: plan_mark, plan_rewind.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdint.h>

enum plan_part {
    PLAN_WEIGHTS,     /* what the ops read, in the precision of the job */
    PLAN_ADAPTER,     /* fp32 masters of everything that trains */
    PLAN_GRADIENTS,   /* fp32 */
    PLAN_OPTIMIZER,   /* both Adam moments, fp32 */
    PLAN_CACHE,       /* keys and values of the tokens so far; for generation */
    PLAN_ACTIVATIONS, /* what the forward pass keeps for the backward pass */
    PLAN_WORKSPACE,   /* one layer at work, one tile of the MLP or of the head */
    /* Not part of the block: */
    PLAN_SCRATCH,       /* the back end's own, found out by a rehearsal */
    PLAN_COMMUNICATION, /* values of other ranks, and Open MPI's buffers for them */
    PLAN_HOST,          /* tokens, labels and results on the host's side, and the program itself */
    PLAN_PARTS,
};

#define PLAN_ALIGN 64u
#define PLAN_ITEMS_MAX                                                                             \
    65536u /* about 9 LoRA tensors and 9 weights a layer, 1024 layers, and room */

struct plan_item {
    void *slot;      /* address of the pointer to set; NULL: only counted */
    uint64_t offset; /* from the start of the block */
};

/* Zero-initialise; release with plan_release. */
struct plan {
    struct plan_item *items; /* owned */
    unsigned n, cap;
    uint64_t at,
        peak; /* bytes of the block: where the next buffer goes; the most that are alive at once */
    uint64_t
        bytes[PLAN_PARTS]; /* by how much each part raises the total; they add up to plan_total */
    double flops_step;     /* floating point operations of one step over all ranks; 0: not told */
    int failed;            /* sticky: -ENOMEM, -E2BIG; reported by plan_check and plan_bind */
};

void plan_release(struct plan *p);

/* A buffer of bytes (0 is allowed: its pointer becomes NULL). slot is the address of a pointer
 * object of any type. */
void plan_add(struct plan *p, enum plan_part part, void *slot, uint64_t bytes);

/* A second pointer to the buffer that was added last. */
void plan_add_alias(struct plan *p, void *slot);

/* Memory outside the block, of a part from PLAN_SCRATCH on. */
void plan_add_outside(struct plan *p, enum plan_part part, uint64_t bytes);

/* Buffers added after plan_rewind(p, mark) lie where those added since the mark lie. */
uint64_t plan_mark(const struct plan *p);
void plan_rewind(struct plan *p, uint64_t mark);

uint64_t plan_total(const struct plan *p); /* the block and what is outside */

/* LH_ENOFIT with the table in the text when plan_total is above limit_bytes (0: no limit). pointer:
 * the member of the job that set the limit, "" for the machine's memory. */
LH_MUST_CHECK int plan_check(const struct plan *p, uint64_t limit_bytes, const char *pointer,
                             struct lh_err *reterr);

/* Sets every slot for a block at base. */
void plan_bind(const struct plan *p, void *base);

/* {"bytes_per_rank": ..., "parts": {"weights": ...}, "flops_per_step": ...}: new reference. */
json_t *plan_json(const struct plan *p);

/* The most memory that this process has held so far (VmHWM); 0 when the system does not tell. */
uint64_t plan_process_peak(void);

/* Bytes of this machine, or of the cgroup's limit when that is less: all of them, and those that
 * processes may still take now. */
uint64_t plan_machine_total(void);
uint64_t plan_machine_free(void);

/* How many ranks may share this machine when a job runs local_ranks of them here: those, or the
 * slots of its node (LONGHAUL_NODE_SLOTS) when they are more, as other jobs may come to the rest.
 */
int plan_machine_ranks(int local_ranks);
