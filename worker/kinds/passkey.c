/* passkey.c - see passkey.h. */
#include "worker/kinds/passkey.h"
#include "proto/base/str.h"
#include "worker/kinds/held_out.h"
#include "worker/kinds/passkey_prompt.h"
#include "worker/model/cache.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t length_at(const struct lh_job *job, unsigned i)
{
    return held_out_length(&job->eval.passkey.lengths, job->context.length, i);
}

int64_t passkey_longest(const struct lh_job *job)
{
    int64_t longest = 0, length;

    for (unsigned i = 0; (length = length_at(job, i)) > 0; i++)
        longest = LH_MAX(longest, length);
    return longest;
}

/* ---- opening ---- */

static int open_cells(struct passkey *p, const struct lh_job *job, struct lh_err *reterr)
{
    unsigned n_depths = job->eval.passkey.n_depths, n_lengths = 0;

    while (length_at(job, n_lengths) > 0)
        n_lengths++;
    assert(n_lengths > 0 && n_depths > 0);
    p->cell = calloc((size_t)n_lengths * n_depths, sizeof(*p->cell));
    if (!p->cell)
        return lh_err_set(reterr, -ENOMEM, "the grid of passkeys");
    for (; p->n < n_lengths * n_depths; p->n++) {
        p->cell[p->n].length = length_at(job, p->n / n_depths);
        p->cell[p->n].depth = job->eval.passkey.depths[p->n % n_depths];
    }
    return 0;
}

static int check_lengths(const struct passkey *p, const struct lh_job *job, struct lh_err *reterr)
{
    int64_t length;
    char at[64];
    int rc = 0;

    for (unsigned i = 0; rc == 0 && (length = length_at(job, i)) > 0; i++) {
        struct passkey_prompt prompt = {0};

        (void)snprintf(at, sizeof(at), "/eval/passkey/lengths/%u", i);
        rc = passkey_prompt_make(p->tokenizer, length, 0, 10000, &prompt, reterr);
        rc = run_point(rc, at, reterr);
        passkey_prompt_release(&prompt);
    }
    return rc;
}

int passkey_open(struct run *r, const struct engine *e, struct passkey *p, struct lh_err *reterr)
{
    int rc = tokenizer_open(e->base_path, &p->tokenizer, reterr);

    p->run = r;
    if (rc == 0 && tokenizer_vocab(p->tokenizer) > e->config->vocab)
        rc = lh_err_set(
            reterr, LH_EINPUT,
            "the tokenizer of '%s' has %lld tokens, the model's embedding only %lld rows",
            e->base_path, (long long)tokenizer_vocab(p->tokenizer), (long long)e->config->vocab);
    rc = run_point(rc, "/model/base", reterr);
    if (rc == 0)
        rc = open_cells(p, r->job, reterr);
    if (rc == 0)
        rc = check_lengths(p, r->job, reterr);
    if (rc < 0)
        return rc;
    /* Rows of the embedding beyond the vocabulary are no tokens. */
    p->sampler = (struct sampler){.top_p = 1, .V = tokenizer_vocab(p->tokenizer)};
    p->logits = malloc((size_t)e->config->vocab * sizeof(*p->logits));
    if (!p->logits)
        return lh_err_set(reterr, -ENOMEM, "a row of logits");
    return sampler_init(&p->sampler, reterr);
}

void passkey_close(struct passkey *p)
{
    token_list_release(&p->held);
    sampler_release(&p->sampler);
    tokenizer_free(p->tokenizer);
    free(p->logits);
    free(p->cell);
    *p = (struct passkey){0};
}

/* ---- running ---- */

/* Keeps what the cache has in common with the prompt, but for its last token: its logits are
 * wanted. Returns how much that is. */
static int64_t keep_common(struct passkey *p, struct cache *c, const struct token_list *ids)
{
    size_t same = 0;

    while (same < p->held.n && same + 1 < ids->n && p->held.at[same] == ids->at[same])
        same++;
    cache_rewind(c, (int64_t)same);
    p->held.n = same;
    return (int64_t)same;
}

static int read_prompt(struct passkey *p, struct engine *e, struct cache *c,
                       const struct token_list *ids, struct lh_err *reterr)
{
    int64_t n = (int64_t)ids->n, kept = keep_common(p, c, ids), piece;
    int64_t pieces = (n - kept + PASSKEY_CHUNK - 1) / PASSKEY_CHUNK;
    int rc = 0;

    engine_piece(e, "passkey", p->done, n, p->of, pieces * e->config->n_layers);
    for (int64_t at = kept; at < n && rc == 0; at += piece) {
        piece = LH_MIN(n - at, (int64_t)PASSKEY_CHUNK);
        if (run_stopping(p->run))
            return lh_err_set(reterr, LH_ESTOPPED, "stopped while retrieving passkeys");
        rc = cache_append(c, ids->at + at, piece, at + piece == n ? p->logits : NULL, reterr);
        for (int64_t t = 0; t < piece && rc == 0; t++)
            if (token_list_append(&p->held, ids->at[at + t]) < 0)
                rc = lh_err_set(reterr, -ENOMEM, "a passkey prompt");
    }
    engine_piece(e, NULL, 0, 0, 0, 1);
    p->read += n - kept;
    return rc;
}

/* Greedy decoding, given up at the first token that is not the answer's. */
static int answer(struct passkey *p, struct cache *c, const struct token_list *want,
                  bool *ret_correct, struct lh_err *reterr)
{
    int rc = 0;

    *ret_correct = want->n > 0;
    for (size_t i = 0; i < want->n && rc == 0; i++) {
        int32_t id = sampler_next(&p->sampler, p->logits, 0, 0);

        if (id < 0)
            return lh_err_set(reterr, LH_ENONFINITE,
                              "the logits behind a passkey prompt are not finite");
        if (id != want->at[i]) {
            *ret_correct = false;
            return 0;
        }
        if (i + 1 < want->n)
            rc = cache_append(c, &id, 1, p->logits, reterr);
    }
    return rc;
}

static int try_one(struct passkey *p, struct engine *e, struct cache *c, int64_t number,
                   struct passkey_cell *cell, struct lh_err *reterr)
{
    struct passkey_prompt prompt = {0};
    bool correct = false;
    int rc = passkey_prompt_make(p->tokenizer, cell->length, cell->depth, number, &prompt, reterr);

    if (rc == 0)
        rc = read_prompt(p, e, c, &prompt.ids, reterr);
    if (rc == 0)
        rc = answer(p, c, &prompt.answer, &correct, reterr);
    cell->correct += correct;
    p->done += cell->length;
    passkey_prompt_release(&prompt);
    return rc;
}

static int run_cells(struct passkey *p, struct engine *e, struct lh_err *reterr)
{
    const struct lh_job *job = p->run->job;
    int64_t trials = job->eval.passkey.trials, n = p->n * trials;
    int64_t rank = p->run->comm->rank, size = p->run->comm->size;
    struct cache c = {.model = &e->model};
    int rc = 0;

    p->done = p->of = 0;
    for (int64_t i = rank; i < n; i += size)
        p->of += p->cell[i / trials].length;
    run_phase(p->run, "passkey", 0, p->of, "tokens");
    for (int64_t i = rank; i < n && rc == 0; i += size)
        rc = try_one(p, e, &c, passkey_number(job->eval.passkey.seed, i % trials),
                     &p->cell[i / trials], reterr);
    run_phase(p->run, "passkey", p->of, p->of, "tokens");
    return rc;
}

int passkey_run(struct passkey *p, struct engine *e, struct lh_err *reterr)
{
    struct comm *c = p->run->comm;
    int rc = 0;

    p->held.n = 0; /* the weights may have changed since, or the angles */
    p->read = 0;
    for (unsigned i = 0; i < p->n; i++)
        p->cell[i].correct = 0;
    rc = run_agree(p->run, run_cells(p, e, reterr), reterr);
    for (unsigned i = 0; i < p->n && rc == 0; i++)
        rc = c->ops->sum_f64(c, &p->cell[i].correct, 1, reterr);
    return rc;
}

/* ---- showing ---- */

static json_t *cell_json(const struct passkey *p, const struct passkey_cell *cell)
{
    return json_pack("{s:I, s:f, s:I, s:I}", "length", (json_int_t)cell->length, "depth",
                     cell->depth, "trials", (json_int_t)p->run->job->eval.passkey.trials, "correct",
                     (json_int_t)cell->correct);
}

void passkey_report(const struct passkey *p, int64_t step, const char *rope)
{
    for (unsigned i = 0; p->run->comm->rank == 0 && i < p->n; i++) {
        json_t *event = cell_json(p, &p->cell[i]);

        (void)json_object_set_new(event, "step", json_integer((json_int_t)step));
        if (rope)
            (void)json_object_set_new(event, "rope", json_string(rope));
        lh_report(p->run->reporter, "passkey", event);
    }
}

json_t *passkey_json(const struct passkey *p)
{
    const struct lh_job *job = p->run->job;
    json_t *cells = json_array(), *numbers = json_array();

    for (int64_t i = 0; i < job->eval.passkey.trials; i++)
        (void)json_array_append_new(
            numbers, json_integer((json_int_t)passkey_number(job->eval.passkey.seed, i)));
    for (unsigned i = 0; i < p->n; i++)
        (void)json_array_append_new(cells, cell_json(p, &p->cell[i]));
    return json_pack("{s:I, s:I, s:o, s:o}", "trials", (json_int_t)job->eval.passkey.trials, "seed",
                     (json_int_t)job->eval.passkey.seed, "numbers", numbers, "cells", cells);
}

void passkey_print(const struct passkey *p, const char *label)
{
    unsigned n_depths = p->run->job->eval.passkey.n_depths;

    (void)printf("passkeys retrieved of %lld, %s, by tokens (down) and depth\n%-9s",
                 (long long)p->run->job->eval.passkey.trials, label, "");
    for (unsigned k = 0; k < n_depths; k++)
        (void)printf(" %7.3g", p->cell[k].depth);
    for (unsigned i = 0; i < p->n; i++) {
        if (i % n_depths == 0)
            (void)printf("\n%9lld", (long long)p->cell[i].length);
        (void)printf(" %7.0f", p->cell[i].correct);
    }
    (void)printf("\n");
    (void)fflush(stdout);
}
