/* json.c - see json.h. */
#include "proto/base/json.h"
#include "proto/base/fs.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* jansson's own limit is 2048 levels; a job needs six. Brackets inside strings are skipped. */
static int check_depth(const char *text, size_t len, unsigned max_depth)
{
    unsigned depth = 0;
    int in_string = 0;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = 0;
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '{' || c == '[') {
            if (++depth > max_depth)
                return -1;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return 0;
}

int lh_json_parse(const char *text, size_t len, unsigned max_depth, json_t **ret_value,
                  struct lh_err *reterr)
{
    json_error_t je;
    json_t *value;

    if (check_depth(text, len, max_depth) < 0)
        return lh_err_set(reterr, LH_EINPUT, "JSON nested deeper than %u levels", max_depth);
    value = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
    if (!value)
        return lh_err_set(reterr, LH_EINPUT, "not valid JSON at line %d, column %d: %s", je.line,
                          je.column, je.text);
    *ret_value = value;
    return 0;
}

int lh_json_load(const char *path, size_t max_bytes, json_t **ret_value, struct lh_err *reterr)
{
    char *text;
    size_t len;
    int rc = lh_read_file(path, max_bytes, &text, &len, reterr);

    if (rc < 0)
        return rc;
    rc = lh_json_parse(text, len, 64, ret_value, reterr);
    free(text);
    return rc < 0 ? lh_err_prefix(reterr, rc, "'%s'", path) : 0;
}

char *lh_json_text(const json_t *value, int indent)
{
    return json_dumps(value, (indent ? (size_t)JSON_INDENT(indent) : (size_t)JSON_COMPACT) |
                                 JSON_ENCODE_ANY);
}

int lh_json_save(const char *path, const json_t *value, struct lh_err *reterr)
{
    char *text = lh_json_text(value, 2);
    size_t len;
    int rc;

    if (!text)
        return lh_err_set(reterr, -ENOMEM, "write '%s'", path);
    len = strlen(text);
    text[len] = '\n'; /* the terminating 0 makes room for the newline */
    rc = lh_write_file(path, text, len + 1, reterr);
    free(text);
    return rc;
}

const char *lh_json_str(const json_t *object, const char *key, const char *otherwise)
{
    const json_t *v = json_object_get(object, key);

    return json_is_string(v) ? json_string_value(v) : otherwise;
}

int64_t lh_json_i64(const json_t *object, const char *key, int64_t otherwise)
{
    const json_t *v = json_object_get(object, key);

    return json_is_integer(v) ? (int64_t)json_integer_value(v) : otherwise;
}

double lh_json_num(const json_t *object, const char *key, double otherwise)
{
    const json_t *v = json_object_get(object, key);

    return json_is_number(v) ? json_number_value(v) : otherwise;
}

int lh_json_bool(const json_t *object, const char *key, int otherwise)
{
    const json_t *v = json_object_get(object, key);

    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}
