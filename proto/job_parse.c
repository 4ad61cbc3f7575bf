/* job_parse.c - walks the table over a spec: types, ranges, defaults, and the echoed spec.
 *
 * Called by lh_job_parse alone. Every problem is recorded and the walk goes on with the default, so that one
 * answer names all of them. The input is only read; what is kept of it is copied.
 */
#include "proto/job_parse.h"
#include "proto/base/attr.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define POINTER_MAX sizeof(((struct lh_problem *)0)->pointer)
#define NAMES_MAX 128 /* members of the table, with room; a static_assert would need its length here */

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

const json_t *input_get(const struct job_parser *p, const char *pointer)
{
    const json_t *at = p->input;
    char name[64];

    while (at && *pointer) {
        size_t n = strcspn(++pointer, "/");

        assert(n < sizeof(name));
        memcpy(name, pointer, n);
        name[n] = '\0';
        at = json_object_get(at, name);
        pointer += n;
    }
    return at;
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

/* Text for people of a scalar: a string in quotes and cut at 60 bytes, a number as written. */
static const char *value_text(const json_t *value, char buf[static 96])
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
        (void)snprintf(buf, 96, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        (void)snprintf(buf, 96, "%.15g", json_real_value(value));
    } else {
        (void)snprintf(buf, 96, "%s",
                       json_is_null(value)      ? "null"
                       : json_is_boolean(value) ? (json_is_true(value) ? "true" : "false")
                       : json_is_array(value)   ? "a list"
                                                : "an object");
    }
    return buf;
}

bool wrong_type(struct job_parser *p, const char *pointer, const json_t *value, const char *wanted)
{
    char name[DOTTED_MAX], is[96];

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

/* 'one of "prepare", "train"', or '"cpu"': only what this build takes. */
static const char *names_text(const struct field_names *names, char *buf, size_t cap)
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

bool take_string(struct job_parser *p, const char *pointer, const json_t *value, unsigned min_chars,
                 unsigned max_chars, const char **ret_text)
{
    const char *s = json_string_value(value);
    char name[DOTTED_MAX];
    unsigned chars = 0;

    if (!s)
        return wrong_type(p, pointer, value, "a string");
    for (const char *c = s; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            lh_problem_add(p->problems, pointer, "bad_value",
                           "%s holds a control character (byte 0x%02x); remove it",
                           dotted_name(pointer, name), (unsigned char)*c);
            return false;
        }
        chars += ((unsigned char)*c & 0xc0) != 0x80;
    }
    if (chars < min_chars || chars > max_chars) {
        if (chars < min_chars)
            lh_problem_add(p->problems, pointer, "bad_value", "%s is empty; give a text or leave it out",
                           dotted_name(pointer, name));
        else
            lh_problem_add(p->problems, pointer, "too_long", "%s has %u characters; at most %u are allowed",
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
        lh_problem_add(p->problems, pointer, "bad_value", "%s: %s", dotted_name(pointer, name), err.text);
        return false;
    }
    if (uri.scheme == LH_URI_JOB && strcmp(uri.path, "shards") != 0 && strcmp(uri.path, "checkpoint") != 0 &&
        strcmp(uri.path, "export") != 0) {
        lh_problem_add(p->problems, pointer, "bad_value",
                       "%s asks for the output \"%.60s\" of a job; outputs are shards, checkpoint and export",
                       dotted_name(pointer, name), uri.path);
        return false;
    }
    return true;
}

bool take_number(struct job_parser *p, const char *pointer, const json_t *value, const struct field *range,
                 double *ret_value)
{
    char name[DOTTED_MAX], is[96], wanted[96];
    double v = json_number_value(value);

    if (!json_is_number(value))
        return wrong_type(p, pointer, value, range->type == FIELD_INT ? "a whole number" : "a number");
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
                       dotted_name(pointer, name), value_text(value, is), range_text(range, wanted));
        return false;
    }
    *ret_value = v;
    return true;
}

bool take_name(struct job_parser *p, const char *pointer, const json_t *value,
               const struct field_names *names, unsigned *ret_index)
{
    const char *s = json_string_value(value), *candidates[16], *nearest;
    char name[DOTTED_MAX], is[96], wanted[200];

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
                           "%s \"%s\" is not supported yet; it must be %s", dotted_name(pointer, name), s,
                           wanted);
            return false;
        }
        *ret_index = i;
        return true;
    }
    nearest = lh_nearest(s, candidates, names->n);
    lh_problem_add(p->problems, pointer, "bad_value", "%s is %s; it must be %s%s%s%s",
                   dotted_name(pointer, name), value_text(value, is), wanted,
                   nearest ? " (did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?)" : "");
    return false;
}

/* ---- unknown members ---- */

/* Appends "/" and key as RFC 6901 wants it; cut where it does not fit. */
static void pointer_append(char *pointer, size_t cap, const char *key)
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

void refuse_unknown(struct job_parser *p, const char *pointer, const json_t *value,
                    const char *const *names, unsigned n)
{
    const char *key;
    json_t *member;

    json_object_foreach ((json_t *)(uintptr_t)value, key, member) {
        char at[POINTER_MAX], name[DOTTED_MAX];
        const char *nearest;
        unsigned i = 0;

        while (i < n && strcmp(names[i], key) != 0)
            i++;
        if (i < n)
            continue;
        (void)snprintf(at, sizeof(at), "%s", pointer);
        pointer_append(at, sizeof(at), key);
        nearest = lh_nearest(key, names, n);
        lh_problem_add(p->problems, at, "unknown_member", "unknown member %s%s%s%s", dotted_name(at, name),
                       nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
    }
}

/* The last name of a path. */
static const char *leaf(const char *path)
{
    return strrchr(path, '/') + 1;
}

/* What the user may have meant: a member of the same section, else one of that very name elsewhere. */
static const char *suggest(const char *section, const char *key, char buf[static DOTTED_MAX])
{
    const char *leaves[NAMES_MAX], *paths[NAMES_MAX], *nearest;
    size_t len = strlen(section);
    unsigned n = 0;

    for (unsigned i = 0; i < job_n_fields; i++) {
        const char *path = job_fields[i].path;

        if (strncmp(path, section, len) != 0 || path[len] != '/' || strchr(path + len + 1, '/'))
            continue;
        assert(n < NAMES_MAX);
        leaves[n] = path + len + 1;
        paths[n++] = path;
    }
    nearest = lh_nearest(key, leaves, n);
    for (unsigned i = 0; nearest && i < n; i++)
        if (leaves[i] == nearest)
            return dotted_name(paths[i], buf);
    for (unsigned i = 0; i < job_n_fields; i++)
        if (strcmp(leaf(job_fields[i].path), key) == 0)
            return dotted_name(job_fields[i].path, buf);
    return NULL;
}

/* Sections nest as deep as the table does, so the recursion is bounded by it. */
static void refuse_unknown_below(struct job_parser *p, const char *section, const json_t *object)
{
    const char *key;
    json_t *member;

    json_object_foreach ((json_t *)(uintptr_t)object, key, member) {
        char at[POINTER_MAX], name[DOTTED_MAX], hint[DOTTED_MAX];
        const struct field *f;
        const char *nearest;

        (void)snprintf(at, sizeof(at), "%s", section);
        pointer_append(at, sizeof(at), key);
        f = strlen(key) < 64 ? field_find(at) : NULL;
        if (f && f->type == FIELD_OBJECT && json_is_object(member))
            refuse_unknown_below(p, at, member);
        if (f)
            continue;
        nearest = suggest(section, key, hint);
        lh_problem_add(p->problems, at, "unknown_member", "unknown member %s%s%s%s", dotted_name(at, name),
                       nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
    }
}

/* ---- storing one member ---- */

static void store_number(struct job_parser *p, const struct field *f, double value)
{
    void *at = (char *)p->job + f->offset;

    if (f->type == FIELD_NUMBER)
        *(double *)at = value;
    else if (f->type == FIELD_INT)
        *(int64_t *)at = (int64_t)value;
    else if (f->type == FIELD_BOOL)
        *(bool *)at = value != 0;
    else
        memcpy(at, &(int){(int)value}, sizeof(int)); /* an enum */
}

static void take_list(struct job_parser *p, const struct field *f, const json_t *value)
{
    struct lh_strings *list = (struct lh_strings *)((char *)p->job + f->offset);
    size_t n = json_array_size(value);
    char at[POINTER_MAX], name[DOTTED_MAX];
    const char **strings;

    if (!json_is_array(value)) {
        (void)wrong_type(p, f->path, value, "a list of strings");
        return;
    }
    if ((double)n < f->min || (double)n > f->max) {
        lh_problem_add(p->problems, f->path, n == 0 ? "bad_value" : "too_long",
                       n == 0 ? "%s is an empty list; name at least one" : "%s has %zu entries; at most %.0f are allowed",
                       dotted_name(f->path, name), n, f->max);
        return;
    }
    strings = parser_alloc(p, LH_MAX(n, (size_t)1) * sizeof(*strings));
    if (!strings)
        return;
    for (size_t i = 0; i < n; i++) {
        const json_t *entry = json_array_get(value, i);

        (void)snprintf(at, sizeof(at), "%s/%zu", f->path, i);
        if (f->type == FIELD_URIS)
            (void)take_uri(p, at, entry, &strings[i]);
        else
            (void)take_string(p, at, entry, 1, 120, &strings[i]);
    }
    *list = (struct lh_strings){strings, (unsigned)n};
}

/* Type, range and place of one given value. */
static void take_field(struct job_parser *p, const struct field *f, const json_t *value)
{
    char *at = (char *)p->job + f->offset;
    const char *text;
    unsigned index;
    double number;

    switch (f->type) {
    case FIELD_OBJECT:
        if (!json_is_object(value))
            (void)wrong_type(p, f->path, value, "an object");
        break;
    case FIELD_STRING:
        if (take_string(p, f->path, value, (unsigned)f->min, (unsigned)f->max, &text))
            *(const char **)at = text;
        break;
    case FIELD_URI:
        if (take_uri(p, f->path, value, &text))
            *(const char **)at = text;
        break;
    case FIELD_INT:
    case FIELD_NUMBER:
        if (take_number(p, f->path, value, f, &number))
            store_number(p, f, number);
        break;
    case FIELD_BOOL:
        if (json_is_boolean(value))
            store_number(p, f, json_is_true(value));
        else
            (void)wrong_type(p, f->path, value, "true or false");
        break;
    case FIELD_ENUM:
        if (take_name(p, f->path, value, f->names, &index))
            store_number(p, f, index);
        break;
    case FIELD_CHOICE:
        if (take_name(p, f->path, value, f->names, &index))
            *(const char **)at = f->names->at[index].name;
        break;
    case FIELD_STRINGS:
    case FIELD_URIS:
        take_list(p, f, value);
        break;
    case FIELD_CUSTOM:
        f->take(p, f, value);
        break;
    }
}

/* ---- defaults ---- */

json_t *field_default(const struct field *f)
{
    double v = f->otherwise.number;

    if (!(f->flags & FIELD_HAS_DEFAULT))
        return NULL;
    switch (f->type) {
    case FIELD_INT:
        return json_integer((json_int_t)v);
    case FIELD_NUMBER:
        return v == floor(v) && fabs(v) < JOB_WHOLE_MAX ? json_integer((json_int_t)v) : json_real(v);
    case FIELD_BOOL:
        return json_boolean(v != 0);
    case FIELD_ENUM:
        return json_string(f->names->at[(unsigned)v].name);
    case FIELD_STRING:
    case FIELD_CHOICE:
        return json_string(f->otherwise.text);
    default:
        return json_loads(f->otherwise.text, JSON_DECODE_ANY, NULL);
    }
}

/* Puts the default into the struct; lists and custom members read theirs as if it had been given. */
static void store_default(struct job_parser *p, const struct field *f)
{
    LH_CLEANUP(lh_json_decrefp) json_t *value = NULL;

    switch (f->type) {
    case FIELD_STRING:
    case FIELD_CHOICE:
        *(const char **)((char *)p->job + f->offset) = f->otherwise.text;
        return;
    case FIELD_STRINGS:
    case FIELD_URIS:
    case FIELD_CUSTOM:
        value = field_default(f);
        if (value)
            take_field(p, f, value);
        else
            p->out_of_memory = true;
        return;
    default:
        store_number(p, f, f->otherwise.number);
    }
}

/* ---- the echoed spec ---- */

/* Sets a member of the spec (value is stolen), making its sections. */
static void spec_set(struct job_parser *p, const char *pointer, json_t *value)
{
    json_t *at = p->job->spec;
    char name[64];

    for (;;) {
        size_t n = strcspn(++pointer, "/");
        json_t *section;

        assert(n < sizeof(name));
        memcpy(name, pointer, n);
        name[n] = '\0';
        pointer += n;
        if (!*pointer)
            break;
        section = json_object_get(at, name);
        if (!section && json_object_set_new(at, name, section = json_object()) < 0)
            p->out_of_memory = true;
        at = section;
    }
    if (!value || json_object_set_new(at, name, value) < 0)
        p->out_of_memory = true;
}

/* The section of a member was given (the root always is). */
static bool section_given(const struct job_parser *p, const char *path)
{
    char section[64];

    (void)snprintf(section, sizeof(section), "%.*s", (int)(strrchr(path, '/') - path), path);
    return json_is_object(input_get(p, section));
}

/* A section above this member is no object (which is recorded), or is null. */
static bool section_unusable(const struct job_parser *p, const char *path)
{
    char section[64];

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        const json_t *value;

        (void)snprintf(section, sizeof(section), "%.*s", (int)(slash - path), path);
        value = input_get(p, section);
        if (value && !json_is_object(value))
            return true;
    }
    return false;
}

static void absent_field(struct job_parser *p, const struct field *f)
{
    bool used = (f->kinds & p->kind_bit) != 0 && !section_unusable(p, f->path);
    bool echoed = used && (!(f->flags & FIELD_IF_SECTION) || section_given(p, f->path));
    char name[DOTTED_MAX];
    double derived;

    if (f->flags & FIELD_HAS_DEFAULT) {
        store_default(p, f);
        if (echoed)
            spec_set(p, f->path, field_default(f));
    } else if (f->derive && used && f->derive(p->job, &derived)) {
        store_number(p, f, derived);
        spec_set(p, f->path, json_integer((json_int_t)derived));
    } else if (used && f->required & p->kind_bit) {
        lh_problem_add(p->problems, f->path, "missing", "%s is missing; a job of kind %s needs it: %s",
                       dotted_name(f->path, name), lh_kind_name(p->job->kind), f->about);
    }
}

static void default_only(struct job_parser *p, const struct field *f, const json_t *value)
{
    LH_CLEANUP(lh_json_decrefp) json_t *otherwise = field_default(f);
    bool same = json_is_number(value) && json_is_number(otherwise)
                    ? json_number_value(value) == json_number_value(otherwise)
                    : json_equal(value, otherwise) == 1;
    char name[DOTTED_MAX], is[96];

    if (!same)
        lh_problem_add(p->problems, f->path, "not_supported", "%s %s is not supported yet; leave it out",
                       dotted_name(f->path, name), value_text(value, is));
}

static void given_field(struct job_parser *p, const struct field *f, const json_t *value)
{
    unsigned before = p->problems->n;
    char name[DOTTED_MAX];

    if (f->flags & FIELD_NOT_BUILT) {
        lh_problem_add(p->problems, f->path, "not_supported", "%s is known but not supported yet; leave it out",
                       dotted_name(f->path, name));
        return;
    }
    if (f->flags & FIELD_HAS_DEFAULT)
        store_default(p, f); /* stands when the value is refused */
    take_field(p, f, value);
    if (p->problems->n == before && f->flags & FIELD_DEFAULT_ONLY)
        default_only(p, f, value);
    if (f->has_offset)
        *((bool *)p->job + f->has_offset) = true;
    if (f->type != FIELD_OBJECT)
        spec_set(p, f->path, json_deep_copy(value));
}

static void read_kind(struct job_parser *p)
{
    const json_t *kind = input_get(p, "/kind");
    unsigned index;

    if (!kind) {
        char wanted[200];

        lh_problem_add(p->problems, "/kind", "missing", "kind is missing; it must be %s",
                       names_text(&kind_names, wanted, sizeof(wanted)));
        return;
    }
    if (take_name(p, "/kind", kind, &kind_names, &index)) {
        p->job->kind = (enum lh_kind)index;
        p->kind_bit = 1u << index;
    }
}

void job_read(struct job_parser *p)
{
    refuse_unknown_below(p, "", p->input);
    read_kind(p);
    for (unsigned i = 0; i < job_n_fields; i++) {
        const struct field *f = &job_fields[i];
        const json_t *value = section_unusable(p, f->path) ? NULL : input_get(p, f->path);

        if (strcmp(f->path, "/kind") == 0) {
            if (p->kind_bit)
                spec_set(p, f->path, json_string(lh_kind_name(p->job->kind)));
        } else if (json_is_null(value) && f->flags & FIELD_NULL_OK) {
            if (f->type == FIELD_OBJECT) { /* "adapter": null */
                p->job->full_finetune = true;
                spec_set(p, f->path, json_null());
            }
        } else if (value) {
            given_field(p, f, value);
        } else {
            absent_field(p, f);
        }
    }
}
