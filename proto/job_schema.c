/* job_schema.c - the JSON Schema (2020-12) of a job, made from the table.
 *
 * It describes what this build accepts: members and names that are known but not built are left
 * out. What it admits is refused by nothing but the form of addresses and the checks between
 * members (job_check.c).
 */
#include "proto/base/attr.h"
#include "proto/base/json.h"
#include "proto/job_parse.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

static void put(json_t *object, const char *key, json_t *value)
{
    (void)json_object_set_new(object, key, value);
}

static json_t *number_json(double v)
{
    return v == (double)(json_int_t)v ? json_integer((json_int_t)v) : json_real(v);
}

/* JOB-5 */
static void put_no_controls(json_t *schema)
{
    put(schema, "pattern", json_string("^[^\\u0000-\\u001f\\u007f]*$"));
}

static void put_type(json_t *schema, const struct field *f, const char *type)
{
    if (f->flags & FIELD_NULL_OK)
        put(schema, "type", json_pack("[s, s]", type, "null"));
    else if (f->flags & FIELD_SWITCH)
        put(schema, "type", json_pack("[s, s]", type, "boolean"));
    else
        put(schema, "type", json_string(type));
}

static void put_names(json_t *schema, const struct field_names *names)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < names->n; i++)
        if (names->at[i].built)
            (void)json_array_append_new(list, json_string(names->at[i].name));
    put(schema, "enum", list);
}

static void put_range(json_t *schema, const struct field *f)
{
    if (f->flags & FIELD_DEFAULT_ONLY) {
        put(schema, "const", field_default(f));
        return;
    }
    put(schema, f->flags & FIELD_ABOVE ? "exclusiveMinimum" : "minimum", number_json(f->min));
    put(schema, f->flags & FIELD_BELOW ? "exclusiveMaximum" : "maximum", number_json(f->max));
}

static void put_list(json_t *schema, const struct field *f)
{
    put_type(schema, f, "array");
    put(schema, "items", json_pack("{s:s, s:i}", "type", "string", "minLength", 1));
    put(schema, "minItems", number_json(f->min));
    put(schema, "maxItems", number_json(f->flags & FIELD_DEFAULT_ONLY ? 0 : f->max));
}

static json_t *field_schema(const struct field *f)
{
    json_t *schema = f->schema ? json_loads(f->schema, 0, NULL) : json_object();

    assert(schema);
    switch (f->type) {
    case FIELD_OBJECT:
        put_type(schema, f, "object");
        put(schema, "properties", json_object());
        put(schema, "additionalProperties", json_false());
        break;
    case FIELD_STRING:
        put_type(schema, f, "string");
        put(schema, "minLength", number_json(f->min));
        put(schema, "maxLength", number_json(f->max));
        put_no_controls(schema);
        break;
    case FIELD_URI:
        put_type(schema, f, "string");
        put(schema, "minLength", json_integer(1));
        put(schema, "maxLength", json_integer(1023));
        put_no_controls(schema);
        break;
    case FIELD_INT:
        put_type(schema, f, "integer");
        put_range(schema, f);
        break;
    case FIELD_NUMBER:
        put_type(schema, f, "number");
        put_range(schema, f);
        break;
    case FIELD_BOOL:
        put_type(schema, f, "boolean");
        if (f->flags & FIELD_DEFAULT_ONLY)
            put(schema, "const", field_default(f));
        break;
    case FIELD_ENUM:
    case FIELD_CHOICE:
        put_names(schema, f->names);
        break;
    case FIELD_STRINGS:
    case FIELD_URIS:
        put_list(schema, f);
        break;
    case FIELD_CUSTOM:
        break;
    }
    if (f->flags & FIELD_HAS_DEFAULT)
        put(schema, "default", field_default(f));
    put(schema, "description", json_string(f->about));
    return schema;
}

/* The schema object under which the members of the section of path stand; its last name goes to
 * *ret_leaf. */
static json_t *section_schema(json_t *root, const char *path, const char **ret_leaf)
{
    json_t *at = root;
    char name[64];

    for (const char *p = path + 1;;) {
        size_t n = strcspn(p, "/");

        if (!p[n]) {
            *ret_leaf = p;
            return at;
        }
        (void)snprintf(name, sizeof(name), "%.*s", (int)n, p);
        if (!json_object_get(at, "properties"))
            put(at, "properties", json_object());
        if (!json_object_get(json_object_get(at, "properties"), name))
            put(json_object_get(at, "properties"), name, json_object());
        at = json_object_get(json_object_get(at, "properties"), name);
        p += n + 1;
    }
}

/* Marks the last name, and each section on the way to it, as required. */
static void require(json_t *root, const char *path)
{
    char prefix[64];

    for (const char *end = path;;) {
        const char *name;
        json_t *at, *list;
        bool there = false;

        end = path + (end - path) + 1;
        end += strcspn(end, "/");
        (void)snprintf(prefix, sizeof(prefix), "%.*s", (int)(end - path), path);
        at = section_schema(root, prefix, &name);
        if (!json_object_get(at, "required"))
            put(at, "required", json_array());
        list = json_object_get(at, "required");
        for (size_t i = 0; i < json_array_size(list); i++)
            there = there || strcmp(json_string_value(json_array_get(list, i)), name) == 0;
        if (!there)
            (void)json_array_append_new(list, json_string(name));
        if (!*end)
            return;
    }
}

/* What one kind needs beside the kind: {"if": {kind is K}, "then": {...required...}}, or NULL. */
static json_t *kind_schema(unsigned kind)
{
    json_t *then = json_object();

    for (unsigned i = 0; i < job_n_fields; i++)
        if (job_fields[i].required & 1u << kind && strcmp(job_fields[i].path, "/kind") != 0)
            require(then, job_fields[i].path);
    if (json_object_size(then) == 0) {
        json_decref(then);
        return NULL;
    }
    return json_pack("{s:{s:{s:{s:s}}}, s:o}", "if", "properties", "kind", "const",
                     kind_names.at[kind].name, "then", then);
}

json_t *lh_job_schema(void)
{
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:{}, s:b, s:[s], s:[]}", "$schema",
                  "https://json-schema.org/draft/2020-12/schema", "title", "longhaul job", "type",
                  "object", "properties", "additionalProperties", 0, "required", "kind", "allOf");

    for (unsigned i = 0; i < job_n_fields; i++) {
        const struct field *f = &job_fields[i];
        const char *name;
        json_t *section;

        if (f->flags & FIELD_NOT_BUILT)
            continue;
        section = section_schema(root, f->path, &name);
        put(json_object_get(section, "properties"), name, field_schema(f));
    }
    for (unsigned kind = 0; kind < kind_names.n; kind++) {
        json_t *rule = kind_names.at[kind].built ? kind_schema(kind) : NULL;

        if (rule)
            (void)json_array_append_new(json_object_get(root, "allOf"), rule);
    }
    return root;
}
