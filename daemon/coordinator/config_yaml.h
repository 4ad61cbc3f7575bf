/* config_yaml.h - one document of settings; config.c's own. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stddef.h>

#define CONFIG_FILE_MAX                                                                            \
    ((size_t)256 * 1024) /* bytes; with every key and its comment it has 4 KiB */

struct config;

/* Lays the document over *c; name is what errors call it. Unknown keys, wrong types and values out
 * of range: LH_ESTATE. */
LH_MUST_CHECK int config_yaml(struct config *c, const char *text, size_t len, const char *name,
                              struct lh_err *reterr);
