/* passkey.h - retrieval of a number hidden in filler, by length and depth (eval.passkey).
 *
 * Prompts are read through a cache of keys and values: what a prompt has in common with the one
 * before it is kept, so trials at one depth read the filler before the number once. A trial is
 * correct when the likeliest tokens are those of the answer, all of them.
 */
#pragma once
#include "worker/kinds/engine.h"
#include "worker/model/sample.h"
#include "worker/text/tokenizer.h"

#define PASSKEY_CHUNK 2048 /* tokens of a prompt at a time; a stop is seen between them */

struct passkey_cell {
    int64_t length;
    double depth, correct;
};

struct passkey {
    struct run *run;
    struct tokenizer *tokenizer;
    struct sampler sampler;    /* greedy */
    struct passkey_cell *cell; /* owned, n: depths within lengths */
    unsigned n;
    float *logits;          /* owned, V */
    struct token_list held; /* what the cache holds of the prompt before */
    int64_t done, of;       /* tokens of this rank's prompts */
    int64_t read;           /* of them through the model, in all */
};

/* Tokens that the longest prompt with its answer may have. */
int64_t passkey_longest(const struct lh_job *job);

/* Zero-initialise *p. Makes a prompt of every length, so what is too short shows before weights are
 * loaded. Close it also after a failure. */
LH_MUST_CHECK int passkey_open(struct run *r, const struct engine *e, struct passkey *p,
                               struct lh_err *reterr);
void passkey_close(struct passkey *p);

/* All prompts of the grid, dealt over the ranks in turn; p->cell has the results on every rank.
 * Collective. LH_ESTOPPED when a stop is asked for. */
LH_MUST_CHECK int passkey_run(struct passkey *p, struct engine *e, struct lh_err *reterr);

/* `passkey` events from rank 0, one for each cell. rope: of eval.ropes, or NULL. */
void passkey_report(const struct passkey *p, int64_t step, const char *rope);
/* {"trials", "seed", "numbers", "cells": [{"length", "depth", "trials", "correct"}]}: new
 * reference. */
json_t *passkey_json(const struct passkey *p);
/* A table for people who read the log. */
void passkey_print(const struct passkey *p, const char *label);
