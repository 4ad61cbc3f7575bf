/* gguf_config.h - the llama.* keys of a GGUF file in the words of Hugging Face's config.json. */
#pragma once
#include "worker/formats/gguf.h"
#include <jansson.h>

/* *ret_raw: new reference, an object that hf_config_parse takes. LH_EINPUT: another architecture, a
 * key that is missing or changes the numbers in a way that is not supported. */
LH_MUST_CHECK int gguf_config(const struct gguf_file *f, const char *path, json_t **ret_raw,
                              struct lh_err *reterr);
