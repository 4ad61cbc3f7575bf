/* texts.h - what a job of kind generate has written, on its way to those who asked for it. */
#pragma once
#include "worker/run.h"

enum ended { ENDED_EOS, ENDED_MAX_TOKENS, ENDED_LENGTH };

/* The text behind one prompt. */
struct text {
    int64_t len, tokens, prompt_tokens, ended; /* enum ended */
    char *text;                                /* owned, len bytes and a 0 */
};

/* Text i was written by rank i % size; all ranks have all of them afterwards. Collective. */
LH_MUST_CHECK int texts_gather(struct run *r, struct text *texts, unsigned n,
                               struct lh_err *reterr);

/* Into the result (cut where they are too long together), OUT/texts.jsonl, and standard output for
 * those who read the log (JOB-37). Prompts are the job's. */
LH_MUST_CHECK int texts_report(struct run *r, const struct text *texts, unsigned n,
                               struct lh_err *reterr);
