/* prepare.c - prepare_shards of dataset.h: the key, the directory, the manifest.
 *
 * The directory is made under another name and renamed when it is whole, so whatever stands at
 * CACHE/shards/KEY is complete, and two preparing the same data at once only waste time.
 */
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/sha256.h"
#include "proto/base/str.h"
#include "proto/manifest.h"
#include "worker/data/dataset.h"
#include "worker/data/shards.h"
#include "worker/data/tokenize.h"
#include "worker/data/units.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct preparation {
    struct input_list inputs;
    const char *field;
    struct dialog *dialog; /* owned; NULL: texts */
    const char *template_; /* of the dialog, as in the job */
    char key[LH_SHA256_HEX];
    char dir[1024], temporary[1024];
    uint64_t all_bytes;
    char tokenizer[65];
};

/* What decides how the bytes of a file are read, besides the bytes. */
static const char *kind_of(const char *path, enum unit_kind kind)
{
    static const char *const names[][3] = {
        [UNIT_PLAIN] = {"text", "text gz", "text zst"},
        [UNIT_LINES] = {"lines", "lines gz", "lines zst"},
        [UNIT_RECORDS] = {"records", "records gz", "records zst"},
    };

    return names[kind][lh_ends_with(path, ".gz") ? 1 : lh_ends_with(path, ".zst") ? 2 : 0];
}

/* What stands before all files: this format, the tokenizer, and the template of records. */
static void feed_head(struct preparation *p, struct lh_sha256 *h, const struct tokenizer *t)
{
    char line[256], dialog[LH_SHA256_HEX];

    tokenizer_digest(t, p->tokenizer);
    lh_sha256_update(
        h, line,
        (size_t)snprintf(line, sizeof(line), "shards %d %s\n", SHARDS_FORMAT, p->tokenizer));
    if (!p->dialog)
        return;
    dialog_digest(p->dialog, dialog);
    lh_sha256_update(h, line, (size_t)snprintf(line, sizeof(line), "sft %s\n", dialog));
}

/* One file: its bytes, how they are read. */
static int feed_file(struct preparation *p, struct lh_sha256 *h, const char *path,
                     struct lh_err *reterr)
{
    enum unit_kind kind = unit_kind_of(path, p->dialog != NULL);
    char line[256], hex[LH_SHA256_HEX];
    uint64_t bytes = 0;
    int rc;

    if (p->dialog && kind == UNIT_PLAIN)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s' holds no records by its name; data.format sft takes .jsonl and "
                          ".json files (also .gz, .zst)",
                          path);
    rc = lh_sha256_file(path, hex, &bytes, reterr);
    if (rc < 0)
        return rc;
    p->all_bytes += bytes;
    lh_sha256_update(h, line,
                     (size_t)snprintf(line, sizeof(line), "%s %s\n", hex, kind_of(path, kind)));
    if (kind == UNIT_LINES && !p->dialog)
        lh_sha256_update(h, p->field, strlen(p->field) + 1);
    return 0;
}

static int make_key(struct preparation *p, const struct tokenizer *t, struct lh_err *reterr)
{
    struct lh_sha256 h;
    int rc = 0;

    if (lh_sha256_init(&h) < 0)
        return lh_err_set(reterr, -ENOMEM, "key of the data");
    feed_head(p, &h, t);
    for (unsigned i = 0; i < p->inputs.n && rc == 0; i++)
        rc = feed_file(p, &h, p->inputs.paths[i], reterr);
    lh_sha256_final(&h, p->key);
    /* A file that cannot be read is the input's fault, whatever errno says. */
    if (rc < 0 && reterr && rc != -ENOMEM)
        reterr->code = LH_EINPUT;
    return rc < 0 && rc != -ENOMEM ? LH_EINPUT : rc;
}

static int make_names(struct preparation *p, const char *cache_dir, struct lh_err *reterr)
{
    char token[17];

    lh_random_hex(8, token);
    if (snprintf(p->dir, sizeof(p->dir), "%s/shards/%s", cache_dir, p->key) >=
        (int)sizeof(p->dir) - 64)
        return lh_err_set(reterr, -ENAMETOOLONG, "cache directory '%s'", cache_dir);
    (void)snprintf(p->temporary, sizeof(p->temporary), "%s/shards/.%.16s-%s.tmp", cache_dir, p->key,
                   token);
    return 0;
}

static bool is_ready(const char *dir)
{
    struct shards s;

    if (shards_open(dir, &s, NULL) < 0)
        return false;
    shards_close(&s);
    return true;
}

static int write_manifest(const struct preparation *p, const struct shard_writer *w,
                          struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp)
    json_t *about = json_pack("{s:i, s:I, s:I, s:I, s:I, s:s}", "format", SHARDS_FORMAT, "tokens",
                              (json_int_t)w->n_tokens, "documents", (json_int_t)w->n_documents,
                              "shard_tokens", (json_int_t)w->shard_tokens, "max_id",
                              (json_int_t)w->max_id, "tokenizer", p->tokenizer);

    if (about && p->dialog &&
        json_object_update_new(about,
                               json_pack("{s:I, s:I, s:I, s:s}", "labels", (json_int_t)w->n_labels,
                                         "records", (json_int_t)w->n_records, "dropped",
                                         (json_int_t)w->n_dropped, "template", p->template_)) < 0)
        return lh_err_set(reterr, -ENOMEM, "manifest of '%s'", p->temporary);
    if (!about)
        return lh_err_set(reterr, -ENOMEM, "manifest of '%s'", p->temporary);
    return lh_manifest_write(p->temporary, SHARDS_KIND, about, NULL, reterr);
}

static int fill_directory(const struct preparation *p, const struct tokenize_job *job,
                          struct lh_err *reterr)
{
    struct shard_writer w;
    int rc = shard_writer_open(&w, p->temporary, SHARD_TOKENS, p->dialog != NULL, reterr);

    if (rc < 0)
        return rc;
    rc = tokenize_inputs(job, &w, reterr);
    if (rc == 0 && w.n_documents == 0)
        rc = lh_err_set(reterr, LH_EINPUT, "there is no %s in '%s'%s",
                        p->dialog ? "record with an answer" : "text", p->inputs.paths[0],
                        p->inputs.n > 1 ? " and the other files" : "");
    if (rc < 0) {
        shard_writer_abort(&w);
        return rc;
    }
    rc = shard_writer_finish(&w, reterr);
    return rc < 0 ? rc : write_manifest(p, &w, reterr);
}

/* Moves the finished directory to its place. Another may have been first: then theirs stays. */
static int put_in_place(const struct preparation *p, const char *cache_dir, struct lh_err *reterr)
{
    char parent[1024];
    int rc = rename(p->temporary, p->dir) < 0 ? -errno : 0;

    if (rc == -EEXIST || rc == -ENOTEMPTY) {
        if (is_ready(p->dir))
            return lh_remove_tree(p->temporary, reterr);
        rc = lh_remove_tree(p->dir, reterr); /* broken: nobody can be using it */
        if (rc == 0)
            rc = rename(p->temporary, p->dir) < 0 ? -errno : 0;
    }
    if (rc < 0)
        return lh_err_set(reterr, rc, "rename '%s' to '%s'", p->temporary, p->dir);
    (void)snprintf(parent, sizeof(parent), "%s/shards", cache_dir);
    return lh_sync_path(parent, reterr);
}

static int prepare(struct preparation *p, const struct tokenize_job *job, const char *cache_dir,
                   struct lh_err *reterr)
{
    int rc = make_key(p, job->tokenizer, reterr);
    struct tokenize_job full = *job;

    if (rc == 0)
        rc = make_names(p, cache_dir, reterr);
    if (rc < 0)
        return rc;
    if (is_ready(p->dir)) { /* marked as used: whoever bounds the cache goes by this time */
        (void)utimensat(AT_FDCWD, p->dir, NULL, 0);
        return 0;
    }
    full.all_bytes = p->all_bytes;
    rc = lh_mkdir_p(p->temporary, reterr);
    if (rc == 0)
        rc = fill_directory(p, &full, reterr);
    lh_fault("shards.written");
    if (rc == 0)
        rc = put_in_place(p, cache_dir, reterr);
    if (rc < 0 && lh_remove_tree(p->temporary, NULL) < 0)
        return rc; /* the first error counts; what is left behind has no name that is looked for */
    return rc;
}

int prepare_shards(const struct lh_strings *uris, enum lh_data_format format,
                   const struct lh_job *job, const struct tokenizer *t, const char *cache_dir,
                   int threads, prepare_progress_fn *progress, void *arg, char ret_dir[static 1024],
                   struct lh_err *reterr)
{
    struct preparation *p = calloc(1, sizeof(*p));
    struct tokenize_job todo;
    int rc = 0;

    if (!p)
        return lh_err_set(reterr, -ENOMEM, "prepare data");
    p->field = job->data.field ? job->data.field : "text";
    p->template_ = job->data.template_;
    if (format == LH_DATA_SFT)
        rc = dialog_open(p->template_, t, &p->dialog, reterr);
    if (rc == 0)
        rc = input_list_expand(uris, &p->inputs, reterr);
    if (rc == 0) {
        todo = (struct tokenize_job){.inputs = &p->inputs,
                                     .tokenizer = t,
                                     .field = p->field,
                                     .dialog = p->dialog,
                                     .threads = LH_MAX(threads, 1),
                                     .progress = progress,
                                     .arg = arg};
        rc = prepare(p, &todo, cache_dir, reterr);
    }
    if (rc == 0)
        memcpy(ret_dir, p->dir, sizeof(p->dir));
    input_list_release(&p->inputs);
    dialog_free(p->dialog);
    free(p);
    return rc;
}
