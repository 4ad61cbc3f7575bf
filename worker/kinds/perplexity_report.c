/* perplexity_report.c - losses of held-out windows, shown: events, the result, and lines for
 * people; see perplexity.h. */
#include "proto/base/str.h"
#include "worker/kinds/perplexity.h"
#include <stdio.h>

#define LABEL_WIDTH 16

static const char *mode_name(enum lh_eval_mode mode)
{
    static const char *const names[] = {[LH_EVAL_PREFIXES] = "prefixes",
                                        [LH_EVAL_STRIDE] = "stride",
                                        [LH_EVAL_COMPATIBLE] = "compatible",
                                        [LH_EVAL_SLIDING] = "sliding"};

    return names[mode];
}

static int64_t band_begin(const struct perplexity *p, int64_t i)
{
    return p->length * i / LH_MIN(p->n_bands, p->length);
}

static json_t *bands_json(const struct perplexity *p)
{
    json_t *bands = json_array();

    for (int64_t i = 0; i < LH_MIN(p->n_bands, p->length); i++) {
        int64_t begin = band_begin(p, i), end = band_begin(p, i + 1);

        (void)json_array_append_new(bands, json_pack("{s:I, s:I, s:f}", "begin", (json_int_t)begin,
                                                     "end", (json_int_t)end, "nll",
                                                     perplexity_band(p, begin, end)));
    }
    return bands;
}

void perplexity_report(struct run *r, const struct perplexity *p, int64_t step, const char *rope)
{
    for (unsigned l = 0; r->comm->rank == 0 && l < p->n_lengths; l++) {
        json_t *event = json_pack("{s:I, s:s, s:s, s:I, s:f, s:f, s:I}", "step", (json_int_t)step,
                                  "file", "", "mode", mode_name(p->mode), "length",
                                  (json_int_t)p->lengths[l], "perplexity", perplexity_of(p, l),
                                  "nll", perplexity_loss(p, l), "tokens", (json_int_t)p->at[l].n);

        if (rope)
            (void)json_object_set_new(event, "rope", json_string(rope));
        if (p->lengths[l] == p->length && p->mode != LH_EVAL_SLIDING)
            (void)json_object_set_new(event, "bands", bands_json(p));
        lh_report(r->reporter, "eval", event);
    }
}

json_t *perplexity_json(const struct perplexity *p)
{
    json_t *lengths = json_array(), *all;

    for (unsigned l = 0; l < p->n_lengths; l++)
        (void)json_array_append_new(
            lengths,
            json_pack("{s:I, s:f, s:f, s:I, s:I}", "length", (json_int_t)p->lengths[l], "nll",
                      perplexity_loss(p, l), "perplexity", perplexity_of(p, l), "windows",
                      (json_int_t)p->at[l].windows, "tokens", (json_int_t)p->at[l].n));
    all = json_pack("{s:s, s:I, s:I, s:s, s:o}", "mode", mode_name(p->mode), "windows",
                    (json_int_t)p->windows, "length", (json_int_t)p->length, "attention",
                    p->group > 0 ? "s2" : "full", "lengths", lengths);
    if (p->mode != LH_EVAL_PREFIXES)
        (void)json_object_set_new(all, "stride", json_integer((json_int_t)p->stride));
    if (p->mode != LH_EVAL_SLIDING)
        (void)json_object_set_new(all, "bands", bands_json(p));
    return all;
}

static void print_lengths(const struct perplexity *p, const char *const *labels, unsigned n)
{
    (void)printf("perplexity by length of context (mode %s, %s attention, %lld windows of %lld "
                 "tokens)\n%-*s",
                 mode_name(p->mode), p->group > 0 ? "s2" : "full", (long long)p->windows,
                 (long long)p->length, LABEL_WIDTH, "");
    for (unsigned l = 0; l < p->n_lengths; l++)
        (void)printf(" %9lld", (long long)p->lengths[l]);
    for (unsigned i = 0; i < n; i++) {
        (void)printf("\n%-*s", LABEL_WIDTH, labels[i]);
        for (unsigned l = 0; l < p->n_lengths; l++)
            (void)printf(" %9.3f", perplexity_of(&p[i], l));
    }
    (void)printf("\n");
}

static void print_bands(const struct perplexity *p, const char *const *labels, unsigned n)
{
    int64_t n_bands = LH_MIN(p->n_bands, p->length);

    (void)printf("loss in nats a token by position, up to\n%-*s", LABEL_WIDTH, "");
    for (int64_t i = 0; i < n_bands; i++)
        (void)printf(" %9lld", (long long)band_begin(p, i + 1));
    for (unsigned k = 0; k < n; k++) {
        (void)printf("\n%-*s", LABEL_WIDTH, labels[k]);
        for (int64_t i = 0; i < n_bands; i++)
            (void)printf(" %9.3f", perplexity_band(&p[k], band_begin(p, i), band_begin(p, i + 1)));
    }
    (void)printf("\n");
}

void perplexity_print(const struct perplexity *p, const char *const *labels, unsigned n)
{
    print_lengths(p, labels, n);
    if (p->mode != LH_EVAL_SLIDING)
        print_bands(p, labels, n);
    (void)fflush(stdout);
}
