/* json.h - strict JSON on jansson, the same everywhere: no duplicate keys, valid UTF-8, bounded size and depth. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stdint.h>

/* Parses text strictly; refuses nesting deeper than max_depth. *ret_value is a new reference.
 * Errors: LH_EINPUT with line and column ("not valid JSON at line 3, column 7: ..."). */
LH_MUST_CHECK int lh_json_parse(const char *text, size_t len, unsigned max_depth, json_t **ret_value,
                                struct lh_err *reterr);

/* Reads and parses a file of at most max_bytes; errors name the file. */
LH_MUST_CHECK int lh_json_load(const char *path, size_t max_bytes, json_t **ret_value,
                               struct lh_err *reterr);

/* Compact (indent 0) or indented text, keys in insertion order, malloc'ed and 0-terminated; NULL only when
 * memory is exhausted or value is NULL. Numbers have the fewest digits that read back as the same number. */
char *lh_json_text(const json_t *value, int indent);

/* Writes value with lh_write_file (atomic, durable), indented by 2, with a final newline. */
LH_MUST_CHECK int lh_json_save(const char *path, const json_t *value, struct lh_err *reterr);

/* Members with a default when absent or of another type: for data that was validated before or is ours. */
const char *lh_json_str(const json_t *object, const char *key, const char *otherwise);
int64_t lh_json_i64(const json_t *object, const char *key, int64_t otherwise);
double lh_json_num(const json_t *object, const char *key, double otherwise);
int lh_json_bool(const json_t *object, const char *key, int otherwise);

static inline LH_UNUSED void lh_json_decrefp(json_t **value)
{
    json_decref(*value);
}
