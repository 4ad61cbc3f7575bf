/* prepare.c - prepare_shards of dataset.h: the key, the filling of the directory, the manifest.
 *
 * The directory is filled under another name and renamed when it is whole, so whatever stands at
 * CACHE/shards/KEY is complete. Marks (mark.h) let a later preparation go on where one was killed,
 * and only one at a time fills a directory (prepare_place.h): no data is tokenised twice.
 */
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/sha256.h"
#include "proto/base/str.h"
#include "proto/manifest.h"
#include "worker/data/dataset.h"
#include "worker/data/mark.h"
#include "worker/data/prepare_place.h"
#include "worker/data/shards.h"
#include "worker/data/tokenize.h"
#include "worker/data/units.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define WAIT_MS 100 /* between two looks at a directory that another process fills */

struct preparation {
    struct input_list inputs;
    const char *field;
    struct dialog *dialog; /* owned; NULL: texts */
    const char *template_; /* of the dialog, as in the job */
    struct prepare_place place;
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

static int make_key(struct preparation *p, const struct tokenizer *t, char ret_key[LH_SHA256_HEX],
                    struct lh_err *reterr)
{
    struct lh_sha256 h;
    int rc = 0;

    if (lh_sha256_init(&h) < 0)
        return lh_err_set(reterr, -ENOMEM, "key of the data");
    feed_head(p, &h, t);
    for (unsigned i = 0; i < p->inputs.n && rc == 0; i++)
        rc = feed_file(p, &h, p->inputs.paths[i], reterr);
    lh_sha256_final(&h, ret_key);
    /* A file that cannot be read is the input's fault, whatever errno says. */
    if (rc < 0 && reterr && rc != -ENOMEM)
        reterr->code = LH_EINPUT;
    return rc < 0 && rc != -ENOMEM ? LH_EINPUT : rc;
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
        return lh_err_set(reterr, -ENOMEM, "manifest of '%s'", p->place.temporary);
    if (!about)
        return lh_err_set(reterr, -ENOMEM, "manifest of '%s'", p->place.temporary);
    return lh_manifest_write(p->place.temporary, SHARDS_KIND, about, NULL, reterr);
}

struct marking {
    uint64_t marked_tokens; /* at the last mark */
};

static int on_unit(void *arg, const struct unit_place *at, struct shard_writer *w,
                   struct lh_err *reterr)
{
    struct marking *m = arg;
    int rc;

    if (w->n_tokens - m->marked_tokens < MARK_TOKENS)
        return 0;
    m->marked_tokens = w->n_tokens;
    rc = mark_save(w, at, reterr);
    lh_fault("shards.marked");
    return rc;
}

/* The directory as an earlier preparation left it, when it can be gone on with, else an empty one.
 */
static int open_writer(struct preparation *p, struct tokenize_job *job, struct shard_writer *w,
                       struct lh_err *reterr)
{
    bool labels = p->dialog != NULL;
    int rc;

    if (mark_resume(p->place.temporary, SHARD_TOKENS, labels, p->inputs.n, w, &job->from))
        return 0;
    rc = prepare_place_clear(&p->place, reterr);
    return rc < 0 ? rc : shard_writer_open(w, p->place.temporary, SHARD_TOKENS, labels, reterr);
}

static int fill_directory(struct preparation *p, const struct tokenize_job *job,
                          struct lh_err *reterr)
{
    struct tokenize_job full = *job;
    struct marking marking = {0};
    struct shard_writer w;
    int rc = open_writer(p, &full, &w, reterr);

    if (rc < 0)
        return rc;
    marking.marked_tokens = w.n_tokens;
    full.all_bytes = p->all_bytes;
    full.mark = on_unit;
    full.mark_arg = &marking;
    if (full.progress)
        full.progress(full.arg, full.from.done_bytes, full.all_bytes, w.n_documents);
    rc = tokenize_inputs(&full, &w, reterr);
    if (rc == 0 && w.n_documents == 0)
        rc = lh_err_set(reterr, LH_EINPUT, "there is no %s in '%s'%s",
                        p->dialog ? "record with an answer" : "text", p->inputs.paths[0],
                        p->inputs.n > 1 ? " and the other files" : "");
    if (rc < 0) {
        shard_writer_abort(&w);
        return rc;
    }
    rc = shard_writer_finish(&w, reterr);
    if (rc == 0)
        rc = mark_remove(p->place.temporary, reterr);
    return rc < 0 ? rc : write_manifest(p, &w, reterr);
}

/* Until the place is ours to fill: 1; or ready: 0. Whoever waits lets the caller know that it
 * lives.
 */
static int enter(struct preparation *p, const struct tokenize_job *job, struct lh_err *reterr)
{
    while (!prepare_place_ready(&p->place)) {
        int rc = prepare_place_enter(&p->place, reterr);

        if (rc != 0)
            return rc;
        if (job->progress)
            job->progress(job->arg, 0, 0, 0);
        (void)nanosleep(&(struct timespec){.tv_nsec = WAIT_MS * 1000000L}, NULL);
    }
    return 0;
}

static int prepare(struct preparation *p, const struct tokenize_job *job, const char *cache_dir,
                   struct lh_err *reterr)
{
    char key[LH_SHA256_HEX];
    int rc = make_key(p, job->tokenizer, key, reterr);

    if (rc == 0)
        rc = prepare_place_name(&p->place, cache_dir, key, reterr);
    if (rc == 0)
        rc = enter(p, job, reterr);
    if (rc == 0) /* marked as used: whoever bounds the cache goes by this time */
        (void)utimensat(AT_FDCWD, p->place.dir, NULL, 0);
    if (rc <= 0)
        return rc;
    rc = fill_directory(p, job, reterr);
    lh_fault("shards.written");
    if (rc == 0)
        rc = prepare_place_publish(&p->place, reterr);
    prepare_place_leave(&p->place);
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
        memcpy(ret_dir, p->place.dir, sizeof(p->place.dir));
    input_list_release(&p->inputs);
    dialog_free(p->dialog);
    free(p);
    return rc;
}
