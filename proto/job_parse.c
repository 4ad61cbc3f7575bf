/* job_parse.c - walks the table over a spec: types, ranges, defaults, and the echoed spec.
 *
 * Called by lh_job_parse alone. Every problem is recorded and the walk goes on with the default, so
 * that one answer names all of them. The input is only read; what is kept of it is copied.
 */
#include "proto/job_parse.h"
#include "proto/base/attr.h"
#include "proto/base/json.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

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
                       n == 0 ? "%s is an empty list; name at least one"
                              : "%s has %zu entries; at most %.0f are allowed",
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
            (void)wrong_type(p, f->path, value,
                             f->flags & FIELD_SWITCH ? "an object, true or false" : "an object");
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
        return v == floor(v) && fabs(v) < JOB_WHOLE_MAX ? json_integer((json_int_t)v)
                                                        : json_real(v);
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

/* Puts the default into the struct; lists and custom members read theirs as if it had been given.
 */
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

/* unusable: its section is null, or is no object (which is recorded there). */
static void absent_field(struct job_parser *p, const struct field *f, bool unusable)
{
    bool used = (f->kinds & p->kind_bit) != 0 && !unusable;
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
        lh_problem_add(p->problems, f->path, "missing",
                       "%s is missing; a job of kind %s needs it: %s", dotted_name(f->path, name),
                       lh_kind_name(p->job->kind), f->about);
    }
}

static void default_only(struct job_parser *p, const struct field *f, const json_t *value)
{
    LH_CLEANUP(lh_json_decrefp) json_t *otherwise = field_default(f);
    bool same = json_is_number(value) && json_is_number(otherwise)
                    ? json_number_value(value) == json_number_value(otherwise)
                    : json_equal(value, otherwise) == 1;
    char name[DOTTED_MAX], is[VALUE_TEXT_MAX];

    if (!otherwise)
        p->out_of_memory = true;
    else if (!same)
        lh_problem_add(p->problems, f->path, "not_supported",
                       "%s %s is not supported yet; leave it out", dotted_name(f->path, name),
                       value_text(value, is));
}

static void given_field(struct job_parser *p, const struct field *f, const json_t *value)
{
    unsigned before = p->problems->n;
    char name[DOTTED_MAX];

    if (f->flags & FIELD_NOT_BUILT) {
        lh_problem_add(p->problems, f->path, "not_supported",
                       "%s is known but not supported yet; leave it out",
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

/* One section of a copy of the spec: an object, or nothing. */
static bool switch_section(json_t *copy, const char *path, bool on)
{
    const char *leaf = strrchr(path, '/');
    struct job_parser view = {.input = copy};
    char section[64];
    json_t *at;

    (void)snprintf(section, sizeof(section), "%.*s", (int)(leaf - path), path);
    at = (json_t *)(uintptr_t)input_get(&view, section);
    return on ? json_object_set_new(at, leaf + 1, json_object()) == 0
              : json_object_del(at, leaf + 1) == 0;
}

json_t *job_switch(const json_t *spec)
{
    const struct job_parser view = {.input = spec};
    json_t *copy = NULL;

    for (unsigned i = 0; i < job_n_fields; i++) {
        const struct field *f = &job_fields[i];
        const json_t *value = f->flags & FIELD_SWITCH ? input_get(&view, f->path) : NULL;

        if (!json_is_boolean(value))
            continue;
        if (!copy)
            copy = json_deep_copy(spec);
        if (!copy || !switch_section(copy, f->path, json_is_true(value))) {
            json_decref(copy);
            return NULL;
        }
    }
    return copy ? copy : json_incref((json_t *)(uintptr_t)spec); /* NULL stays NULL */
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
        bool unusable = false;
        const json_t *value = input_find(p, f->path, &unusable);

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
            absent_field(p, f, unusable);
        }
    }
}
