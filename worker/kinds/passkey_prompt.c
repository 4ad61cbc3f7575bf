/* passkey_prompt.c - see passkey_prompt.h. */
#include "worker/kinds/passkey_prompt.h"
#include "proto/base/buf.h"
#include "worker/model/counter.h"
#include <errno.h>
#include <math.h>
#include <string.h>

#define TEXT_MAX ((size_t)1 << 30)
#define TASK                                                                                       \
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "     \
    "them. I will quiz you about the important information there."
#define FILLER                                                                                     \
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
#define QUESTION "What is the pass key? The pass key is"
#define SAMPLE 32 /* sentences that tell what a sentence takes */

/* What is fixed about a prompt while its filler is fitted. */
struct making {
    const struct tokenizer *t;
    double depth;
    int64_t number;
};

void passkey_prompt_release(struct passkey_prompt *p)
{
    token_list_release(&p->ids);
    token_list_release(&p->answer);
    *p = (struct passkey_prompt){0};
}

int64_t passkey_number(uint64_t seed, int64_t trial)
{
    return 10000 + (int64_t)(counter_bits(seed, (uint64_t)trial, 0) % 90000);
}

static int put_filler(struct lh_buf *b, int64_t sentences)
{
    int rc = 0;

    for (int64_t i = 0; i < sentences && rc == 0; i++)
        rc = lh_buf_printf(b, "%s%s", i > 0 ? " " : "", FILLER);
    return rc;
}

static int put_text(struct lh_buf *b, const struct making *m, const struct passkey_prompt *p,
                    bool answered)
{
    int rc = lh_buf_printf(b, "%s\n", TASK);

    if (rc == 0)
        rc = put_filler(b, p->before);
    if (rc == 0)
        rc = lh_buf_printf(b, "\nThe pass key is %lld. Remember it. %lld is the pass key.\n",
                           (long long)m->number, (long long)m->number);
    if (rc == 0)
        rc = put_filler(b, p->after);
    if (rc == 0)
        rc = lh_buf_printf(b, "\n%s", QUESTION);
    return rc == 0 && answered ? lh_buf_printf(b, " %lld", (long long)m->number) : rc;
}

static int encode(const struct making *m, const struct passkey_prompt *p, bool answered,
                  struct token_list *ids, struct lh_err *reterr)
{
    int64_t bos = tokenizer_adds_bos(m->t) ? tokenizer_bos(m->t) : -1;
    struct lh_buf text;
    int rc;

    lh_buf_init(&text, TEXT_MAX);
    ids->n = 0;
    rc = put_text(&text, m, p, answered);
    if (rc == 0 && bos >= 0)
        rc = token_list_append(ids, (int32_t)bos);
    if (rc < 0)
        rc = lh_err_set(reterr, rc, "a passkey prompt");
    else
        rc = tokenizer_encode(m->t, (const char *)text.data, text.len, false, ids, reterr);
    lh_buf_release(&text);
    return rc;
}

/* Tokens of prompt and answer with so many sentences; p's own are set. */
static int measure(const struct making *m, int64_t sentences, struct passkey_prompt *p,
                   int64_t *ret_tokens, struct lh_err *reterr)
{
    int rc;

    p->before = (int64_t)llround(m->depth * (double)sentences);
    p->after = sentences - p->before;
    rc = encode(m, p, true, &p->ids, reterr);
    *ret_tokens = (int64_t)p->ids.n;
    return rc;
}

/* As many sentences as fit: guessed from a sample, then put right by counting. */
static int fit(const struct making *m, int64_t length, struct passkey_prompt *p,
               struct lh_err *reterr)
{
    int64_t bare = 0, sample = 0, tokens = 0, n = 0;
    int rc = measure(m, 0, p, &bare, reterr);

    if (rc == 0 && bare > length)
        return lh_err_set(reterr, LH_EJOB,
                          "a passkey prompt of %lld tokens has no room: without any filler prompt "
                          "and answer take %lld",
                          (long long)length, (long long)bare);
    if (rc == 0)
        rc = measure(m, SAMPLE, p, &sample, reterr);
    if (rc < 0)
        return rc;
    if (sample <= bare)
        return lh_err_set(reterr, LH_EINPUT, "the tokenizer makes nothing of the filler text");
    n = (length - bare) * SAMPLE / (sample - bare);
    do {
        rc = measure(m, ++n, p, &tokens, reterr);
    } while (rc == 0 && tokens <= length);
    while (rc == 0 && tokens > length)
        rc = measure(m, --n, p, &tokens, reterr);
    return rc;
}

/* The answer is what follows where the texts with and without it part. */
static int split(const struct making *m, struct passkey_prompt *p, struct lh_err *reterr)
{
    struct token_list asked = {0};
    size_t same = 0;
    int rc = encode(m, p, false, &asked, reterr);

    while (rc == 0 && same < asked.n && same < p->ids.n && asked.at[same] == p->ids.at[same])
        same++;
    for (size_t i = same; rc == 0 && i < p->ids.n; i++)
        rc = token_list_append(&p->answer, p->ids.at[i]);
    p->ids.n = same;
    token_list_release(&asked);
    return rc == -ENOMEM ? lh_err_set(reterr, rc, "a passkey prompt") : rc;
}

int passkey_prompt_make(const struct tokenizer *t, int64_t length, double depth, int64_t number,
                        struct passkey_prompt *ret, struct lh_err *reterr)
{
    const struct making m = {t, depth, number};
    struct passkey_prompt p = {0};
    int rc = fit(&m, length, &p, reterr);

    if (rc == 0)
        rc = split(&m, &p, reterr);
    if (rc < 0) {
        passkey_prompt_release(&p);
        return rc;
    }
    *ret = p;
    return 0;
}
