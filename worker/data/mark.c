/* mark.c - see mark.h. */
#include "worker/data/mark.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <errno.h>
#include <stdio.h>

#define MARK_FILE_MAX 4096

int mark_save(struct shard_writer *w, const struct unit_place *at, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *mark = NULL;
    char path[1200];
    int rc = shard_writer_sync(w, reterr);

    if (rc < 0)
        return rc;
    mark = json_pack("{s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "file",
                     (json_int_t)at->file, "offset", (json_int_t)at->offset, "next",
                     (json_int_t)at->next, "before_bytes", (json_int_t)at->before_bytes,
                     "done_bytes", (json_int_t)at->done_bytes, "list", (int)at->list, "tokens",
                     (json_int_t)w->n_tokens, "documents", (json_int_t)w->n_documents,
                     "document_tokens", (json_int_t)w->document_tokens, "labels",
                     (json_int_t)w->n_labels, "records", (json_int_t)w->n_records, "dropped",
                     (json_int_t)w->n_dropped, "max_id", (json_int_t)w->max_id);
    if (!mark)
        return lh_err_set(reterr, -ENOMEM, "mark of '%s'", w->dir);
    (void)snprintf(path, sizeof(path), "%s/%s", w->dir, MARK_NAME);
    return lh_json_save(path, mark, reterr);
}

int mark_remove(const char *dir, struct lh_err *reterr)
{
    char path[1200];

    (void)snprintf(path, sizeof(path), "%s/%s", dir, MARK_NAME);
    return lh_remove_tree(path, reterr);
}

static uint64_t count(const json_t *mark, const char *key)
{
    return (uint64_t)lh_json_i64(mark, key, 0);
}

bool mark_resume(const char *dir, uint64_t shard_tokens, bool with_labels, unsigned n_files,
                 struct shard_writer *ret_writer, struct unit_place *ret_at)
{
    LH_CLEANUP(lh_json_decrefp) json_t *mark = NULL;
    struct shard_writer w = {0};
    struct unit_place at;
    char path[1200];

    (void)snprintf(path, sizeof(path), "%s/%s", dir, MARK_NAME);
    if (lh_json_load(path, MARK_FILE_MAX, &mark, NULL) < 0)
        return false;
    at = (struct unit_place){.file = (unsigned)count(mark, "file"),
                             .offset = count(mark, "offset"),
                             .next = count(mark, "next"),
                             .before_bytes = count(mark, "before_bytes"),
                             .done_bytes = count(mark, "done_bytes"),
                             .list = lh_json_bool(mark, "list", 0) != 0};
    w.n_tokens = count(mark, "tokens");
    w.n_documents = count(mark, "documents");
    w.document_tokens = count(mark, "document_tokens");
    w.n_labels = count(mark, "labels");
    w.n_records = count(mark, "records");
    w.n_dropped = count(mark, "dropped");
    w.max_id = lh_json_i64(mark, "max_id", -1);
    if (at.file > n_files || shard_writer_resume(&w, dir, shard_tokens, with_labels, NULL) < 0)
        return false;
    *ret_writer = w;
    *ret_at = at;
    return true;
}
