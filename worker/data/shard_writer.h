/* shard_writer.h - writes the files of shards.h, documents in order. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define SHARD_TOKENS ((uint64_t)1 << 28) /* of one file: 1 GiB */

struct shard_writer {
    char dir[1024];
    FILE *tokens, *documents;
    FILE *labels; /* NULL: every token is trained */
    bool with_labels;
    uint64_t shard_tokens; /* of one file */
    uint64_t n_tokens, n_documents;
    uint64_t document_tokens;      /* of the document that is open */
    uint64_t n_labels;             /* tokens that are trained */
    uint64_t n_records, n_dropped; /* sft: read, and those of them without an answer */
    int64_t max_id;
};

/* with_labels: only ids with DIALOG_TRAINED are trained; that bit is never written. */
LH_MUST_CHECK int shard_writer_open(struct shard_writer *w, const char *dir, uint64_t shard_tokens,
                                    bool with_labels, struct lh_err *reterr);
/* Puts on disk what has been written so far. */
LH_MUST_CHECK int shard_writer_sync(struct shard_writer *w, struct lh_err *reterr);
/* Goes on in the directory of a writer that ended somewhere after a sync: *w holds the counts of
 * that moment, and what was written later is cut off. LH_EINPUT: less is there than they say. */
LH_MUST_CHECK int shard_writer_resume(struct shard_writer *w, const char *dir,
                                      uint64_t shard_tokens, bool with_labels,
                                      struct lh_err *reterr);
/* Appends ids to the open document (the first call of a document opens it). */
LH_MUST_CHECK int shard_writer_append(struct shard_writer *w, const int32_t *ids, uint64_t n,
                                      struct lh_err *reterr);
/* Ends the document; one without tokens leaves no trace. */
LH_MUST_CHECK int shard_writer_end(struct shard_writer *w, struct lh_err *reterr);
/* Writes the last offset and closes the files; they are synced with the manifest. */
LH_MUST_CHECK int shard_writer_finish(struct shard_writer *w, struct lh_err *reterr);
void shard_writer_abort(struct shard_writer *w);
