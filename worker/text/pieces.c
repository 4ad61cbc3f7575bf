/* pieces.c - SentencePiece vocabularies: putting pieces in, what merges follow from their scores,
 * and encoding word by word.
 *
 * A space is U+2581 in the files and a space here. No piece of a usual model has a space behind
 * another character, so nothing is merged across the start of a run of spaces: texts are cut there,
 * and words are remembered. A model with other pieces is encoded whole.
 */
#include "worker/text/pieces.h"
#include "worker/text/utf8.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOW_LINE "\xe2\x96\x81" /* U+2581 */

/* Copies text with spaces for U+2581; returns the length. out has room for n. */
static size_t with_spaces(const char *text, size_t n, char *out)
{
    size_t at = 0, m = 0;

    while (at < n) {
        if (n - at >= 3 && memcmp(text + at, LOW_LINE, 3) == 0) {
            out[m++] = ' ';
            at += 3;
        } else {
            out[m++] = text[at++];
        }
    }
    return m;
}

static int put_byte(struct tokenizer *t, int64_t id, const char *piece, size_t len,
                    struct lh_err *reterr)
{
    char byte, name[8];
    unsigned value;

    if (len != 6 || sscanf(piece, "<0x%2X>", &value) != 1 ||
        snprintf(name, sizeof(name), "<0x%02X>", value) != 6 || memcmp(name, piece, 6) != 0)
        return lh_err_set(reterr, LH_EINPUT, "token %lld is a byte, but is written '%.*s'",
                          (long long)id, (int)LH_MIN(len, 16u), piece);
    byte = (char)value;
    t->byte_tokens[value] = (int32_t)id;
    return vocab_put(&t->vocab, id, &byte, 1, true);
}

static int put_bytes(struct tokenizer *t, int64_t id, const char *piece, size_t len, bool text)
{
    char *spaced = malloc(len + 1);
    size_t n = spaced ? with_spaces(piece, len, spaced) : 0;
    int rc = -ENOMEM;

    if (spaced)
        rc = text ? vocab_put(&t->vocab, id, spaced, n, true)
                  : vocab_put_bytes(&t->vocab, id, spaced, n);
    free(spaced);
    return rc;
}

int pieces_put(struct tokenizer *t, int64_t id, const char *piece, size_t len, enum sp_type type,
               struct lh_err *reterr)
{
    struct added_token like = {.id = (int32_t)id, .special = type != SP_USER};
    char what = (char)type;
    int rc;

    if (utf8_valid_prefix(piece, len) < len || len == 0)
        return lh_err_set(reterr, LH_EINPUT, "token %lld is %s", (long long)id,
                          len ? "not valid UTF-8" : "empty");
    tokenizer_feed(t, "id", &id, sizeof(id));
    tokenizer_feed(t, "piece", piece, len);
    tokenizer_feed(t, "type", &what, 1);
    if (type == SP_CONTROL || type == SP_UNKNOWN || type == SP_USER)
        return tokenizer_put_added(t, type == SP_USER ? 1 : 0, piece, len, &like, reterr);
    if (type == SP_BYTE)
        rc = put_byte(t, id, piece, len, reterr);
    else
        rc = put_bytes(t, id, piece, len, type == SP_UNUSED);
    if (rc == LH_EINPUT)
        return rc;
    return rc < 0 ? lh_err_set(reterr, rc == -ENOMEM ? rc : LH_EINPUT, "token %lld", (long long)id)
                  : 0;
}

/* ---- merges ---- */

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;

    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Calls bpe_add_ranked for the ways to make the piece out of two others (add false: only counts).
 */
static uint64_t splits_of(struct tokenizer *t, int32_t id, uint32_t rank, bool add)
{
    const char *piece = vocab_bytes(&t->vocab, id);
    size_t len = t->vocab.tokens[id].len;
    uint64_t n = 0;
    uint32_t code;

    for (size_t at = utf8_char(piece, &code); at < len; at += utf8_char(piece + at, &code)) {
        int32_t left = vocab_find(&t->vocab, piece, at);
        int32_t right = vocab_find(&t->vocab, piece + at, len - at);

        if (left < 0 || right < 0)
            continue;
        n++;
        if (add)
            bpe_add_ranked(&t->bpe, left, right, id, rank);
    }
    return n;
}

static bool is_piece(const struct tokenizer *t, int64_t id)
{
    return t->vocab.tokens[id].kind == TOKEN_BYTES;
}

/* Pieces of one score have one rank: the leftmost pair goes first, as in SentencePiece. */
static int add_merges(struct tokenizer *t, const float *scores, struct lh_err *reterr)
{
    struct scored *list = malloc((size_t)t->vocab.n * sizeof(*list));
    uint32_t rank = 0;
    size_t n = 0;
    int rc = 0;

    if (!list)
        return lh_err_set(reterr, -ENOMEM, "vocabulary");
    for (int64_t id = 0; id < t->vocab.n && rc == 0; id++) {
        if (!is_piece(t, id))
            continue;
        if (!isfinite(scores[id]))
            rc = lh_err_set(reterr, LH_EINPUT, "the score of token %lld is not finite",
                            (long long)id);
        list[n++] = (struct scored){scores[id], (int32_t)id};
    }
    if (rc == 0 && n > 0)
        qsort(list, n, sizeof(*list), by_score);
    for (size_t i = 0; i < n && rc == 0; i++) {
        rank += i > 0 && list[i].score != list[i - 1].score;
        (void)splits_of(t, list[i].id, rank, true);
    }
    free(list);
    return rc;
}

static bool cuts_words(const struct tokenizer *t)
{
    for (int64_t id = 0; id < t->vocab.n; id++) {
        const char *piece = vocab_bytes(&t->vocab, id);

        for (size_t i = 1; is_piece(t, id) && i < t->vocab.tokens[id].len; i++) {
            if (piece[i] == ' ' && piece[i - 1] != ' ')
                return false;
        }
    }
    return true;
}

int pieces_index(struct tokenizer *t, const float *scores, struct lh_err *reterr)
{
    uint64_t n_merges = 0;
    int64_t twice = -1;
    int rc = scores ? vocab_index(&t->vocab, &twice) : 0;

    for (int64_t id = 0; scores && rc == 0 && id < t->vocab.n; id++)
        n_merges += is_piece(t, id) ? splits_of(t, (int32_t)id, 0, false) : 0;
    rc = tokenizer_index(t, n_merges, reterr);
    if (rc < 0)
        return rc;
    t->cuts_words = cuts_words(t);
    if (!scores)
        return 0;
    tokenizer_feed(t, "scores", scores, (size_t)t->vocab.n * sizeof(*scores));
    memcpy(t->bpe.byte_id, t->byte_tokens, sizeof(t->bpe.byte_id));
    t->bpe.characters = &t->vocab;
    for (unsigned b = 0; b < 256; b++) {
        if (t->byte_tokens[b] < 0)
            return lh_err_set(reterr, LH_EINPUT, "it has no token for the byte 0x%02x", b);
    }
    return add_merges(t, scores, reterr);
}

/* ---- encoding ---- */

static int put_ids(void *arg, const int *ids, size_t n)
{
    struct token_list *list = arg;

    if (token_list_reserve(list, n) < 0)
        return -ENOMEM;
    if (n > 0)
        memcpy(list->at + list->n, ids, n * sizeof(*ids));
    list->n += n;
    return 0;
}

static int library_word(const void *arg, const char *word, size_t n, struct token_list *ids)
{
    const struct tokenizer *t = arg;

    return spm_encode(t->spm, word, n, false, put_ids, ids);
}

static int encode_word(const struct tokenizer *t, struct tokenizer_scratch *s, const char *word,
                       size_t n, struct token_list *ids)
{
    if (t->spm)
        return bpe_cached(s->bpe, word, n, library_word, t, ids);
    return bpe_word(&t->bpe, s->bpe, word, n, ids);
}

/* Where the word that begins at `at` ends: its spaces come first. */
static size_t word_end(const struct tokenizer *t, const char *text, size_t at, size_t n)
{
    const char *space;

    if (!t->cuts_words)
        return n;
    while (at < n && text[at] == ' ')
        at++;
    space = at < n ? memchr(text + at, ' ', n - at) : NULL;
    return space ? (size_t)(space - text) : n;
}

/* The first word with the space before it. */
static int encode_first(const struct tokenizer *t, struct tokenizer_scratch *s, const char *word,
                        size_t n, struct token_list *ids)
{
    if (n + 1 > s->word_cap) {
        char *more = realloc(s->word, n + 64);

        if (!more)
            return -ENOMEM;
        s->word = more;
        s->word_cap = n + 64;
    }
    s->word[0] = ' ';
    memcpy(s->word + 1, word, n);
    return encode_word(t, s, s->word, n + 1, ids);
}

static int encode_words(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text,
                        size_t n, bool prefix, struct token_list *ids)
{
    size_t end = word_end(t, text, 0, n);
    int rc = prefix ? encode_first(t, s, text, end, ids) : encode_word(t, s, text, end, ids);

    for (size_t at = end; at < n && rc == 0; at = end) {
        end = word_end(t, text, at, n);
        rc = encode_word(t, s, text + at, end - at, ids);
    }
    return rc;
}

int pieces_encode(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text,
                  size_t n, bool prefix, struct token_list *ids)
{
    char *spaced = NULL;
    int rc;

    if (n == 0)
        return 0;
    if (t->spm && !t->cuts_words)
        return spm_encode(t->spm, text, n, prefix, put_ids, ids);
    if (memmem(text, n, LOW_LINE, 3)) {
        spaced = malloc(n);
        if (!spaced)
            return -ENOMEM;
        n = with_spaces(text, n, spaced);
        text = spaced;
    }
    rc = encode_words(t, s, text, n, prefix && t->space_prefix, ids);
    free(spaced);
    return rc;
}
