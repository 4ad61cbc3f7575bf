/* hf_writer.h - a Hugging Face directory: config.json and weights in safetensors, sharded above a
 * size.
 *
 * Everything is fsynced but nothing renamed: the caller writes into a directory that it puts in
 * place when it is whole.
 */
#pragma once
#include "worker/formats/quant.h"
#include "worker/formats/source.h"
#include "worker/formats/weights.h"

#define HF_SHARDS_MAX 1000 /* our reader takes 1024 */

/* The config of an exported model: the base's, with the positions in force in both layouts that
 * transformers reads (rope: rope_parameters, borrowed), max_position_embeddings and the type of the
 * weights ("bfloat16"; NULL: as it is). New reference, NULL when memory is exhausted. */
json_t *hf_writer_config(const struct model_config *base, const json_t *rope, int64_t max_positions,
                         const char *dtype);

/* "float32", "float16", "bfloat16"; type is one of F32, F16, BF16. */
const char *hf_writer_dtype(enum quant_type type);

/* dir/model.safetensors, or shards of at most shard_bytes (a larger tensor has one of its own) and
 * their index. *ret_files is how many. Errors: LH_EJOB at /export/shard_bytes when there would be
 * more than HF_SHARDS_MAX, LH_EJOB at /export/dtype when a value does not fit the type. */
LH_MUST_CHECK int hf_writer_weights(const char *dir, const struct weights *w, enum quant_type type,
                                    uint64_t shard_bytes, unsigned *ret_files,
                                    struct lh_err *reterr);

/* One safetensors file of the tensors [first, first + n) of w: what the above is made of, and an
 * adapter's file. */
LH_MUST_CHECK int hf_writer_file(const char *path, const struct weights *w, unsigned first,
                                 unsigned n, enum quant_type type, struct lh_err *reterr);
