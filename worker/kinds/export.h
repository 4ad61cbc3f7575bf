/* export.h - writing a finished model for other programs: what export.c and export_check.c share.
 */
#pragma once
#include "worker/formats/quant.h"
#include "worker/formats/weights.h"
#include "worker/kinds/engine.h"
#include "worker/model/merge.h"

#define EXPORT_CHECK_TOKENS 48 /* of the sequence whose logits are compared */

enum export_format { EXPORT_HF, EXPORT_GGUF, EXPORT_ADAPTER };

struct export
{
    struct run *run;
    enum export_format format;
    enum quant_type type;  /* of matrices */
    struct engine engine;  /* base and adapter, held apart */
    struct merge merge;    /* the same as one */
    enum kn_dtype compute; /* of the comparison: fp32, or bf16 where that does not fit */
    char tmp[1100], final[1100];
    struct weights weights;        /* what is written: of the merged model, or of the adapter */
    struct weights_entry *entries; /* owned */
    const char *phase;             /* what reading the weights is for, in progress reports */
    int32_t ids[EXPORT_CHECK_TOKENS];
    int64_t n_ids;
    float *logits;    /* owned, n_ids x V: of base and adapter */
    uint64_t planned; /* bytes */
    unsigned files;
    bool tokenizer; /* was carried over */
    const char *why_not;
};

/* What was found; the job fails where a limit is passed. */
struct export_check {
    double logit_error, logit_limit; /* largest difference over the largest logit */
    double angle_error;
};

/* Logits of an engine's model for x->ids into out (n_ids x V): makes, loads and releases the model
 * with x->compute. */
LH_MUST_CHECK int export_logits(struct export *x, struct engine *e, float *out,
                                struct lh_err *reterr);

/* Reads what lies in x->tmp as a user of longhaul would, and compares angles, every tensor, the
 * tokenizer and the logits. LH_EINTERNAL names what differs. */
LH_MUST_CHECK int export_check(struct export *x, struct export_check *ret_check,
                               struct lh_err *reterr);

/* The window that the export says. */
int64_t export_positions(const struct export *x);

/* x->tmp becomes x->final, and the result tells of it. */
LH_MUST_CHECK int export_publish(struct export *x, const struct export_check *check,
                                 struct lh_err *reterr);

/* The answer of `--plan`. */
LH_MUST_CHECK int export_plan(const struct lh_job *job, const struct engine_place *place,
                              json_t **ret_plan, struct lh_err *reterr);
