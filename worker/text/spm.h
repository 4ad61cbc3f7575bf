/* spm.h - SentencePiece models (tokenizer.model) through the SentencePiece library.
 *
 * The C header of a C++ library: spm.cc implements it, spm_none.c where the library was not there
 * when longhaul was built. It includes nothing that C++ does not understand. Encoding is
 * thread-safe.
 */
#pragma once
#include "proto/base/attr.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a piece is: the numbers of tokenizer.model and of tokenizer.ggml.token_type. */
enum sp_type { SP_NORMAL = 1, SP_UNKNOWN, SP_CONTROL, SP_USER, SP_UNUSED, SP_BYTE };

struct spm_model;

struct spm_info {
    int64_t n_pieces;
    int64_t bos, eos;  /* -1: none */
    bool space_prefix; /* a space is put before a text */
    bool as_it_is;     /* texts are not changed otherwise: they may be encoded word by word */
    bool merges;       /* and its ids follow from scores alone, as Llama's: see pieces_index */
};

/* From the bytes of the file. 0, -EINVAL (no such model; the reason in ret_why), -ENOMEM, -ENOSYS
 * (built without the library). */
#define SPM_WHY_MAX 256
LH_MUST_CHECK int spm_open(const void *bytes, size_t n, struct spm_model **ret_model,
                           struct spm_info *ret_info, char *ret_why);
void spm_free(struct spm_model *m); /* accepts NULL */

/* The text of a piece, 0-terminated, as the model has it (U+2581 for a space). A user-defined piece
 * is SP_NORMAL here: the library finds it by itself. */
const char *spm_piece(const struct spm_model *m, int64_t id, size_t *ret_len,
                      enum sp_type *ret_type);

float spm_score(const struct spm_model *m, int64_t id);

/* Gives the ids of a text to put, which returns 0 or a negative code that ends it. prefix: with the
 * space before, where the model has one. 0, -ENOMEM, -EIO, what put returned. */
typedef int spm_put_fn(void *arg, const int *ids, size_t n);
LH_MUST_CHECK int spm_encode(const struct spm_model *m, const char *text, size_t n, bool prefix,
                             spm_put_fn *put, void *arg);

#ifdef __cplusplus
}
#endif
