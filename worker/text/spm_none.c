/* spm_none.c - spm.h for a build without the SentencePiece library: nothing can be opened. */
#include "worker/text/spm.h"
#include <errno.h>

int spm_open(const void *bytes, size_t n, struct spm_model **ret_model, struct spm_info *ret_info,
             char *ret_why)
{
    (void)bytes;
    (void)n;
    (void)ret_model;
    (void)ret_info;
    (void)ret_why;
    return -ENOSYS;
}

void spm_free(struct spm_model *m)
{
    (void)m;
}

const char *spm_piece(const struct spm_model *m, int64_t id, size_t *ret_len,
                      enum sp_type *ret_type)
{
    (void)m;
    (void)id;
    *ret_len = 0;
    *ret_type = SP_UNUSED;
    return "";
}

float spm_score(const struct spm_model *m, int64_t id)
{
    (void)m;
    (void)id;
    return 0;
}

int spm_encode(const struct spm_model *m, const char *text, size_t n, bool prefix, spm_put_fn *put,
               void *arg)
{
    (void)m;
    (void)text;
    (void)n;
    (void)prefix;
    (void)put;
    (void)arg;
    return -ENOSYS;
}
