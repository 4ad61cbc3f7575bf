/* json.c - see json.h. */
#include "proto/base/json.h"
#include "proto/base/buf.h"
#include "proto/base/fs.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Text is at most what one list of jobs or one page of events makes; a larger value is our own
 * mistake. */
#define TEXT_MAX_BYTES ((size_t)1 << 30)
#define DEPTH_MAX 2048 /* jansson's own limit when it reads */

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

/* Jansson's words, but where they speak of bytes or of its own flags. */
static const char *why_not(const json_error_t *je)
{
    switch (json_error_code(je)) {
    case json_error_invalid_utf8:
        return "the text is not UTF-8";
    case json_error_null_character:
        return "\\u0000 is not taken in a string";
    default:
        return je->text;
    }
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
                          je.column, why_not(&je));
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

/* ---- writing: jansson prints a rate of 2e-5 as 2.0000000000000002e-05; people get to see our text
 * ---- */

struct writer {
    struct lh_buf out;
    int indent;
    int rc;
};

static void put(struct writer *w, const char *bytes, size_t n)
{
    if (w->rc == 0)
        w->rc = lh_buf_append(&w->out, bytes, n);
}

static void put_newline(struct writer *w, int level)
{
    static const char spaces[] = "                ";

    if (w->indent == 0)
        return;
    put(w, "\n", 1);
    for (int left = level * w->indent; left > 0; left -= (int)sizeof(spaces) - 1)
        put(w, spaces, (size_t)LH_MIN(left, (int)sizeof(spaces) - 1));
}

static void put_string(struct writer *w, const char *s)
{
    put(w, "\"", 1);
    while (*s) {
        size_t plain = 0;
        char escape[8];

        while ((unsigned char)s[plain] >= 0x20 && s[plain] != '"' && s[plain] != '\\')
            plain++;
        put(w, s, plain);
        s += plain;
        if (!*s)
            break;
        if (*s == '"' || *s == '\\')
            (void)snprintf(escape, sizeof(escape), "\\%c", *s);
        else if (*s == '\n')
            (void)snprintf(escape, sizeof(escape), "\\n");
        else if (*s == '\t')
            (void)snprintf(escape, sizeof(escape), "\\t");
        else
            (void)snprintf(escape, sizeof(escape), "\\u%04x", (unsigned char)*s);
        put(w, escape, strlen(escape));
        s++;
    }
    put(w, "\"", 1);
}

/* The shortest of 15 to 17 digits that reads back as the same number; never without a sign of being
 * real. */
static void put_real(struct writer *w, double v)
{
    char text[40], *e;

    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    e = strchr(text, 'e');
    if (e) { /* 1e-08 to 1e-8, 1e+20 to 1e20 */
        char *digits = e + 2 + strspn(e + 2, "0");

        e += e[1] == '-' ? 2 : 1;
        memmove(e, digits, strlen(digits) + 1);
    }
    put(w, text, strlen(text));
    if (!strpbrk(text, ".e"))
        put(w, ".0", 2);
}

static void put_value(struct writer *w, const json_t *value, int level);

static void put_members(struct writer *w, const json_t *object, int level)
{
    const char *key;
    json_t *member;
    size_t n = 0;

    put(w, "{", 1);
    json_object_foreach((json_t *)(uintptr_t)object, key, member)
    {
        if (n++ > 0)
            put(w, ",", 1);
        put_newline(w, level + 1);
        put_string(w, key);
        put(w, ": ", w->indent ? 2 : 1);
        put_value(w, member, level + 1);
    }
    if (n > 0)
        put_newline(w, level);
    put(w, "}", 1);
}

/* Lists of scalars stay on one line: shapes, betas, rows. */
static void put_entries(struct writer *w, const json_t *array, int level)
{
    size_t n = json_array_size(array);
    int nested = 0;

    for (size_t i = 0; i < n; i++)
        nested |=
            json_is_object(json_array_get(array, i)) || json_is_array(json_array_get(array, i));
    put(w, "[", 1);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            put(w, ", ", w->indent && !nested ? 2 : 1);
        if (nested)
            put_newline(w, level + 1);
        put_value(w, json_array_get(array, i), level + 1);
    }
    if (nested)
        put_newline(w, level);
    put(w, "]", 1);
}

static void put_value(struct writer *w, const json_t *value, int level)
{
    char number[32];

    assert(level <= DEPTH_MAX);
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        put_members(w, value, level);
        break;
    case JSON_ARRAY:
        put_entries(w, value, level);
        break;
    case JSON_STRING:
        put_string(w, json_string_value(value));
        break;
    case JSON_INTEGER:
        (void)snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        put(w, number, strlen(number));
        break;
    case JSON_REAL:
        put_real(w, json_real_value(value));
        break;
    case JSON_TRUE:
        put(w, "true", 4);
        break;
    case JSON_FALSE:
        put(w, "false", 5);
        break;
    default:
        put(w, "null", 4);
    }
}

char *lh_json_text(const json_t *value, int indent)
{
    struct writer w = {.indent = indent};

    if (!value)
        return NULL;
    lh_buf_init(&w.out, TEXT_MAX_BYTES);
    put_value(&w, value, 0);
    if (w.rc < 0) {
        lh_buf_release(&w.out);
        return NULL;
    }
    return lh_buf_take(&w.out);
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
