/* s3_config.h - where the S3 server is and who we are there. Names are those of AWS's own tools. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"

struct s3_config {
    char endpoint[256]; /* http[s]://HOST[:PORT], without a final slash */
    char access[128], secret[256], token[1024], region[64];
};

/* path: a file of NAME=value lines ('#' begins a comment), or NULL: the environment. An error names
 * what is missing. */
LH_MUST_CHECK int s3_config_load(const char *path, struct s3_config *ret_config,
                                 struct lh_err *reterr);
