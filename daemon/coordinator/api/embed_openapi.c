/* embed_openapi.c - a tool of the build: proto/spec/openapi.yaml becomes the C array that longhauld
 * serves as JSON.
 *
 *   embed_openapi openapi.yaml VERSION OUT.c
 *
 * components.schemas.JobSpec of the YAML is a placeholder; the schema that proto/job makes from its
 * table of members stands in its place, so that the document cannot fall behind the parser. Plain
 * scalars are read by YAML's core schema, quoted ones are strings; anchors are followed, merges are
 * not.
 */
#include "proto/base/json.h"
#include "proto/job.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 64

static json_t *scalar(const yaml_node_t *n)
{
    const char *text = (const char *)n->data.scalar.value;
    size_t len = n->data.scalar.length;
    char *end;

    if (n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return json_stringn(text, len);
    if (strcmp(text, "") == 0 || strcmp(text, "null") == 0 || strcmp(text, "~") == 0)
        return json_null();
    if (strcmp(text, "true") == 0)
        return json_true();
    if (strcmp(text, "false") == 0)
        return json_false();
    if (strspn(text, "-0123456789") == len) {
        long long value = strtoll(text, &end, 10);

        if (!*end)
            return json_integer(value);
    }
    if (strspn(text, "-+.eE0123456789") == len && strpbrk(text, "0123456789")) {
        double value = strtod(text, &end);

        if (!*end)
            return json_real(value);
    }
    return json_stringn(text, len);
}

static json_t *convert(yaml_document_t *doc, yaml_node_t *n, unsigned depth)
{
    json_t *value = NULL;

    if (!n || depth > DEPTH_MAX)
        return NULL;
    if (n->type == YAML_SCALAR_NODE)
        return scalar(n);
    if (n->type == YAML_SEQUENCE_NODE) {
        value = json_array();
        for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top;
             i++)
            if (json_array_append_new(value,
                                      convert(doc, yaml_document_get_node(doc, *i), depth + 1)) < 0)
                return NULL;
        return value;
    }
    value = json_object();
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        yaml_node_t *key = yaml_document_get_node(doc, p->key);
        const char *name =
            key && key->type == YAML_SCALAR_NODE ? (const char *)key->data.scalar.value : NULL;

        if (!name || json_object_get(value, name)) {
            fprintf(stderr, "line %zu: a key is no word, or is there twice: %s\n",
                    n->start_mark.line + 1, name ? name : "?");
            return NULL;
        }
        if (json_object_set_new(value, name,
                                convert(doc, yaml_document_get_node(doc, p->value), depth + 1)) < 0)
            return NULL;
    }
    return value;
}

static json_t *load(const char *path)
{
    yaml_parser_t parser;
    yaml_document_t doc;
    json_t *value = NULL;
    FILE *f = fopen(path, "rb");

    if (!f || !yaml_parser_initialize(&parser)) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        if (f)
            (void)fclose(f);
        return NULL;
    }
    yaml_parser_set_input_file(&parser, f);
    if (!yaml_parser_load(&parser, &doc)) {
        fprintf(stderr, "%s:%zu: %s\n", path, parser.problem_mark.line + 1, parser.problem);
    } else {
        value = convert(&doc, yaml_document_get_root_node(&doc), 0);
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&parser);
    (void)fclose(f);
    return value;
}

static int write_source(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    size_t n = strlen(text);

    if (!f)
        return -errno;
    fprintf(f, "/* Made by embed_openapi from proto/spec/openapi.yaml. */\n"
               "#include \"daemon/coordinator/api/api.h\"\n\nconst char api_openapi_json[] = {");
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%s%d,", i % 24 == 0 ? "\n" : "", (signed char)text[i]);
    fprintf(f, "\n0};\nconst unsigned long api_openapi_json_len = %zu;\n", n);
    return fclose(f) == 0 ? 0 : -errno;
}

int main(int argc, char **argv)
{
    json_t *api, *info, *schemas, *job;
    char *text;

    if (argc != 4) {
        fprintf(stderr, "usage: embed_openapi openapi.yaml VERSION OUT.c\n");
        return 2;
    }
    api = load(argv[1]);
    info = json_object_get(api, "info");
    schemas = json_object_get(json_object_get(api, "components"), "schemas");
    job = lh_job_schema();
    if (!api || !info || !json_object_get(schemas, "JobSpec") || !job) {
        fprintf(stderr, "%s: no info, or no components.schemas.JobSpec\n", argv[1]);
        return 1;
    }
    (void)json_object_set_new(info, "version", json_string(argv[2]));
    (void)json_object_del(job, "$schema"); /* the document's own dialect is the same */
    (void)json_object_set_new(schemas, "JobSpec", job);
    text = lh_json_text(api, 0);
    if (!text || write_source(argv[3], text) < 0) {
        fprintf(stderr, "%s cannot be written\n", argv[3]);
        return 1;
    }
    free(text);
    json_decref(api);
    return 0;
}
