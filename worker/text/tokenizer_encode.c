/* tokenizer_encode.c - text to ids: added tokens out first, the rest cut into words, each word
 * merged. */
#include "proto/base/err.h"
#include "worker/text/pieces.h"
#include "worker/text/tokenizer_parts.h"
#include "worker/text/utf8.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_WORTH_BYTES 4096 /* shorter texts do not pay for setting up the cache */

struct encoding {
    const struct tokenizer *t;
    struct tokenizer_scratch *s;
    struct token_list *ids;
    struct lh_err *reterr;
    const struct tokenizer_part *part;
    const char *start; /* of the whole text */
};

static struct tokenizer_scratch *scratch_new(bool with_cache)
{
    struct tokenizer_scratch *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->pretok = pretok_scratch_new();
    s->bpe = bpe_scratch_new(with_cache);
    if (!s->pretok || !s->bpe) {
        tokenizer_scratch_free(s);
        return NULL;
    }
    return s;
}

struct tokenizer_scratch *tokenizer_scratch_new(void)
{
    return scratch_new(true);
}

void tokenizer_scratch_free(struct tokenizer_scratch *s)
{
    if (!s)
        return;
    pretok_scratch_free(s->pretok);
    bpe_scratch_free(s->bpe);
    free(s->word);
    free(s);
}

static int on_word(void *arg, const char *word, size_t n)
{
    struct encoding *e = arg;
    int rc = bpe_word(&e->t->bpe, e->s->bpe, word, n, e->ids);

    return rc < 0 ? lh_err_set(e->reterr, rc, "encode") : 0;
}

static bool wanted(const struct encoding *e, const struct added_token *token)
{
    if (token->special && !e->part->special)
        return false;
    for (unsigned i = 0; i < e->part->n_never; i++) {
        if (e->part->never[i] == token->id)
            return false;
    }
    return true;
}

/* A space goes before every part but one that other text stands right before. */
static int encode_pieces(struct encoding *e, const char *text, size_t n)
{
    bool prefix = !(e->part->continues && text == e->start);
    int rc = pieces_encode(e->t, e->s, text, n, prefix, e->ids);

    return rc < 0 ? lh_err_set(e->reterr, rc, "encode") : 0;
}

/* Cuts at the added tokens of this pass; what lies between goes to the next pass, in the end to the
 * words. */
static int encode_part(struct encoding *e, unsigned pass, const char *text, size_t n)
{
    const struct added_set *set = &e->t->added[pass];
    const struct added_token *token;
    size_t done = 0, from = 0, at;
    int rc = 0;

    if (n == 0)
        return 0;
    if (pass == ADDED_PASSES && e->t->pieces)
        return encode_pieces(e, text, n);
    if (pass == ADDED_PASSES)
        return pretok_cut(&e->t->pretok, e->s->pretok, text, n, on_word, e, e->reterr);
    while (rc == 0 && (token = added_next(set, text, from, n, &at)) != NULL) {
        size_t begin = at, end = at + token->len;

        from = end;
        if (!wanted(e, token))
            continue;
        if (at < done) /* white space that the token before has taken */
            continue;
        if (token->left_strip)
            begin -= utf8_spaces_at_end(text + done, begin - done);
        if (token->right_strip)
            end += utf8_spaces_at_start(text + end, n - end);
        rc = encode_part(e, pass + 1, text + done, begin - done);
        if (rc == 0 && token_list_append(e->ids, token->id) < 0)
            rc = lh_err_set(e->reterr, -ENOMEM, "encode");
        done = end;
    }
    return rc < 0 ? rc : encode_part(e, pass + 1, text + done, n - done);
}

int tokenizer_encode_part(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text,
                          size_t len, const struct tokenizer_part *part, struct token_list *ids,
                          struct lh_err *reterr)
{
    struct encoding e = {t, s, ids, reterr, part, text};
    size_t before = ids->n, valid = utf8_valid_prefix(text, len);
    int rc;

    if (valid < len)
        return lh_err_set(reterr, LH_EINPUT, "the text is not valid UTF-8 at byte %zu", valid);
    rc = encode_part(&e, 0, text, len);
    if (rc < 0)
        ids->n = before;
    return rc;
}

int tokenizer_encode_with(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text,
                          size_t len, bool special, struct token_list *ids, struct lh_err *reterr)
{
    const struct tokenizer_part part = {.special = special};

    return tokenizer_encode_part(t, s, text, len, &part, ids, reterr);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool special,
                     struct token_list *ids, struct lh_err *reterr)
{
    struct tokenizer_scratch *s = scratch_new(len >= CACHE_WORTH_BYTES);
    int rc;

    if (!s)
        return lh_err_set(reterr, -ENOMEM, "encode");
    rc = tokenizer_encode_with(t, s, text, len, special, ids, reterr);
    tokenizer_scratch_free(s);
    return rc;
}

/* Files do not always say of a control token that it is special. */
static bool is_control(const struct added_token *token)
{
    char first = token->text[0], last = token->text[token->len - 1];

    return token->special || (token->len > 2 && !strpbrk(token->text, " \t\r\n") &&
                              ((first == '<' && last == '>') || (first == '[' && last == ']')));
}

int64_t tokenizer_find_control(const struct tokenizer *t, const char *text, size_t len,
                               size_t *ret_at, size_t *ret_len)
{
    const struct added_token *best = NULL;
    size_t best_at = len;

    for (unsigned pass = 0; pass < ADDED_PASSES; pass++) {
        const struct added_token *token;
        size_t from = 0, at;

        while ((token = added_next(&t->added[pass], text, from, len, &at)) != NULL) {
            if (is_control(token)) {
                if (!best || at < best_at || (at == best_at && token->len > best->len)) {
                    best = token;
                    best_at = at;
                }
                break;
            }
            from = at + token->len;
        }
    }
    if (!best)
        return -1;
    *ret_at = best_at;
    *ret_len = best->len;
    return best->id;
}
