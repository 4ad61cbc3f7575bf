/* yaml.c - see yaml.h; libyaml's document tree turned into jansson values. */
#include "daemon/cli/yaml.h"
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 64

static bool is_json_number(const char *s)
{
    char *end;

    if (s[0] == '\0' || strspn(s, "0123456789+-.eE") != strlen(s) || strpbrk(s, "0123456789") == NULL)
        return false;
    errno = 0;
    (void)strtod(s, &end);
    return *end == '\0';
}

static json_t *scalar(const yaml_node_t *node)
{
    const char *s = (const char *)node->data.scalar.value;
    size_t n = node->data.scalar.length;

    if (node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE) {
        if (n == 0 || strcmp(s, "null") == 0 || strcmp(s, "~") == 0)
            return json_null();
        if (strcmp(s, "true") == 0 || strcmp(s, "false") == 0)
            return json_boolean(s[0] == 't');
        if (is_json_number(s)) {
            char *end;
            long long whole;

            errno = 0;
            whole = strtoll(s, &end, 10);
            if (*end == '\0' && errno == 0)
                return json_integer(whole);
            return json_real(strtod(s, NULL));
        }
    }
    return json_stringn(s, n);
}

struct tree {
    yaml_document_t doc;
    ptrdiff_t budget; /* nodes not yet visited: an alias would visit one twice, and aliases of aliases explode */
};

static json_t *convert(struct tree *tree, int index, unsigned depth, struct lh_err *reterr)
{
    yaml_document_t *doc = &tree->doc;
    const yaml_node_t *node = yaml_document_get_node(doc, index);
    json_t *value;

    if (tree->budget-- == 0) {
        (void)lh_err_set(reterr, LH_EINPUT, "line %zu: aliases (*name) are not taken; write the value out",
                         node->start_mark.line + 1);
        return NULL;
    }
    if (depth > DEPTH_MAX) {
        (void)lh_err_set(reterr, LH_EINPUT, "line %zu: nested deeper than %d levels", node->start_mark.line + 1, DEPTH_MAX);
        return NULL;
    }
    if (node->type == YAML_SCALAR_NODE) {
        value = scalar(node);
        if (!value)
            (void)lh_err_set(reterr, LH_EINPUT, "line %zu: not UTF-8, or not a finite number", node->start_mark.line + 1);
        return value;
    }
    if (node->type == YAML_SEQUENCE_NODE) {
        value = json_array();
        for (yaml_node_item_t *i = node->data.sequence.items.start; value && i < node->data.sequence.items.top; i++) {
            json_t *item = convert(tree, *i, depth + 1, reterr);

            if (!item || json_array_append_new(value, item) < 0) {
                json_decref(value);
                return NULL;
            }
        }
        return value;
    }
    value = json_object();
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; value && p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(doc, p->key);
        json_t *item;

        if (key->type != YAML_SCALAR_NODE || json_object_get(value, (const char *)key->data.scalar.value)) {
            (void)lh_err_set(reterr, LH_EINPUT, "line %zu: %s", key->start_mark.line + 1,
                             key->type != YAML_SCALAR_NODE ? "a key must be a plain word" : "a key that stands there already");
            json_decref(value);
            return NULL;
        }
        item = convert(tree, p->value, depth + 1, reterr);
        if (!item || json_object_set_new(value, (const char *)key->data.scalar.value, item) < 0) {
            json_decref(value);
            return NULL;
        }
    }
    return value;
}

int yaml_to_json(const char *text, size_t len, json_t **ret_value, struct lh_err *reterr)
{
    yaml_parser_t parser;
    struct tree tree;
    const yaml_node_t *root;
    json_t *value = NULL;

    if (!yaml_parser_initialize(&parser))
        return lh_err_set(reterr, -ENOMEM, "YAML parser");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    if (!yaml_parser_load(&parser, &tree.doc)) {
        int rc = lh_err_set(reterr, LH_EINPUT, "line %zu: %s", parser.problem_mark.line + 1,
                            parser.problem ? parser.problem : "not YAML");

        yaml_parser_delete(&parser);
        return rc;
    }
    root = yaml_document_get_root_node(&tree.doc);
    tree.budget = tree.doc.nodes.top - tree.doc.nodes.start;
    if (!root)
        (void)lh_err_set(reterr, LH_EINPUT, "the file is empty");
    else if (root->type == YAML_SCALAR_NODE)
        (void)lh_err_set(reterr, LH_EINPUT, "a job is an object with members, not a single word");
    else
        value = convert(&tree, 1, 0, reterr);
    yaml_document_delete(&tree.doc);
    yaml_parser_delete(&parser);
    if (!value)
        return LH_EINPUT;
    *ret_value = value;
    return 0;
}
