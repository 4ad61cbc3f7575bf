/* shards.h - a directory of prepared tokens, mapped: one long list of ids cut into documents.
 *
 * tokens-NNNNN.bin hold int32 ids, each but the last exactly shard_tokens of them; documents.bin
 * holds the first token of every document and the number of tokens at its end, u64. Little-endian,
 * as all machines we run on. Where not every token is trained, labels-NNNNN.bin hold a byte a token
 * beside them: 1 trained, 0 not.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "worker/formats/mapping.h"
#include <stdint.h>

#define SHARDS_KIND "shards"
#define SHARDS_FORMAT 2 /* of these files; part of the key */
#define SHARDS_DOCUMENTS_NAME "documents.bin"
#define SHARDS_TOKENS_NAME "tokens-%05u.bin"
#define SHARDS_LABELS_NAME "labels-%05u.bin"
#define SHARDS_FILES_MAX 2000u /* two of each and some fit into one manifest */

struct shards {
    struct mapping *tokens; /* n_files of them */
    struct mapping *labels; /* n_files of them; NULL: every token is trained */
    struct mapping documents;
    unsigned n_files;
    uint64_t shard_tokens, n_tokens, n_documents;
    uint64_t n_labels; /* tokens that are trained */
    int64_t max_id;    /* the largest id that stands in it */
};

/* Checks the manifest against the files' sizes, and documents.bin whole. LH_EINPUT names the file.
 */
LH_MUST_CHECK int shards_open(const char *dir, struct shards *ret_shards, struct lh_err *reterr);
void shards_close(struct shards *s);

/* First token of document d; of d == n_documents: the end. */
static inline uint64_t shards_document(const struct shards *s, uint64_t d)
{
    return le64_at(s->documents.data + 8 * d);
}

/* Copies ids [at, at + n). */
void shards_copy(const struct shards *s, uint64_t at, uint64_t n, int32_t *out);
/* 1 for each of them that is trained, 0 for the others. */
void shards_copy_labels(const struct shards *s, uint64_t at, uint64_t n, int32_t *out);
/* How many of them are trained. */
uint64_t shards_count_labels(const struct shards *s, uint64_t at, uint64_t n);
