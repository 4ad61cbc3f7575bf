/* dataset_tokens.c - `data.format: tokens`: sequences that someone else has tokenised, taken in
 * file order.
 *
 * input_ids I64 [steps, sequences, tokens] (leading dimensions may be left out); labels of the same
 * shape, not shifted, -100 for none (left out: every token is a target); lengths [steps,
 * sequences]; documents like input_ids.
 */
#include "proto/base/fault.h"
#include "worker/data/dataset_kinds.h"
#include "worker/data/inputs.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int64_t value_at(const uint8_t *data, int64_t i)
{
    return (int64_t)le64_at(data + 8 * i);
}

void tokens_close(struct dataset *d)
{
    for (unsigned i = 0; i < d->n_files; i++)
        st_close(d->files[i].file);
    free(d->files);
    d->files = NULL;
    d->n_files = 0;
}

/* The tensor's bytes, or NULL when it is optional and absent. cols 0: without the last dimension.
 */
static int take_tensor(const struct token_file *f, const char *path, const char *name,
                       bool required, int64_t cols, const uint8_t **ret_data, struct lh_err *reterr)
{
    const struct st_tensor *t = st_find(f->file, name);
    int64_t n = f->rows * (cols ? cols : 1);

    if (!t && !required)
        return 0;
    if (!t)
        return lh_err_set(
            reterr, LH_EINPUT,
            "'%s' has no tensor '%s'; data.format tokens needs input_ids and labels, I64 [steps, "
            "sequences, tokens]",
            path, name);
    if (t->dtype != ST_I64)
        return lh_err_set(reterr, LH_EINPUT, "'%s': '%s' is of type %s, not I64", path, name,
                          st_dtype_name(t->dtype));
    if (t->n != n || (cols && (t->n_dims < 1 || t->shape[t->n_dims - 1] != cols)))
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': '%s' has %lld elements in %d dimensions, which does not fit "
                          "input_ids of %lld x %lld",
                          path, name, (long long)t->n, t->n_dims, (long long)f->rows,
                          (long long)f->cols);
    *ret_data = t->data;
    return 0;
}

static int bad_value(const char *path, const char *name, int64_t row, int64_t col, int64_t value,
                     const char *why, struct lh_err *reterr)
{
    return lh_err_set(reterr, LH_EINPUT, "'%s': %s of sequence %lld, token %lld is %lld; %s", path,
                      name, (long long)row, (long long)col, (long long)value, why);
}

static int bad_id(const char *path, const char *name, int64_t row, int64_t col, int64_t id,
                  int64_t vocab, struct lh_err *reterr)
{
    char why[120];

    (void)snprintf(why, sizeof(why),
                   "ids of this model are 0 to %lld (and -100 for no label); was another tokenizer "
                   "used?",
                   (long long)vocab - 1);
    return bad_value(path, name, row, col, id, why, reterr);
}

static int check_row(const struct token_file *f, const char *path, int64_t row, int64_t vocab,
                     struct lh_err *reterr)
{
    int64_t n = f->lengths ? value_at(f->lengths, row) : f->cols, previous = 0;

    if (n < 0 || n > f->cols)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': the length of sequence %lld is %lld, not 0 to %lld", path,
                          (long long)row, (long long)n, (long long)f->cols);
    for (int64_t c = 0; c < n; c++) {
        int64_t at = row * f->cols + c, id = value_at(f->ids, at);
        int64_t label = f->labels ? value_at(f->labels, at) : -100;
        int64_t document = f->documents ? value_at(f->documents, at) : 0;

        if (id < 0 || id >= vocab)
            return bad_id(path, "input_ids", row, c, id, vocab, reterr);
        if (label != -100 && (label < 0 || label >= vocab))
            return bad_id(path, "labels", row, c, label, vocab, reterr);
        if (document < previous || document > INT32_MAX - 1)
            return bad_value(path, "documents", row, c, document,
                             "documents are numbered from 0 and never decrease along a sequence",
                             reterr);
        previous = document;
    }
    return 0;
}

static int open_file(struct token_file *f, const char *path, int64_t length, int64_t vocab,
                     struct lh_err *reterr)
{
    const struct st_tensor *ids;
    int rc = st_open(path, &f->file, reterr);

    if (rc < 0)
        return rc;
    ids = st_find(f->file, "input_ids");
    if (ids && (ids->n_dims < 1 || ids->n_dims > 3 || ids->n == 0))
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s': 'input_ids' is empty or not [steps, sequences, tokens]", path);
    f->cols = ids ? ids->shape[ids->n_dims - 1] : 1;
    f->rows = ids ? ids->n / f->cols : 1;
    rc = take_tensor(f, path, "input_ids", true, f->cols, &f->ids, reterr);
    if (rc == 0)
        rc = take_tensor(f, path, "labels", false, f->cols, &f->labels, reterr);
    if (rc == 0)
        rc = take_tensor(f, path, "documents", false, f->cols, &f->documents, reterr);
    if (rc == 0)
        rc = take_tensor(f, path, "lengths", false, 0, &f->lengths, reterr);
    if (rc == 0 && f->cols > length)
        rc = lh_err_set(
            reterr, LH_EINPUT,
            "'%s' has sequences of %lld tokens, context.length is %lld; raise it or cut the data",
            path, (long long)f->cols, (long long)length);
    lh_fault("tokens.opened");
    for (int64_t row = 0; row < f->rows && rc == 0; row++)
        rc = check_row(f, path, row, vocab, reterr);
    return rc;
}

int tokens_open(struct dataset *d, const struct lh_job *job, int64_t vocab, struct lh_err *reterr)
{
    struct input_list list;
    int rc = input_list_expand(&job->data.train, &list, reterr);

    if (rc < 0)
        return rc;
    d->kind = DATASET_TOKENS;
    d->files = calloc(list.n, sizeof(*d->files));
    if (!d->files)
        rc = lh_err_set(reterr, -ENOMEM, "open data");
    for (unsigned i = 0; i < list.n && rc == 0; i++) {
        struct token_file *f = &d->files[d->n_files++];

        f->first_row = d->windows;
        rc = open_file(f, list.paths[i], d->length, vocab, reterr);
        if (rc < 0)
            break;
        d->windows += f->rows;
        for (int64_t row = 0; row < f->rows; row++)
            d->tokens += f->lengths ? value_at(f->lengths, row) : f->cols;
        d->has_documents = d->has_documents || (f->documents && job->data.pack != LH_PACK_JOIN);
    }
    input_list_release(&list);
    return rc;
}

const struct token_file *tokens_file(const struct dataset *d, int64_t w)
{
    const struct token_file *f = d->files;

    for (unsigned i = 1; i < d->n_files && d->files[i].first_row <= w; i++)
        f = &d->files[i];
    return f;
}

void tokens_window(const struct dataset *d, int64_t w, struct sequence *seq)
{
    const struct token_file *f = tokens_file(d, w);
    int64_t row = w - f->first_row, at = row * f->cols;

    seq->length = f->lengths ? value_at(f->lengths, row) : f->cols;
    for (int64_t t = 0; t < seq->length; t++) {
        const uint8_t *targets = f->labels ? f->labels : f->ids;

        seq->ids[t] = (int32_t)value_at(f->ids, at + t);
        seq->labels[t] = t + 1 < seq->length ? (int32_t)value_at(targets, at + t + 1) : -100;
        seq->documents[t] = f->documents ? (int32_t)value_at(f->documents, at + t) : 0;
    }
}
