/* sha256.c - see sha256.h. One of the places that may include openssl. */
#include "proto/base/sha256.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char hex_digits[] = "0123456789abcdef";

static void to_hex(const unsigned char digest[32], char *ret_hex)
{
    for (int i = 0; i < 32; i++) {
        ret_hex[2 * i] = hex_digits[digest[i] >> 4];
        ret_hex[2 * i + 1] = hex_digits[digest[i] & 15];
    }
    ret_hex[64] = '\0';
}

int lh_sha256_init(struct lh_sha256 *h)
{
    h->ctx = EVP_MD_CTX_new();
    if (!h->ctx)
        return -ENOMEM;
    if (EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(h->ctx);
        h->ctx = NULL;
        return -ENOMEM;
    }
    return 0;
}

void lh_sha256_update(struct lh_sha256 *h, const void *data, size_t len)
{
    int ok = EVP_DigestUpdate(h->ctx, data, len);

    assert(ok == 1);
}

void lh_sha256_final(struct lh_sha256 *h, char ret_hex[static LH_SHA256_HEX])
{
    unsigned char digest[32];
    int ok = EVP_DigestFinal_ex(h->ctx, digest, NULL);

    assert(ok == 1);
    EVP_MD_CTX_free(h->ctx);
    h->ctx = NULL;
    to_hex(digest, ret_hex);
}

void lh_sha256_hex(const void *data, size_t len, char ret_hex[static LH_SHA256_HEX])
{
    unsigned char digest[32];
    int ok = EVP_Digest(data, len, digest, NULL, EVP_sha256(), NULL);

    assert(ok == 1);
    to_hex(digest, ret_hex);
}

int lh_sha256_file(const char *path, char ret_hex[static LH_SHA256_HEX], uint64_t *ret_size,
                   struct lh_err *reterr)
{
    enum { CHUNK = 1 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *chunk = malloc(CHUNK);
    struct lh_sha256 h = {NULL};
    uint64_t size = 0;
    int rc = 0;

    if (fd < 0)
        rc = lh_err_set(reterr, -errno, "open '%s'", path);
    else if (!chunk || lh_sha256_init(&h) < 0)
        rc = lh_err_set(reterr, -ENOMEM, "checksum of '%s'", path);
    while (rc == 0) {
        ssize_t n = read(fd, chunk, CHUNK);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = lh_err_set(reterr, -errno, "read '%s'", path);
        if (n <= 0)
            break;
        lh_sha256_update(&h, chunk, (size_t)n);
        size += (uint64_t)n;
    }
    if (rc == 0) {
        lh_sha256_final(&h, ret_hex);
        if (ret_size)
            *ret_size = size;
    } else {
        EVP_MD_CTX_free(h.ctx);
    }
    free(chunk);
    if (fd >= 0)
        (void)close(fd);
    return rc;
}
