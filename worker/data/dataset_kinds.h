/* dataset_kinds.h - inside of dataset.h: the three kinds of data behind one struct.
 *
 * A kind sets the totals at opening and fills windows; dataset.c checks the caller and finishes
 * each sequence.
 */
#pragma once
#include "worker/data/dataset.h"
#include "worker/data/shards.h"
#include "worker/formats/safetensors.h"
#include <pthread.h>

struct token_file {
    struct st_file *file;
    const uint8_t *ids, *labels, *documents,
        *lengths; /* I64, any alignment; all but ids may be NULL */
    int64_t rows, cols, first_row;
};

/* The order of documents in one epoch; made when first asked for. */
struct epoch_order {
    pthread_mutex_t lock;
    int64_t epoch;      /* -1: none yet */
    uint32_t *document; /* the i-th document of the epoch */
    uint64_t *start;    /* n + 1: where it begins, in tokens (packed) or windows (not packed) */
};

enum dataset_kind { DATASET_TOKENS, DATASET_PACKED, DATASET_UNPACKED, DATASET_EVAL };

struct dataset {
    enum dataset_kind kind;
    int64_t length; /* of a window */
    int64_t windows, tokens;
    bool has_documents;
    uint64_t seed;
    struct token_file *files; /* DATASET_TOKENS */
    unsigned n_files;
    struct shards shards; /* the others */
    struct epoch_order *order;
    uint64_t *eval_first; /* DATASET_EVAL: n_documents + 1, first window of each document */
};

LH_MUST_CHECK int tokens_open(struct dataset *d, const struct lh_job *job, int64_t vocab,
                              struct lh_err *reterr);
/* Window w of the file order: fills ids, labels and documents up to seq->length, which it sets. */
void tokens_window(const struct dataset *d, int64_t w, struct sequence *seq);
void tokens_close(struct dataset *d);

LH_MUST_CHECK int text_open(struct dataset *d, const struct lh_job *job, const char *shard_dir,
                            int64_t vocab, struct lh_err *reterr);
LH_MUST_CHECK int text_open_eval(struct dataset *d, const char *shard_dir, struct lh_err *reterr);
LH_MUST_CHECK int text_window(const struct dataset *d, int64_t index, struct sequence *seq,
                              struct lh_err *reterr);
void text_close(struct dataset *d);
