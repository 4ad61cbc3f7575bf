/* tokenizer.c - see tokenizer.h: opening, what the loaders share, decoding. Encoding is in
 * tokenizer_encode.c. */
#include "worker/text/tokenizer.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include "worker/formats/source.h"
#include "worker/text/spm.h"
#include "worker/text/tokenizer_parts.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MERGE_SIDE_MAX 4096 /* bytes of the letters of one side */

void token_list_release(struct token_list *l)
{
    free(l->at);
    *l = (struct token_list){NULL, 0, 0};
}

int token_list_append(struct token_list *l, int32_t id)
{
    if (token_list_reserve(l, 1) < 0)
        return -ENOMEM;
    l->at[l->n++] = id;
    return 0;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    vocab_release(&t->vocab);
    bpe_release(&t->bpe);
    pretok_release(&t->pretok);
    spm_free(t->spm);
    for (unsigned i = 0; i < ADDED_PASSES; i++)
        added_release(&t->added[i]);
    free(t);
}
LH_DEFINE_FREEP(struct tokenizer *, tokenizer_free)

void tokenizer_feed(struct tokenizer *t, const char *tag, const void *bytes, size_t n)
{
    uint64_t len = n;

    lh_sha256_update(&t->hash, tag, strlen(tag));
    lh_sha256_update(&t->hash, &len, sizeof(len));
    lh_sha256_update(&t->hash, bytes, n);
}

int tokenizer_step(struct tokenizer *t, const char *pattern, bool literal, bool keep_matches,
                   bool keep_gaps, struct lh_err *reterr)
{
    char flags[3] = {(char)literal, (char)keep_matches, (char)keep_gaps};

    for (const char *c = pattern; *c; c++)
        t->steps_hash = (t->steps_hash ^ (uint8_t)*c) * 0x100000001b3u;
    for (unsigned i = 0; i < sizeof(flags); i++)
        t->steps_hash = (t->steps_hash ^ (uint8_t)(flags[i] + 1)) * 0x100000001b3u;
    tokenizer_feed(t, "step", pattern, strlen(pattern));
    tokenizer_feed(t, "flags", flags, sizeof(flags));
    return pretok_add(&t->pretok, pattern, literal, keep_matches, keep_gaps, reterr);
}

int tokenizer_put(struct tokenizer *t, int64_t id, const char *token, size_t len, bool text,
                  struct lh_err *reterr)
{
    int rc;

    if (!lh_utf8_valid(token, len))
        return lh_err_set(reterr, LH_EINPUT, "token %lld is not valid UTF-8", (long long)id);
    rc = vocab_put(&t->vocab, id, token, len, text);
    if (rc == -EEXIST)
        return lh_err_set(reterr, LH_EINPUT,
                          "token id %lld is given to two tokens, one of them '%.*s'", (long long)id,
                          (int)LH_MIN(len, 64u), token);
    if (rc == -E2BIG)
        return lh_err_set(reterr, LH_EINPUT,
                          "token id %lld is not from 0 to %lld, or the vocabulary is too large",
                          (long long)id, (long long)VOCAB_MAX - 1);
    if (rc < 0)
        return lh_err_set(reterr, rc, "vocabulary");
    tokenizer_feed(t, "id", &id, sizeof(id));
    tokenizer_feed(t, text ? "text" : "token", token, len);
    return 0;
}

int tokenizer_put_added(struct tokenizer *t, unsigned pass, const char *text, size_t len,
                        const struct added_token *like, struct lh_err *reterr)
{
    bool known;
    int rc;

    if (len == 0)
        return lh_err_set(reterr, LH_EINPUT, "added token %d is empty", like->id);
    /* A token that the vocabulary has already is written in letters there. */
    known = like->id < t->vocab.n && t->vocab.tokens[like->id].kind != TOKEN_NONE;
    rc = tokenizer_put(t, like->id, text, len, !known, reterr);
    if (rc < 0)
        return rc;
    tokenizer_feed(t, "added", &pass, sizeof(pass));
    tokenizer_feed(t, "special", &like->special, sizeof(bool));
    tokenizer_feed(t, "left", &like->left_strip, sizeof(bool));
    tokenizer_feed(t, "right", &like->right_strip, sizeof(bool));
    t->vocab.tokens[like->id].special = like->special;
    rc = added_put(&t->added[pass], text, len, like);
    return rc < 0 ? lh_err_set(reterr, rc, "added tokens") : 0;
}

int tokenizer_index(struct tokenizer *t, uint64_t n_merges, struct lh_err *reterr)
{
    const struct added_token *twice;
    int64_t id = -1;
    int rc = vocab_index(&t->vocab, &id);

    if (rc == -EEXIST)
        return lh_err_set(reterr, LH_EINPUT, "token id %lld has the same text as a token before it",
                          (long long)id);
    for (unsigned i = 0; i < ADDED_PASSES && rc == 0; i++) {
        rc = added_ready(&t->added[i], &twice);
        if (rc == -EEXIST)
            return lh_err_set(reterr, LH_EINPUT, "the added token '%.64s' stands twice",
                              twice->text);
    }
    if (rc == 0)
        rc = n_merges > UINT32_MAX / 4 ? -E2BIG : bpe_init(&t->bpe, &t->vocab, n_merges);
    if (rc < 0)
        return lh_err_set(reterr, rc, "vocabulary");
    t->bpe.whole_words = t->whole_words ? &t->vocab : NULL;
    tokenizer_feed(t, "whole_words", &t->whole_words, sizeof(bool));
    return 0;
}

int tokenizer_merge(struct tokenizer *t, const char *left, size_t left_len, const char *right,
                    size_t right_len, struct lh_err *reterr)
{
    char both[2 * MERGE_SIDE_MAX];
    int64_t l = -1, r = -1;
    int32_t left_id = -1, right_id = -1, id = -1;

    if (left_len <= MERGE_SIDE_MAX && right_len <= MERGE_SIDE_MAX &&
        lh_utf8_valid(left, left_len) && lh_utf8_valid(right, right_len)) {
        l = vocab_letters(left, left_len, both);
        r = l < 0 ? -1 : vocab_letters(right, right_len, both + l);
    }
    if (l > 0 && r > 0) {
        left_id = vocab_find(&t->vocab, both, (size_t)l);
        right_id = vocab_find(&t->vocab, both + l, (size_t)r);
        id = vocab_find(&t->vocab, both, (size_t)(l + r));
    }
    if (left_id < 0 || right_id < 0 || id < 0)
        return lh_err_set(reterr, LH_EINPUT,
                          "merge %llu ('%.*s' and '%.*s') is not of tokens of the vocabulary",
                          (unsigned long long)t->bpe.n_merges, (int)LH_MIN(left_len, 64u), left,
                          (int)LH_MIN(right_len, 64u), right);
    bpe_add(&t->bpe, left_id, right_id, id);
    tokenizer_feed(t, "left", &left_id, sizeof(left_id));
    tokenizer_feed(t, "right", &right_id, sizeof(right_id));
    return 0;
}

/* <|endoftext|> as a token of its own, else the end of text that the files name. */
static int64_t find_separator(const struct tokenizer *t)
{
    static const char name[] = "<|endoftext|>";

    for (unsigned pass = 0; pass < ADDED_PASSES; pass++) {
        for (unsigned i = 0; i < t->added[pass].n; i++) {
            if (strcmp(t->added[pass].tokens[i].text, name) == 0)
                return t->added[pass].tokens[i].id;
        }
    }
    return t->eos;
}

int tokenizer_open(const char *given, struct tokenizer **ret_tokenizer, struct lh_err *reterr)
{
    LH_CLEANUP(tokenizer_freep) struct tokenizer *t = calloc(1, sizeof(*t));
    char path[1100];
    int rc;

    model_source_resolve(given, path);
    if (!t || lh_sha256_init(&t->hash) < 0)
        return lh_err_set(reterr, -ENOMEM, "open the tokenizer of '%s'", path);
    t->bos = t->eos = -1;
    if (lh_is_dir(path))
        rc = tokenizer_load_json(t, path, reterr);
    else if (lh_ends_with(path, ".gguf"))
        rc = tokenizer_load_gguf(t, path, reterr);
    else
        rc = lh_err_set(
            reterr, LH_EINPUT,
            "'%s' is neither a directory with tokenizer.json or tokenizer.model nor a .gguf file",
            path);
    if (rc == 0) {
        t->separator = find_separator(t);
        tokenizer_feed(t, "separator", &t->separator, sizeof(t->separator));
        /* Templates put them in. */
        tokenizer_feed(t, "bos", &t->bos, sizeof(t->bos));
        tokenizer_feed(t, "eos", &t->eos, sizeof(t->eos));
        tokenizer_feed(t, "adds_bos", &t->adds_bos, sizeof(t->adds_bos));
    }
    lh_sha256_final(&t->hash, t->digest);
    if (rc < 0)
        return rc;
    *ret_tokenizer = t;
    t = NULL;
    return 0;
}

int64_t tokenizer_vocab(const struct tokenizer *t)
{
    return t->vocab.n;
}

int64_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int64_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->adds_bos && t->bos >= 0;
}

int64_t tokenizer_separator(const struct tokenizer *t)
{
    return t->separator;
}

bool tokenizer_cuts_at_spaces(const struct tokenizer *t)
{
    for (unsigned pass = 0; pass < ADDED_PASSES; pass++) {
        for (unsigned i = 0; i < t->added[pass].n; i++) {
            const struct added_token *a = &t->added[pass].tokens[i];

            if (a->left_strip || a->right_strip || memchr(a->text, ' ', a->len))
                return false;
        }
    }
    return t->pieces ? t->cuts_words : pretok_cuts_at_spaces(&t->pretok);
}

bool tokenizer_cuts_at_lines(const struct tokenizer *t)
{
    for (unsigned pass = 0; pass < ADDED_PASSES; pass++) {
        for (unsigned i = 0; i < t->added[pass].n; i++) {
            if (memchr(t->added[pass].tokens[i].text, '\n', t->added[pass].tokens[i].len))
                return false;
        }
    }
    return !t->pieces && tokenizer_cuts_at_spaces(t);
}

void tokenizer_digest(const struct tokenizer *t, char ret_hex[static 65])
{
    memcpy(ret_hex, t->digest, LH_SHA256_HEX);
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, char **ret_text,
                     size_t *ret_len, struct lh_err *reterr)
{
    size_t len = 0;
    char *text;

    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->vocab.n)
            return lh_err_set(reterr, LH_EINPUT, "token id %d at place %zu is not below %lld",
                              ids[i], i, (long long)t->vocab.n);
        len += t->vocab.tokens[ids[i]].len; /* 0 for an id that no token has */
    }
    text = malloc(len + 1);
    if (!text)
        return lh_err_set(reterr, -ENOMEM, "decode %zu tokens", n);
    len = 0;
    for (size_t i = 0; i < n; i++) {
        const struct vocab_token *token = &t->vocab.tokens[ids[i]];

        if (token->kind == TOKEN_NONE)
            continue;
        memcpy(text + len, t->vocab.bytes + token->at, token->len);
        len += token->len;
    }
    if (t->pieces && t->space_prefix && len > 0 && text[0] == ' ') /* encoding has put it there */
        memmove(text, text + 1, --len);
    text[len] = '\0';
    *ret_text = text;
    *ret_len = len;
    return 0;
}
