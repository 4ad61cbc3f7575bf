/* token_spans.c - see token_spans.h. */
#include "worker/data/token_spans.h"
#include "worker/data/dataset_kinds.h"
#include "worker/data/spans.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* A sequence, and where it lies in its file. */
struct place {
    const struct token_file *file;
    int64_t at, n; /* its first element in the tensors; its tokens */
};

static struct place place_of(const struct dataset *d, int64_t sequence)
{
    const struct token_file *f = tokens_file(d, sequence);
    int64_t row = sequence - f->first_row;

    return (struct place){f, row * f->cols,
                          f->lengths ? (int64_t)le64_at(f->lengths + 8 * row) : f->cols};
}

static int64_t document_at(const struct place *p, int64_t t)
{
    return p->file->documents ? (int64_t)le64_at(p->file->documents + 8 * (p->at + t)) : 0;
}

/* Puts the begins of all spans into begin (NULL: not wanted); how many there are. */
static uint64_t list_spans(const struct token_spans *s, uint64_t *begin)
{
    uint64_t n = 0;

    for (int64_t i = 0; i < dataset_windows(s->d); i++) {
        struct place p = place_of(s->d, i);

        for (int64_t t = 0; t < p.n; t++) {
            if (t > 0 && document_at(&p, t) == document_at(&p, t - 1))
                continue;
            if (begin)
                begin[n] = s->sequence[i] + (uint64_t)t;
            n++;
        }
    }
    return n;
}

int token_spans_open(const struct dataset *d, bool join, struct token_spans *ret_spans,
                     struct lh_err *reterr)
{
    struct token_spans s = {.d = d};
    int64_t n = dataset_windows(d);

    s.sequence = calloc((size_t)n + 1, sizeof(*s.sequence));
    for (int64_t i = 0; s.sequence && i < n; i++)
        s.sequence[i + 1] = s.sequence[i] + (uint64_t)place_of(d, i).n;
    s.n_tokens = s.sequence ? s.sequence[n] : 0;
    s.n = join ? 1 : list_spans(&s, NULL);
    s.begin = calloc(s.n + 1, sizeof(*s.begin));
    if (!s.sequence || !s.begin) {
        token_spans_close(&s);
        return lh_err_set(reterr, -ENOMEM, "the documents of a file of tokens");
    }
    if (!join)
        (void)list_spans(&s, s.begin);
    s.begin[s.n] = s.n_tokens;
    *ret_spans = s;
    return 0;
}

void token_spans_close(struct token_spans *s)
{
    free(s->begin);
    free(s->sequence);
    *s = (struct token_spans){0};
}

void token_spans_copy(const struct token_spans *s, uint64_t at, int64_t n, int32_t *ids,
                      int32_t *labels)
{
    int64_t sequence = (int64_t)span_holding(s->sequence, (uint64_t)dataset_windows(s->d), at);
    int64_t done = 0;

    assert(at + (uint64_t)n <= s->n_tokens);
    for (; done < n; sequence++) {
        struct place p = place_of(s->d, sequence);
        int64_t first = (int64_t)(at - s->sequence[sequence]) + done;

        for (int64_t t = first; t < p.n && done < n; t++, done++) {
            const uint8_t *targets = p.file->labels ? p.file->labels : p.file->ids;

            ids[done] = (int32_t)le64_at(p.file->ids + 8 * (p.at + t));
            labels[done] = (int32_t)le64_at(targets + 8 * (p.at + t));
        }
    }
}
