/* sha256.h - SHA-256 through libcrypto (which uses SHA instructions where the CPU has them). */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stddef.h>
#include <stdint.h>

#define LH_SHA256_HEX 65 /* 64 digits and a 0 */

struct lh_sha256 {
    void *ctx; /* EVP_MD_CTX */
};

LH_MUST_CHECK int lh_sha256_init(struct lh_sha256 *h); /* 0 or -ENOMEM */
void lh_sha256_update(struct lh_sha256 *h, const void *data, size_t len);
void lh_sha256_final(struct lh_sha256 *h, char ret_hex[static LH_SHA256_HEX]); /* also releases h */

/* Of a buffer, and of a whole file (also gives its size; ret_size may be NULL). */
void lh_sha256_hex(const void *data, size_t len, char ret_hex[static LH_SHA256_HEX]);
LH_MUST_CHECK int lh_sha256_file(const char *path, char ret_hex[static LH_SHA256_HEX],
                                 uint64_t *ret_size, struct lh_err *reterr);
