/* hf_config.h - Hugging Face's config.json as a struct model_config.
 *
 * Both layouts are read: rope_theta and rope_scaling as transformers 4 wrote them, rope_parameters
 * as 5 does. Whatever would change the numbers and is not built (biases, another activation,
 * quantised weights) is refused by name.
 */
#pragma once
#include "worker/formats/source.h"

/* where names the file in errors. *ret_config takes a reference to raw (in ret_config->raw) on
 * success. */
LH_MUST_CHECK int hf_config_parse(json_t *raw, const char *where, struct model_config *ret_config,
                                  struct lh_err *reterr);
