/* shards.c - see shards.h. */
#include "worker/data/shards.h"
#include "proto/base/json.h"
#include "proto/manifest.h"
#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are mapped as they are");

void shards_close(struct shards *s)
{
    for (unsigned i = 0; s->tokens && i < s->n_files; i++)
        mapping_close(&s->tokens[i]);
    for (unsigned i = 0; s->labels && i < s->n_files; i++)
        mapping_close(&s->labels[i]);
    free(s->tokens);
    free(s->labels);
    mapping_close(&s->documents);
    memset(s, 0, sizeof(*s));
}

void shards_copy(const struct shards *s, uint64_t at, uint64_t n, int32_t *out)
{
    assert(at <= s->n_tokens);
    assert(n <= s->n_tokens - at);
    while (n > 0) {
        uint64_t in = at % s->shard_tokens, m = LH_MIN(n, s->shard_tokens - in);

        memcpy(out, s->tokens[at / s->shard_tokens].data + 4 * in, 4 * m);
        out += m;
        at += m;
        n -= m;
    }
}

/* The bytes of labels from `at` on that lie in one file: *ret_n of them, at most n. */
static const uint8_t *labels_at(const struct shards *s, uint64_t at, uint64_t n, uint64_t *ret_n)
{
    uint64_t in = at % s->shard_tokens;

    assert(at <= s->n_tokens);
    assert(n <= s->n_tokens - at);
    *ret_n = LH_MIN(n, s->shard_tokens - in);
    return s->labels[at / s->shard_tokens].data + in;
}

void shards_copy_labels(const struct shards *s, uint64_t at, uint64_t n, int32_t *out)
{
    for (uint64_t i = 0; !s->labels && i < n; i++)
        out[i] = 1;
    while (s->labels && n > 0) {
        uint64_t m;
        const uint8_t *labels = labels_at(s, at, n, &m);

        for (uint64_t i = 0; i < m; i++)
            out[i] = labels[i] != 0;
        out += m;
        at += m;
        n -= m;
    }
}

uint64_t shards_count_labels(const struct shards *s, uint64_t at, uint64_t n)
{
    uint64_t count = s->labels ? 0 : n;

    while (s->labels && n > 0) {
        uint64_t m;
        const uint8_t *labels = labels_at(s, at, n, &m);

        for (uint64_t i = 0; i < m; i++)
            count += labels[i] != 0;
        at += m;
        n -= m;
    }
    return count;
}

static int map_file(const char *dir, const char *name, uint64_t bytes, struct mapping *ret_map,
                    struct lh_err *reterr)
{
    char path[4096];
    int rc;

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "open shards '%s'", dir);
    rc = mapping_open(path, ret_map, reterr);
    if (rc == 0 && ret_map->bytes != bytes)
        rc = lh_err_set(reterr, LH_EINPUT,
                        "'%s' has %zu bytes, its manifest says %llu; remove '%s' to have it "
                        "prepared again",
                        path, ret_map->bytes, (unsigned long long)bytes, dir);
    return rc;
}

static int map_all(struct shards *s, const char *dir, bool labels, struct lh_err *reterr)
{
    uint64_t left = s->n_tokens;
    int rc = map_file(dir, SHARDS_DOCUMENTS_NAME, 8 * (s->n_documents + 1), &s->documents, reterr);

    s->n_files = (unsigned)((s->n_tokens + s->shard_tokens - 1) / s->shard_tokens);
    s->tokens = calloc(s->n_files, sizeof(*s->tokens));
    if (labels)
        s->labels = calloc(s->n_files, sizeof(*s->labels));
    if (!s->tokens || (labels && !s->labels))
        return lh_err_set(reterr, -ENOMEM, "open shards '%s'", dir);
    for (unsigned i = 0; i < s->n_files && rc == 0; i++) {
        uint64_t m = LH_MIN(left, s->shard_tokens);
        char name[32];

        (void)snprintf(name, sizeof(name), SHARDS_TOKENS_NAME, i);
        rc = map_file(dir, name, 4 * m, &s->tokens[i], reterr);
        (void)snprintf(name, sizeof(name), SHARDS_LABELS_NAME, i);
        if (rc == 0 && labels)
            rc = map_file(dir, name, m, &s->labels[i], reterr);
        left -= m;
    }
    if (rc < 0)
        return rc;
    for (uint64_t d = 0; d < s->n_documents; d++) {
        if (shards_document(s, d) >= shards_document(s, d + 1))
            rc = LH_EINPUT;
    }
    if (rc < 0 || shards_document(s, 0) != 0 || shards_document(s, s->n_documents) != s->n_tokens)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s/%s' is damaged: its offsets do not rise from 0 to %llu; remove "
                          "the directory to have it prepared again",
                          dir, SHARDS_DOCUMENTS_NAME, (unsigned long long)s->n_tokens);
    return 0;
}

int shards_open(const char *dir, struct shards *ret_shards, struct lh_err *reterr)
{
    struct lh_manifest m;
    struct shards s;
    bool has_labels;
    int64_t tokens, documents, shard_tokens, labels;
    int rc = lh_manifest_read(dir, &m, reterr);

    if (rc < 0)
        return rc;
    memset(&s, 0, sizeof(s));
    tokens = lh_json_i64(m.about, "tokens", -1);
    documents = lh_json_i64(m.about, "documents", -1);
    shard_tokens = lh_json_i64(m.about, "shard_tokens", -1);
    labels = lh_json_i64(m.about, "labels", tokens);
    s.max_id = lh_json_i64(m.about, "max_id", -1);
    if (strcmp(m.kind, SHARDS_KIND) != 0 || lh_json_i64(m.about, "format", -1) != SHARDS_FORMAT ||
        tokens < 1 || documents < 1 || documents > tokens || shard_tokens < 1 || s.max_id < 0 ||
        s.max_id > INT32_MAX || tokens > INT64_MAX / 8 || labels < 0 || labels > tokens ||
        (tokens - 1) / shard_tokens >= SHARDS_FILES_MAX)
        rc = lh_err_set(reterr, LH_EINPUT,
                        "'%s' is not a directory of prepared tokens of this version", dir);
    has_labels = json_object_get(m.about, "labels") != NULL;
    lh_manifest_release(&m);
    if (rc < 0)
        return rc;
    s.n_tokens = (uint64_t)tokens;
    s.n_documents = (uint64_t)documents;
    s.shard_tokens = (uint64_t)shard_tokens;
    s.n_labels = (uint64_t)labels;
    rc = map_all(&s, dir, has_labels, reterr);
    if (rc < 0) {
        shards_close(&s);
        return rc;
    }
    *ret_shards = s;
    return 0;
}
