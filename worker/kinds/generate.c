/* generate.c - kind generate: opens a finished model, lets it go on with each prompt, and reports
 * the texts.
 *
 * Prompts are dealt over the ranks in turn. Attention is full; keys and values are kept, and a
 * prompt is read in chunks of GENERATE_CHUNK tokens, so memory grows with the longest text only by
 * its keys and values. Texts: the `done` event's result, OUT/texts.jsonl, and standard output.
 */
#include "worker/kinds/generate.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "worker/kinds/engine.h"
#include "worker/kinds/stops.h"
#include "worker/kinds/texts.h"
#include "worker/model/cache.h"
#include "worker/model/sample.h"
#include "worker/text/tokenizer.h"
#include "worker/text/utf8.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As many rows as matrix products run at full speed with; the pieces of attention that grow with
 * the prompt are packed once a chunk, so it should not be less. */
#define GENERATE_CHUNK 512

struct generate {
    struct run *run;
    const struct lh_job *job;
    struct engine engine;
    struct tokenizer *tokenizer;
    struct token_list *prompts; /* owned, n each */
    struct text *texts;
    unsigned n;
    struct stops stops;
    int64_t limit;    /* tokens of a prompt with its text; 0: none */
    int64_t capacity; /* of the cache */
    struct cache cache;
    struct sampler sampler;
    float *logits;                  /* owned, V */
    struct token_list out;          /* of the text at hand */
    int64_t done, of;               /* tokens of this rank */
    double read_s, write_s;         /* spent on prompts and on texts */
    int64_t read, written, longest; /* tokens; the longest prompt */
};

static int generate_open(struct generate *g, struct lh_err *reterr);
static int generate_ready(struct generate *g, struct lh_err *reterr);
static int generate_answer(struct generate *g, unsigned i, struct lh_err *reterr);
static int generate_report(struct generate *g, struct lh_err *reterr);

static void generate_release(struct generate *g)
{
    for (unsigned i = 0; i < g->n; i++) {
        token_list_release(&g->prompts[i]);
        free(g->texts[i].text);
    }
    free(g->prompts);
    free(g->texts);
    free(g->logits);
    token_list_release(&g->out);
    sampler_release(&g->sampler);
    tokenizer_free(g->tokenizer);
    engine_close(&g->engine);
}

int kind_generate(struct run *r, struct lh_err *reterr)
{
    LH_CLEANUP(generate_release) struct generate g = {.run = r, .job = r->job};
    struct engine_place place = engine_place_of(r);
    int64_t peak = 0;
    int rc = generate_open(&g, reterr);

    if (rc == 0)
        rc = engine_count(&g.engine, r->job, &place, reterr);
    if (rc == 0)
        rc = engine_fits(&g.engine, r, reterr);
    rc = run_agree(r, rc, reterr);
    if (rc < 0)
        return rc;
    run_phase(r, "loading", 0, 1, "tensors");
    rc = run_agree(r, generate_ready(&g, reterr), reterr);
    run_phase(r, "loading", 1, 1, "tensors");
    if (rc < 0)
        return rc;
    for (unsigned i = (unsigned)r->comm->rank; rc == 0 && i < g.n; i += (unsigned)r->comm->size)
        rc = generate_answer(&g, i, reterr);
    run_phase(r, "generate", g.of, g.of, "tokens");
    rc = run_agree(r, rc, reterr);
    if (rc == 0)
        rc = texts_gather(r, g.texts, g.n, reterr);
    if (rc == 0)
        rc = engine_peak(r, &peak, reterr);
    if (rc < 0)
        return rc;
    engine_report_bytes(r, plan_total(&g.engine.model.plan), peak);
    return run_agree(r, r->comm->rank == 0 ? generate_report(&g, reterr) : 0, reterr);
}

int generate_plan(const struct lh_job *job, const struct engine_place *place, json_t **ret_plan,
                  struct lh_err *reterr)
{
    LH_CLEANUP(generate_release) struct generate g = {.job = job};
    int rc = generate_open(&g, reterr);

    if (rc == 0)
        rc = engine_count(&g.engine, job, place, reterr);
    return rc < 0 ? rc : engine_plan_json(&g.engine, job, 1, ret_plan, reterr);
}

/* ---- opening ---- */

static int encode_prompt(struct generate *g, unsigned i, struct lh_err *reterr)
{
    const char *text = g->job->generate.prompts.at[i];
    struct token_list *ids = &g->prompts[i];
    int64_t bos = tokenizer_bos(g->tokenizer), most;
    char at[64];
    int rc = tokenizer_encode(g->tokenizer, text, strlen(text), true, ids, reterr);

    (void)snprintf(at, sizeof(at), "/generate/prompts/%u", i);
    if (rc == 0 && tokenizer_adds_bos(g->tokenizer) && (ids->n == 0 || ids->at[0] != bos)) {
        rc = token_list_append(ids, 0);
        if (rc == 0) {
            memmove(ids->at + 1, ids->at, (ids->n - 1) * sizeof(*ids->at));
            ids->at[0] = (int32_t)bos;
        }
    }
    if (rc < 0)
        return rc;
    if (ids->n == 0)
        return lh_err_at(reterr, LH_EJOB, at,
                         "the prompt comes to no token of this model's vocabulary");
    if (g->limit > 0 && (int64_t)ids->n >= g->limit)
        return lh_err_at(reterr, LH_EJOB, at,
                         "the prompt has %zu tokens, which leaves no room for a text within "
                         "context.length %lld; shorten it or give a longer context",
                         ids->n, (long long)g->limit);
    most = (int64_t)ids->n + g->job->generate.max_tokens;
    if (g->limit > 0)
        most = LH_MIN(most, g->limit);
    g->longest = LH_MAX(g->longest, (int64_t)ids->n);
    g->capacity = LH_MAX(g->capacity, most);
    return 0;
}

static int open_prompts(struct generate *g, struct lh_err *reterr)
{
    unsigned n = g->job->generate.prompts.n;
    int rc = 0;

    g->prompts = calloc(n, sizeof(*g->prompts));
    g->texts = calloc(n, sizeof(*g->texts));
    if (!g->prompts || !g->texts)
        return lh_err_set(reterr, -ENOMEM, "prompts");
    g->n = n;
    for (unsigned i = 0; rc == 0 && i < n; i++)
        rc = encode_prompt(g, i, reterr);
    return rc;
}

static int open_tokenizer(struct generate *g, struct lh_err *reterr)
{
    int rc = tokenizer_open(g->engine.base_path, &g->tokenizer, reterr);

    if (rc == 0 && tokenizer_vocab(g->tokenizer) > g->engine.config->vocab)
        rc = lh_err_set(reterr, LH_EINPUT,
                        "the tokenizer of '%s' has %lld tokens, the model's embedding only %lld "
                        "rows",
                        g->engine.base_path, (long long)tokenizer_vocab(g->tokenizer),
                        (long long)g->engine.config->vocab);
    if (rc < 0 && reterr && !*reterr->pointer)
        (void)snprintf(reterr->pointer, sizeof(reterr->pointer), "/model/base");
    return rc;
}

static int generate_open(struct generate *g, struct lh_err *reterr)
{
    struct engine_need need = {.dtype = g->job->precision == LH_FP32 ? KN_F32 : KN_BF16};
    int rc = engine_open_finished(g->job, &g->engine, reterr);

    g->limit = g->job->context.length;
    if (rc == 0)
        rc = open_tokenizer(g, reterr);
    if (rc == 0)
        rc = stops_find(&g->stops, g->engine.base_path, g->engine.config, g->tokenizer, reterr);
    if (rc == 0)
        rc = open_prompts(g, reterr);
    if (rc < 0)
        return rc;
    need.tokens = LH_MIN(g->longest, (int64_t)GENERATE_CHUNK);
    need.positions = need.cache = g->capacity;
    return engine_model(&g->engine, &need, reterr);
}

static void warn_beyond(struct generate *g)
{
    char text[200];

    if (g->run->comm->rank != 0 || g->capacity <= g->engine.length)
        return;
    (void)snprintf(text, sizeof(text),
                   "a text may reach %lld tokens, and the positions of this model are for %lld; "
                   "what it writes beyond may be of no use",
                   (long long)g->capacity, (long long)g->engine.length);
    lh_warn("generate.beyond_context", "text=\"%s\"", text);
    lh_report(g->run->reporter, "warning",
              json_pack("{s:s, s:s}", "code", "beyond_context", "text", text));
}

static int generate_ready(struct generate *g, struct lh_err *reterr)
{
    const struct lh_job *job = g->job;
    int64_t V = g->engine.config->vocab;
    int rc;

    warn_beyond(g);
    g->logits = malloc((size_t)V * sizeof(*g->logits));
    g->sampler = (struct sampler){.temperature = job->generate.temperature,
                                  .top_p = job->generate.top_p,
                                  .seed = job->generate.seed,
                                  /* Rows beyond the vocabulary are no tokens; never drawn. */
                                  .V = tokenizer_vocab(g->tokenizer)};
    rc = g->logits ? sampler_init(&g->sampler, reterr) : lh_err_set(reterr, -ENOMEM, "logits");
    if (rc == 0)
        rc = engine_load(&g->engine, g->run, reterr);
    g->cache.model = &g->engine.model;
    for (unsigned i = (unsigned)g->run->comm->rank; i < g->n; i += (unsigned)g->run->comm->size)
        g->of += (int64_t)g->prompts[i].n + job->generate.max_tokens;
    return rc;
}

/* ---- writing a text ---- */

static int read_prompt(struct generate *g, unsigned i, struct lh_err *reterr)
{
    const struct token_list *ids = &g->prompts[i];
    int64_t T = g->engine.model.dims.T, n = (int64_t)ids->n;
    uint64_t begun = lh_mono_ns();
    int rc = 0;

    cache_rewind(&g->cache, 0);
    engine_piece(&g->engine, "generate", g->done, n, g->of,
                 g->engine.config->n_layers * ((n + T - 1) / T));
    for (int64_t at = 0; rc == 0 && at < n; at += T) {
        int64_t piece = LH_MIN(T, n - at);

        rc = cache_append(&g->cache, ids->at + at, piece, at + piece == n ? g->logits : NULL,
                          reterr);
        if (rc == 0 && run_stopping(g->run))
            rc = lh_err_set(reterr, LH_ESTOPPED, "stopped while generating");
    }
    engine_piece(&g->engine, NULL, 0, 0, 0, 1);
    g->read += n;
    g->read_s += (double)(lh_mono_ns() - begun) * 1e-9;
    return rc;
}

/* Ids behind prompt i into g->out. */
static int write_text(struct generate *g, unsigned i, enum ended *ret_ended, struct lh_err *reterr)
{
    int64_t n = (int64_t)g->prompts[i].n;
    int rc = 0;

    g->out.n = 0;
    for (;;) {
        int32_t id = sampler_next(&g->sampler, g->logits, i, g->out.n);

        if (id < 0)
            return lh_err_set(reterr, LH_ENONFINITE,
                              "the logits of token %zu behind prompt %u are not finite", g->out.n,
                              i);
        *ret_ended = ENDED_EOS;
        if (stops_has(&g->stops, id))
            return 0;
        rc = token_list_append(&g->out, id);
        if (rc < 0)
            return lh_err_set(reterr, rc, "a text");
        run_phase(g->run, "generate", g->done + n + (int64_t)g->out.n, g->of, "tokens");
        *ret_ended = ENDED_MAX_TOKENS;
        if ((int64_t)g->out.n == g->job->generate.max_tokens)
            return 0;
        *ret_ended = ENDED_LENGTH;
        if (n + (int64_t)g->out.n == g->limit)
            return 0;
        if (run_stopping(g->run))
            return lh_err_set(reterr, LH_ESTOPPED, "stopped while generating");
        rc = cache_append(&g->cache, &id, 1, g->logits, reterr);
        if (rc < 0)
            return rc;
    }
}

/* What stands behind prompt i. Decoded with the prompt before it: SentencePiece takes off the space
 * that a text begins with, and this one does not begin there. */
static int decode_text(struct generate *g, unsigned i, struct text *ret, struct lh_err *reterr)
{
    const struct token_list *prompt = &g->prompts[i];
    size_t n = prompt->n + g->out.n, before_len = 0, len = 0;
    int32_t *ids = malloc(n * sizeof(*ids));
    char *before = NULL, *all = NULL;
    int rc = ids ? 0 : lh_err_set(reterr, -ENOMEM, "a text");

    if (rc == 0) {
        memcpy(ids, prompt->at, prompt->n * sizeof(*ids));
        if (g->out.n > 0)
            memcpy(ids + prompt->n, g->out.at, g->out.n * sizeof(*ids));
        rc = tokenizer_decode(g->tokenizer, ids, prompt->n, &before, &before_len, reterr);
    }
    if (rc == 0)
        rc = tokenizer_decode(g->tokenizer, ids, n, &all, &len, reterr);
    if (rc == 0) {
        assert(len >= before_len);
        ret->text = utf8_lossy(all + before_len, len - before_len, &len);
        ret->len = (int64_t)len;
        if (!ret->text)
            rc = lh_err_set(reterr, -ENOMEM, "a text");
    }
    free(ids);
    free(before);
    free(all);
    return rc;
}

static int generate_answer(struct generate *g, unsigned i, struct lh_err *reterr)
{
    struct text *a = &g->texts[i];
    enum ended ended = ENDED_EOS;
    uint64_t begun;
    int rc = read_prompt(g, i, reterr);

    begun = lh_mono_ns();
    if (rc == 0)
        rc = write_text(g, i, &ended, reterr);
    if (rc == 0)
        rc = decode_text(g, i, a, reterr);
    if (rc < 0)
        return rc;
    a->tokens = (int64_t)g->out.n;
    a->prompt_tokens = (int64_t)g->prompts[i].n;
    a->ended = ended;
    g->written += a->tokens;
    g->write_s += (double)(lh_mono_ns() - begun) * 1e-9;
    g->done += a->prompt_tokens + g->job->generate.max_tokens;
    return 0;
}

static int generate_report(struct generate *g, struct lh_err *reterr)
{
    double read_rate = g->read_s > 0 ? (double)g->read / g->read_s : 0;
    double write_rate = g->write_s > 0 ? (double)g->written / g->write_s : 0;
    int rc = texts_report(g->run, g->texts, g->n, reterr);

    (void)json_object_set_new(g->run->result, "prompt_tokens_per_s", json_real(read_rate));
    (void)json_object_set_new(g->run->result, "tokens_per_s", json_real(write_rate));
    lh_info("generate.done", "prompts=%u prompt_tokens_per_s=%.1f tokens_per_s=%.1f", g->n,
            read_rate, write_rate);
    return rc;
}
