/* dataset_kinds.h - inside of dataset.h: the kinds of data behind one struct.
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
    uint32_t *document; /* the i-th document (of samples: window) of the epoch */
    uint64_t *start;    /* n + 1: where it begins, in tokens (packed) or windows (not packed) */
};

/* Samples are documents of which only the answers are trained. They are cut to the window and never
 * go on in the next one: window w holds the samples first[w] up to first[w + 1]. */
struct sample_plan {
    uint32_t *document, *tokens; /* of each sample that is kept: where, and how much of it */
    uint64_t n;
    uint64_t *first; /* n_windows + 1 */
};

enum dataset_kind {
    DATASET_TOKENS,
    DATASET_PACKED,
    DATASET_UNPACKED,
    DATASET_SAMPLES,
};

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
    struct sample_plan samples; /* DATASET_SAMPLES */
    struct dataset_counts counts;
};

/* ---- dataset_order.c ---- */
LH_MUST_CHECK int epoch_order_new(struct dataset *d, uint64_t n, struct lh_err *reterr);
void epoch_order_free(struct epoch_order *o);
/* 0 to n - 1 in the order of the epoch. */
void epoch_shuffle(uint32_t *list, uint64_t n, uint64_t seed, int64_t epoch);
/* Labels of a sequence whose labels say 1 for tokens that are trained: the next token is the target
 * when it is trained and of the same document. */
void sequence_label(struct sequence *seq);

/* ---- dataset_samples.c ---- */
LH_MUST_CHECK int samples_open(struct dataset *d, const struct lh_job *job, const char *shard_dir,
                               int64_t vocab, struct lh_err *reterr);
void samples_window(const struct dataset *d, int64_t index, struct sequence *seq);
void samples_close(struct dataset *d);

LH_MUST_CHECK int tokens_open(struct dataset *d, const struct lh_job *job, int64_t vocab,
                              struct lh_err *reterr);
/* Window w of the file order: fills ids, labels and documents up to seq->length, which it sets. */
void tokens_window(const struct dataset *d, int64_t w, struct sequence *seq);
/* The file that holds window w. */
const struct token_file *tokens_file(const struct dataset *d, int64_t w);
void tokens_close(struct dataset *d);

LH_MUST_CHECK int text_open(struct dataset *d, const struct lh_job *job, const char *shard_dir,
                            int64_t vocab, struct lh_err *reterr);
/* The shards, with what every kind checks of them. */
LH_MUST_CHECK int text_open_shards(struct dataset *d, const char *shard_dir, int64_t vocab,
                                   struct lh_err *reterr);
LH_MUST_CHECK int text_window(const struct dataset *d, int64_t index, struct sequence *seq,
                              struct lh_err *reterr);
void text_close(struct dataset *d);
