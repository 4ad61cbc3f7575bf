/* shards.c - see shards.h. */
#include "worker/data/shards.h"
#include "proto/base/json.h"
#include "proto/manifest.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are mapped as they are");

void shards_close(struct shards *s)
{
    for (unsigned i = 0; s->tokens && i < s->n_files; i++)
        mapping_close(&s->tokens[i]);
    free(s->tokens);
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

static int map_all(struct shards *s, const char *dir, struct lh_err *reterr)
{
    uint64_t left = s->n_tokens;
    int rc = map_file(dir, SHARDS_DOCUMENTS_NAME, 8 * (s->n_documents + 1), &s->documents, reterr);

    s->n_files = (unsigned)((s->n_tokens + s->shard_tokens - 1) / s->shard_tokens);
    s->tokens = calloc(s->n_files, sizeof(*s->tokens));
    if (!s->tokens)
        return lh_err_set(reterr, -ENOMEM, "open shards '%s'", dir);
    for (unsigned i = 0; i < s->n_files && rc == 0; i++) {
        uint64_t m = LH_MIN(left, s->shard_tokens);
        char name[32];

        (void)snprintf(name, sizeof(name), SHARDS_TOKENS_NAME, i);
        rc = map_file(dir, name, 4 * m, &s->tokens[i], reterr);
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
    int64_t tokens, documents, shard_tokens;
    int rc = lh_manifest_read(dir, &m, reterr);

    if (rc < 0)
        return rc;
    memset(&s, 0, sizeof(s));
    tokens = lh_json_i64(m.about, "tokens", -1);
    documents = lh_json_i64(m.about, "documents", -1);
    shard_tokens = lh_json_i64(m.about, "shard_tokens", -1);
    s.max_id = lh_json_i64(m.about, "max_id", -1);
    if (strcmp(m.kind, SHARDS_KIND) != 0 || lh_json_i64(m.about, "format", -1) != SHARDS_FORMAT ||
        tokens < 1 || documents < 1 || documents > tokens || shard_tokens < 1 || s.max_id < 0 ||
        s.max_id > INT32_MAX || tokens > INT64_MAX / 8 ||
        (tokens - 1) / shard_tokens >= SHARDS_FILES_MAX)
        rc = lh_err_set(reterr, LH_EINPUT,
                        "'%s' is not a directory of prepared tokens of this version", dir);
    lh_manifest_release(&m);
    if (rc < 0)
        return rc;
    s.n_tokens = (uint64_t)tokens;
    s.n_documents = (uint64_t)documents;
    s.shard_tokens = (uint64_t)shard_tokens;
    rc = map_all(&s, dir, reterr);
    if (rc < 0) {
        shards_close(&s);
        return rc;
    }
    *ret_shards = s;
    return 0;
}
