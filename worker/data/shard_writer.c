/* shard_writer.c - see shard_writer.h. */
#include "worker/data/shard_writer.h"
#include "proto/base/fs.h"
#include "worker/data/dialog.h"
#include "worker/data/shards.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES (1u << 20)
#define PIECE_IDS 4096u

static int failed(const struct shard_writer *w, struct lh_err *reterr)
{
    return lh_err_set(reterr, errno ? -errno : -EIO, "write prepared tokens below '%s'", w->dir);
}

static int create(const struct shard_writer *w, const char *name, FILE **ret_file,
                  struct lh_err *reterr)
{
    char path[1200];

    (void)snprintf(path, sizeof(path), "%s/%s", w->dir, name);
    *ret_file = fopen(path, "wxe");
    if (!*ret_file)
        return lh_err_set(reterr, -errno, "create '%s'", path);
    (void)setvbuf(*ret_file, NULL, _IOFBF, BUFFER_BYTES);
    return 0;
}

int shard_writer_open(struct shard_writer *w, const char *dir, uint64_t shard_tokens,
                      bool with_labels, struct lh_err *reterr)
{
    memset(w, 0, sizeof(*w));
    w->with_labels = with_labels;
    w->shard_tokens = shard_tokens;
    w->max_id = -1;
    if (strlen(dir) >= sizeof(w->dir))
        return lh_err_set(reterr, -ENAMETOOLONG, "prepare '%s'", dir);
    (void)snprintf(w->dir, sizeof(w->dir), "%s", dir);
    return create(w, SHARDS_DOCUMENTS_NAME, &w->documents, reterr);
}

/* Opens one that is there for appending behind its first `bytes` bytes. */
static int reopen(const struct shard_writer *w, const char *name, uint64_t bytes, FILE **ret_file,
                  struct lh_err *reterr)
{
    char path[1200];

    (void)snprintf(path, sizeof(path), "%s/%s", w->dir, name);
    if (lh_file_size(path) < (int64_t)bytes)
        return lh_err_set(reterr, LH_EINPUT, "'%s' is shorter than it was", path);
    if (truncate(path, (off_t)bytes) < 0 || !(*ret_file = fopen(path, "ae")))
        return lh_err_set(reterr, -errno, "go on with '%s'", path);
    (void)setvbuf(*ret_file, NULL, _IOFBF, BUFFER_BYTES);
    return 0;
}

int shard_writer_resume(struct shard_writer *w, const char *dir, uint64_t shard_tokens,
                        bool with_labels, struct lh_err *reterr)
{
    uint64_t in = w->n_tokens % shard_tokens, number = w->n_tokens / shard_tokens;
    char name[32], path[1200];
    int rc = 0;

    w->tokens = w->labels = w->documents = NULL;
    w->with_labels = with_labels;
    w->shard_tokens = shard_tokens;
    if (strlen(dir) >= sizeof(w->dir))
        return lh_err_set(reterr, -ENAMETOOLONG, "prepare '%s'", dir);
    (void)snprintf(w->dir, sizeof(w->dir), "%s", dir);
    rc = reopen(w, SHARDS_DOCUMENTS_NAME, 8 * w->n_documents, &w->documents, reterr);
    (void)snprintf(name, sizeof(name), SHARDS_TOKENS_NAME, (unsigned)number);
    if (rc == 0 && in > 0)
        rc = reopen(w, name, in * sizeof(int32_t), &w->tokens, reterr);
    (void)snprintf(name, sizeof(name), SHARDS_LABELS_NAME, (unsigned)number);
    if (rc == 0 && in > 0 && with_labels)
        rc = reopen(w, name, in, &w->labels, reterr);
    for (number += in > 0; rc == 0; number++) { /* files begun later */
        (void)snprintf(name, sizeof(name), SHARDS_LABELS_NAME, (unsigned)number);
        (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
        (void)unlink(path);
        (void)snprintf(name, sizeof(name), SHARDS_TOKENS_NAME, (unsigned)number);
        (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
        if (unlink(path) < 0)
            break;
    }
    if (rc < 0)
        shard_writer_abort(w);
    return rc;
}

int shard_writer_sync(struct shard_writer *w, struct lh_err *reterr)
{
    FILE *const files[] = {w->tokens, w->labels, w->documents};

    errno = 0;
    for (size_t i = 0; i < LH_ARRAY_LEN(files); i++) {
        if (files[i] && (fflush(files[i]) != 0 || fdatasync(fileno(files[i])) < 0))
            return failed(w, reterr);
    }
    return lh_sync_path(w->dir, reterr);
}

static int close_file(const struct shard_writer *w, FILE **file, struct lh_err *reterr)
{
    FILE *f = *file;
    int rc = 0;

    *file = NULL;
    errno = 0;
    /* Full files are synced here, so that shard_writer_sync need not know them. */
    if (f && (fflush(f) != 0 || fdatasync(fileno(f)) < 0))
        rc = failed(w, reterr);
    if (f && fclose(f) != 0 && rc == 0)
        rc = failed(w, reterr);
    return rc;
}

static int next_file(struct shard_writer *w, struct lh_err *reterr)
{
    uint64_t number = w->n_tokens / w->shard_tokens;
    char name[32];
    int rc = close_file(w, &w->tokens, reterr);

    if (rc == 0)
        rc = close_file(w, &w->labels, reterr);
    if (rc < 0)
        return rc;
    if (number >= SHARDS_FILES_MAX)
        return lh_err_set(reterr, LH_EINPUT,
                          "more than %llu tokens; prepare the data in several parts",
                          (unsigned long long)(SHARDS_FILES_MAX * w->shard_tokens));
    (void)snprintf(name, sizeof(name), SHARDS_TOKENS_NAME, (unsigned)number);
    rc = create(w, name, &w->tokens, reterr);
    (void)snprintf(name, sizeof(name), SHARDS_LABELS_NAME, (unsigned)number);
    return rc == 0 && w->with_labels ? create(w, name, &w->labels, reterr) : rc;
}

/* Writes n ids, at most PIECE_IDS, and their labels. */
static int write_piece(struct shard_writer *w, const int32_t *ids, uint64_t n,
                       struct lh_err *reterr)
{
    int32_t clean[PIECE_IDS];
    uint8_t labels[PIECE_IDS];

    for (uint64_t i = 0; i < n; i++) {
        clean[i] = ids[i] & ~DIALOG_TRAINED;
        labels[i] = (ids[i] & DIALOG_TRAINED) != 0;
        w->n_labels += labels[i];
        w->max_id = LH_MAX(w->max_id, (int64_t)clean[i]);
    }
    errno = 0;
    if (fwrite(clean, sizeof(*clean), n, w->tokens) != n ||
        (w->labels && fwrite(labels, 1, n, w->labels) != n))
        return failed(w, reterr);
    return 0;
}

int shard_writer_append(struct shard_writer *w, const int32_t *ids, uint64_t n,
                        struct lh_err *reterr)
{
    while (n > 0) {
        uint64_t in = w->n_tokens % w->shard_tokens;
        uint64_t m = LH_MIN(LH_MIN(n, (uint64_t)PIECE_IDS), w->shard_tokens - in);
        int rc = in == 0 ? next_file(w, reterr) : 0;

        if (rc == 0)
            rc = write_piece(w, ids, m, reterr);
        if (rc < 0)
            return rc;
        ids += m;
        n -= m;
        w->n_tokens += m;
        w->document_tokens += m;
    }
    return 0;
}

static int put_offset(struct shard_writer *w, uint64_t offset, struct lh_err *reterr)
{
    errno = 0;
    return fwrite(&offset, sizeof(offset), 1, w->documents) == 1 ? 0 : failed(w, reterr);
}

int shard_writer_end(struct shard_writer *w, struct lh_err *reterr)
{
    uint64_t began = w->n_tokens - w->document_tokens;

    if (w->document_tokens == 0)
        return 0;
    w->document_tokens = 0;
    w->n_documents++;
    return put_offset(w, began, reterr);
}

int shard_writer_finish(struct shard_writer *w, struct lh_err *reterr)
{
    int rc = put_offset(w, w->n_tokens, reterr);

    if (rc == 0)
        rc = close_file(w, &w->documents, reterr);
    if (rc == 0)
        rc = close_file(w, &w->tokens, reterr);
    if (rc == 0)
        rc = close_file(w, &w->labels, reterr);
    shard_writer_abort(w);
    return rc;
}

void shard_writer_abort(struct shard_writer *w)
{
    if (w->documents)
        (void)fclose(w->documents);
    if (w->tokens)
        (void)fclose(w->tokens);
    if (w->labels)
        (void)fclose(w->labels);
    w->documents = w->tokens = w->labels = NULL;
}
