/* job_take.c - checks of single values of a job, with the texts that people read.
 *
 * Called by the walk (job_parse.c), by list-like members (job_value.c) and by the checks
 * (job_check.c). Each function records at most one problem for the value that it is given. Members
 * that nobody knows are job_unknown.c's.
 */
#include "proto/base/attr.h"
#include "proto/base/str.h"
#include "proto/job_parse.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- small things ---- */

const char *dotted_name(const char *pointer, char buf[static DOTTED_MAX])
{
    size_t n = 0;

    for (const char *p = pointer; *p && n + 4 < DOTTED_MAX; p++) {
        if (*p == '/' && p[1] >= '0' && p[1] <= '9') {
            buf[n++] = '[';
            while (p[1] >= '0' && p[1] <= '9' && n + 4 < DOTTED_MAX)
                buf[n++] = *++p;
            buf[n++] = ']';
        } else if (*p == '/') {
            if (n > 0)
                buf[n++] = '.';
        } else if (*p == '~' && (p[1] == '0' || p[1] == '1')) {
            buf[n++] = *++p == '0' ? '~' : '/';
        } else {
            buf[n++] = (unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p;
        }
    }
    buf[n] = '\0';
    lh_utf8_trim(buf);
    return buf[0] ? buf : "the job";
}

void pointer_append(char *pointer, size_t cap, const char *key)
{
    size_t n = strlen(pointer);

    if (n + 1 < cap)
        pointer[n++] = '/';
    for (; *key && n + 2 < cap; key++) {
        if (*key == '~' || *key == '/') {
            pointer[n++] = '~';
            pointer[n++] = *key == '~' ? '0' : '1';
        } else {
            pointer[n++] = *key;
        }
    }
    pointer[n] = '\0';
    lh_utf8_trim(pointer);
}

const json_t *input_find(const struct job_parser *p, const char *pointer, bool *ret_unusable)
{
    const json_t *at = p->input;
    char name[64];

    while (at && *pointer) {
        size_t n = strcspn(++pointer, "/");

        *ret_unusable = !json_is_object(at);
        assert(n < sizeof(name));
        memcpy(name, pointer, n);
        name[n] = '\0';
        at = json_object_get(at, name);
        pointer += n;
    }
    return at;
}

const json_t *input_get(const struct job_parser *p, const char *pointer)
{
    bool unusable;

    return input_find(p, pointer, &unusable);
}

bool has_problem(const struct job_parser *p, const char *pointer)
{
    size_t n = strlen(pointer);

    for (unsigned i = 0; i < p->problems->n; i++) {
        const char *other = p->problems->at[i].pointer;

        if (strncmp(other, pointer, n) == 0 && (other[n] == '\0' || other[n] == '/'))
            return true;
    }
    return false;
}

void *parser_alloc(struct job_parser *p, size_t n)
{
    void *memory = lh_arena_alloc(&p->job->arena, n);

    if (!memory)
        p->out_of_memory = true;
    return memory;
}

const char *value_text(const json_t *value, char buf[static VALUE_TEXT_MAX])
{
    if (json_is_string(value)) {
        const char *s = json_string_value(value);
        size_t n = 0;

        buf[n++] = '"';
        for (; *s && n < 61; s++)
            buf[n++] = (unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s;
        buf[n] = '\0';
        lh_utf8_trim(buf);
        (void)strcat(buf, *s ? "...\"" : "\"");
    } else if (json_is_integer(value)) {
        (void)snprintf(buf, VALUE_TEXT_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        (void)snprintf(buf, VALUE_TEXT_MAX, "%.15g", json_real_value(value));
    } else {
        (void)snprintf(buf, VALUE_TEXT_MAX, "%s",
                       json_is_null(value)      ? "null"
                       : json_is_boolean(value) ? (json_is_true(value) ? "true" : "false")
                       : json_is_array(value)   ? "a list"
                                                : "an object");
    }
    return buf;
}

bool wrong_type(struct job_parser *p, const char *pointer, const json_t *value, const char *wanted)
{
    char name[DOTTED_MAX], is[VALUE_TEXT_MAX];

    lh_problem_add(p->problems, pointer, "wrong_type", "%s is %s; it must be %s%s",
                   dotted_name(pointer, name), value_text(value, is), wanted,
                   json_is_null(value) ? ", or be left out" : "");
    return false;
}

/* "at least 2 and at most 16777216", "above 0 and below 1" */
static const char *range_text(const struct field *f, char buf[static 96])
{
    const char *low = f->flags & FIELD_ABOVE ? "above" : "at least";
    const char *high = f->flags & FIELD_BELOW ? "below" : "at most";

    if (f->max >= JOB_WHOLE_MAX)
        (void)snprintf(buf, 96, "%s %.15g", low, f->min);
    else
        (void)snprintf(buf, 96, "%s %.15g and %s %.15g", low, f->min, high, f->max);
    return buf;
}

const char *names_text(const struct field_names *names, char *buf, size_t cap)
{
    unsigned n_built = 0;
    const char *comma = "";
    size_t used;

    for (unsigned i = 0; i < names->n; i++)
        n_built += names->at[i].built;
    used = (size_t)snprintf(buf, cap, "%s", n_built > 1 ? "one of " : "");

    for (unsigned i = 0; i < names->n; i++) {
        if (!names->at[i].built)
            continue;
        assert(used < cap);
        used += (size_t)snprintf(buf + used, cap - used, "%s\"%s\"", comma, names->at[i].name);
        comma = ", ";
    }
    assert(used < cap);
    return buf;
}

/* ---- scalars ---- */

bool count_characters(struct job_parser *p, const char *pointer, const char *s,
                      const char *controls, unsigned *ret_chars)
{
    char name[DOTTED_MAX];
    unsigned chars = 0;

    for (const char *c = s; *c; c++) {
        if (((unsigned char)*c < 0x20 && !strchr(controls, *c)) || *c == 0x7f) {
            lh_problem_add(p->problems, pointer, "bad_value",
                           "%s holds a control character (byte 0x%02x); remove it",
                           dotted_name(pointer, name), (unsigned char)*c);
            return false;
        }
        chars += ((unsigned char)*c & 0xc0) != 0x80;
    }
    *ret_chars = chars;
    return true;
}

bool take_string(struct job_parser *p, const char *pointer, const json_t *value, unsigned min_chars,
                 unsigned max_chars, const char **ret_text)
{
    const char *s = json_string_value(value);
    char name[DOTTED_MAX];
    unsigned chars = 0;

    if (!s)
        return wrong_type(p, pointer, value, "a string");
    if (!count_characters(p, pointer, s, "", &chars))
        return false;
    if (chars < min_chars || chars > max_chars) {
        if (chars < min_chars)
            lh_problem_add(p->problems, pointer, "bad_value",
                           "%s is empty; give a text or leave it out", dotted_name(pointer, name));
        else
            lh_problem_add(p->problems, pointer, "too_long",
                           "%s has %u characters; at most %u are allowed",
                           dotted_name(pointer, name), chars, max_chars);
        return false;
    }
    *ret_text = lh_arena_strdup(&p->job->arena, s);
    if (!*ret_text)
        p->out_of_memory = true;
    return *ret_text != NULL;
}

bool take_uri(struct job_parser *p, const char *pointer, const json_t *value, const char **ret_text)
{
    struct lh_err err = {0};
    struct lh_uri uri;
    char name[DOTTED_MAX];

    if (!json_is_string(value))
        return wrong_type(p, pointer, value, "a path or an address (file://, s3://, job:ID/NAME)");
    if (!take_string(p, pointer, value, 1, sizeof(uri.path) - 1, ret_text))
        return false;
    if (lh_uri_parse(*ret_text, &uri, &err) < 0) {
        lh_problem_add(p->problems, pointer, "bad_value", "%s: %s", dotted_name(pointer, name),
                       err.text);
        return false;
    }
    if (uri.scheme == LH_URI_JOB && strcmp(uri.path, "shards") != 0 &&
        strcmp(uri.path, "checkpoint") != 0 && strcmp(uri.path, "export") != 0) {
        lh_problem_add(
            p->problems, pointer, "bad_value",
            "%s asks for the output \"%.60s\" of a job; outputs are shards, checkpoint and export",
            dotted_name(pointer, name), uri.path);
        return false;
    }
    return true;
}

bool take_number(struct job_parser *p, const char *pointer, const json_t *value,
                 const struct field *range, double *ret_value)
{
    char name[DOTTED_MAX], is[VALUE_TEXT_MAX], wanted[96];
    double v = json_number_value(value);

    if (!json_is_number(value))
        return wrong_type(p, pointer, value,
                          range->type == FIELD_INT ? "a whole number" : "a number");
    if (range->type == FIELD_INT && !json_is_integer(value)) {
        if (v == floor(v) && fabs(v) <= JOB_WHOLE_MAX)
            (void)snprintf(wanted, sizeof(wanted), "a whole number (write %.0f)", v);
        else
            (void)snprintf(wanted, sizeof(wanted), "a whole number");
        return wrong_type(p, pointer, value, wanted);
    }
    if (!(v >= range->min && v <= range->max) || (range->flags & FIELD_ABOVE && v == range->min) ||
        (range->flags & FIELD_BELOW && v == range->max)) {
        lh_problem_add(p->problems, pointer, "out_of_range", "%s is %s; it must be %s",
                       dotted_name(pointer, name), value_text(value, is),
                       range_text(range, wanted));
        return false;
    }
    *ret_value = v;
    return true;
}

bool take_name(struct job_parser *p, const char *pointer, const json_t *value,
               const struct field_names *names, unsigned *ret_index)
{
    const char *s = json_string_value(value), *candidates[16], *nearest;
    char name[DOTTED_MAX], is[VALUE_TEXT_MAX], wanted[200];

    assert(names->n <= LH_ARRAY_LEN(candidates));
    (void)names_text(names, wanted, sizeof(wanted));
    if (!s)
        return wrong_type(p, pointer, value, wanted);
    for (unsigned i = 0; i < names->n; i++) {
        candidates[i] = names->at[i].name;
        if (strcmp(s, names->at[i].name) != 0)
            continue;
        if (!names->at[i].built) {
            lh_problem_add(p->problems, pointer, "not_supported",
                           "%s \"%s\" is not supported yet; it must be %s",
                           dotted_name(pointer, name), s, wanted);
            return false;
        }
        *ret_index = i;
        return true;
    }
    nearest = lh_nearest(s, candidates, names->n);
    lh_problem_add(p->problems, pointer, "bad_value", "%s is %s; it must be %s%s%s%s",
                   dotted_name(pointer, name), value_text(value, is), wanted,
                   nearest ? " (did you mean \"" : "", nearest ? nearest : "",
                   nearest ? "\"?)" : "");
    return false;
}
