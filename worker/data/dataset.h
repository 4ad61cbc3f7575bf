/* dataset.h - tokens for training and evaluation: prepared once into mapped shards, sampled by a pure function.
 *
 * Prepared data is a directory `CACHE/shards/KEY/` with tokens-NNNNN.bin (int32 ids, documents end to end),
 * documents.bin (u64 offsets), for sft labels-NNNNN.bin (a byte a token: trained or not) and manifest.json; KEY is a
 * digest of the bytes of the inputs, the tokenizer and the members of the job that matter (never the context's
 * length), so the same data is never tokenised twice and a changed file is a new key.
 * `data.format: tokens` needs no preparation: a safetensors file with input_ids and labels I64 [steps, sequences,
 * tokens] (and optionally documents, lengths), taken in file order. Leading dimensions may be left out, and labels:
 * then every token is a target.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "proto/job.h"
#include "worker/text/tokenizer.h"
#include <stdbool.h>
#include <stdint.h>

/* Progress of preparing: bytes done of all, documents so far. The first call with all_bytes above 0 tells what an
 * earlier preparation of the same data had done before it was killed; while another process prepares the same data, all
 * three are 0. */
typedef void prepare_progress_fn(void *arg, uint64_t done_bytes, uint64_t all_bytes, uint64_t documents);

/* Makes sure that the files (globs expanded, in sorted order; each also .gz or .zst) are prepared under cache_dir and
 * returns the shard directory. format text: plain text, one document a file, and .jsonl, one a line (member field).
 * format sft: records in .jsonl, one a line, or .json, a list; one document (sample) a record that has an answer,
 * written by job's template (dialog.h). Uses all cores given; goes on where an earlier preparation was killed.
 * Errors: LH_EINPUT names the file (and line): unreadable, empty, not UTF-8, no such member. */
LH_MUST_CHECK int prepare_shards(const struct lh_strings *uris, enum lh_data_format format, const struct lh_job *job,
                                 const struct tokenizer *t, const char *cache_dir, int threads,
                                 prepare_progress_fn *progress, void *arg, char ret_dir[static 1024],
                                 struct lh_err *reterr);

/* One sequence of a step. Arrays hold `length` entries and belong to the caller of dataset_sequence. */
struct sequence {
    int32_t *ids;       /* padded with 0 */
    int32_t *labels;    /* already shifted: labels[t] is the target of position t, -100 none */
    int32_t *documents; /* document number of each token within the window */
    int64_t n_labels;   /* targets that are not -100 */
    int64_t length;     /* tokens before padding */
};

struct dataset;

/* Training data of a job: mapped shards (dir from prepare_shards) for text and sft, the tokens file for format tokens.
 * vocab: ids must be below it (LH_EINPUT otherwise, for tokens). */
LH_MUST_CHECK int dataset_open(const struct lh_job *job, const char *shard_dir, int64_t vocab,
                               struct dataset **ret_dataset, struct lh_err *reterr);
void dataset_close(struct dataset *d);
int64_t dataset_windows(const struct dataset *d); /* sequences of one epoch */
int64_t dataset_tokens(const struct dataset *d);  /* of one epoch */
/* What an epoch has of prepared data, and of sft what it has not: samples without a label within context.length are
 * dropped, longer ones truncated (pack "join" does neither). Zeros for format tokens. */
struct dataset_counts {
    int64_t samples, dropped, truncated; /* samples: documents, of text */
    int64_t tokens, labels;              /* labels: tokens that are trained */
};
struct dataset_counts dataset_count(const struct dataset *d);
bool dataset_has_documents(const struct dataset *d); /* attention must cut at documents */

/* Fills sequence `index` of the whole run (step * batch_sequences + row): a pure function of (data, job.optim.seed,
 * job.context.length, index). Text: each epoch shuffles the documents anew by (seed, epoch), lays them end to end and
 * cuts windows of context.length; the last, short one is dropped (data shorter than one window: LH_EINPUT from open).
 * The first token of each document carries no label as target. Tokens: file order, an index beyond the file wraps.
 * Sft: whole samples, cut to context.length; the windows are the same in every epoch (pack true: filled once, longest
 * samples first; pack false: one sample each), in an order by (seed, epoch), padded on the right; pack "join": as text. */
LH_MUST_CHECK int dataset_sequence(const struct dataset *d, int64_t index, struct sequence *seq, struct lh_err *reterr);
