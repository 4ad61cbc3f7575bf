/* job_data.c - opening the data of a job; see job_data.h. */
#include "worker/kinds/job_data.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include "proto/manifest.h"
#include "worker/text/tokenizer.h"
#include <stdio.h>
#include <string.h>

struct progress {
    struct run *run;
};

static void on_progress(void *arg, uint64_t done_bytes, uint64_t all_bytes, uint64_t documents)
{
    struct progress *p = arg;

    (void)documents;
    run_phase(p->run, "prepare", (int64_t)done_bytes, (int64_t)all_bytes, "bytes");
}

bool job_data_is_shards(const struct lh_strings *uris, char ret_dir[static 1024])
{
    char manifest[1100];

    if (uris->n != 1 || run_path(uris->at[0], "", ret_dir, NULL) < 0)
        return false;
    (void)snprintf(manifest, sizeof(manifest), "%s/%s", ret_dir, LH_MANIFEST_NAME);
    return lh_is_dir(ret_dir) && lh_path_exists(manifest);
}

static int prepare(struct run *r, const struct lh_strings *uris, enum lh_data_format format,
                   int64_t vocab, char ret_dir[static 1024], struct lh_err *reterr)
{
    struct progress p = {r};
    struct tokenizer *t = NULL;
    char path[1024];
    int rc = run_path(r->job->model.base, "/model/base", path, reterr);

    if (rc == 0)
        rc = tokenizer_open(path, &t, reterr);
    if (rc == 0 && tokenizer_vocab(t) > vocab)
        rc = lh_err_at(reterr, LH_EINPUT, "/model/base",
                       "the tokenizer of '%s' has ids up to %lld, but the model's vocabulary ends "
                       "at %lld; the two do not "
                       "belong together",
                       path, (long long)tokenizer_vocab(t) - 1, (long long)vocab - 1);
    if (rc == 0)
        rc = prepare_shards(uris, format, r->job, t, r->cache_dir, r->threads, on_progress, &p,
                            ret_dir, reterr);
    tokenizer_free(t);
    return rc;
}

bool job_data_is_tokens(const struct lh_strings *texts)
{
    return texts->n == 1 && lh_ends_with(texts->at[0], ".safetensors");
}

/* One rank of each machine prepares; then the others find what it made. */
static int shards(struct run *r, const struct lh_strings *uris, enum lh_data_format format,
                  int64_t vocab, char ret_dir[static 1024], struct lh_err *reterr)
{
    bool there = job_data_is_shards(uris, ret_dir);
    int rc = 0;

    if (!there && r->comm->local_rank == 0)
        rc = prepare(r, uris, format, vocab, ret_dir, reterr);
    rc = run_agree(r, rc, reterr);
    if (rc < 0)
        return rc;
    if (!there && r->comm->local_rank != 0)
        rc = prepare(r, uris, format, vocab, ret_dir, reterr);
    return run_agree(r, rc, reterr);
}

/* Digest of the files of prepared data, wherever they lie and whenever they were made. */
static int digest_shards(const char *dir, char ret_hex[static LH_SHA256_HEX], struct lh_err *reterr)
{
    struct lh_manifest manifest;
    struct lh_sha256 h;
    int rc = lh_manifest_read(dir, &manifest, reterr);

    if (rc < 0)
        return rc;
    rc = lh_sha256_init(&h);
    if (rc < 0) {
        lh_manifest_release(&manifest);
        return lh_err_set(reterr, rc, "digest of '%s'", dir);
    }
    for (unsigned i = 0; i < manifest.n_files; i++) {
        lh_sha256_update(&h, manifest.files[i].name, strlen(manifest.files[i].name) + 1);
        lh_sha256_update(&h, manifest.files[i].sha256, sizeof(manifest.files[i].sha256));
    }
    lh_sha256_final(&h, ret_hex);
    lh_manifest_release(&manifest);
    return 0;
}

static int digest_tokens(const struct lh_strings *files, char ret_hex[static LH_SHA256_HEX],
                         struct lh_err *reterr)
{
    struct lh_sha256 h;
    int rc = lh_sha256_init(&h);

    if (rc < 0)
        return lh_err_set(reterr, rc, "digest of the training data");
    for (unsigned i = 0; i < files->n && rc == 0; i++) {
        char path[1024], hex[LH_SHA256_HEX] = "";

        rc = run_path(files->at[i], "/data/train", path, reterr);
        if (rc == 0)
            rc = lh_sha256_file(path, hex, NULL, reterr);
        lh_sha256_update(&h, hex, sizeof(hex));
    }
    lh_sha256_final(&h, ret_hex);
    return rc;
}

/* What of the samples is trained: dropped and truncated ones are nobody's surprise later. */
static void put_counts(struct run *r, const struct dataset *d)
{
    struct dataset_counts c = dataset_count(d);

    json_object_set_new(r->result, "data",
                        json_pack("{s:I, s:I, s:I, s:I, s:I}", "samples", (json_int_t)c.samples,
                                  "dropped", (json_int_t)c.dropped, "truncated",
                                  (json_int_t)c.truncated, "tokens", (json_int_t)c.tokens, "labels",
                                  (json_int_t)c.labels));
}

int job_data_train(struct run *r, int64_t vocab, struct dataset **ret_dataset,
                   struct lh_err *reterr)
{
    bool tokens = r->job->data.format == LH_DATA_TOKENS;
    char dir[1024] = "";
    int rc;

    if (!tokens) {
        rc = shards(r, &r->job->data.train, r->job->data.format, vocab, dir, reterr);
        if (rc < 0)
            return rc;
    }
    rc = tokens ? digest_tokens(&r->job->data.train, r->data_digest, reterr)
                : digest_shards(dir, r->data_digest, reterr);
    rc = run_agree(r, rc, reterr);
    if (rc == 0)
        rc = run_same(r, "training data", r->data_digest, reterr);
    if (rc < 0)
        return rc;
    rc =
        run_agree(r, dataset_open(r->job, tokens ? NULL : dir, vocab, ret_dataset, reterr), reterr);
    if (rc == 0 && r->job->data.format == LH_DATA_SFT)
        put_counts(r, *ret_dataset);
    return rc;
}

int job_data_eval(struct run *r, int64_t vocab, struct held_out **ret_held_out,
                  struct lh_err *reterr)
{
    const struct lh_strings *texts = &r->job->eval.perplexity;
    bool tokens = job_data_is_tokens(texts);
    char dir[1024] = "";
    int rc = tokens ? 0 : shards(r, texts, LH_DATA_TEXT, vocab, dir, reterr);

    if (rc < 0)
        return rc;
    return run_agree(r, held_out_open(r->job, tokens ? NULL : dir, vocab, ret_held_out, reterr),
                     reterr);
}
