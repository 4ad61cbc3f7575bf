/* tokenize.c - longhaul-worker --tokenize: what the tokenizer makes of each line, for tests and for
 * people. */
#include "proto/base/json.h"
#include "worker/commands.h"
#include "worker/text/tokenizer.h"
#include "worker/text/utf8.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *ids_json(const struct token_list *ids)
{
    json_t *list = json_array();

    for (size_t i = 0; i < ids->n; i++)
        json_array_append_new(list, json_integer(ids->at[i]));
    return list;
}

/* decoded need not be UTF-8 (a token may hold part of a character): what is broken becomes U+FFFD, as
 * Hugging Face prints it. */
static json_t *decoded_json(const char *text, size_t len)
{
    size_t n;
    char *clean = utf8_lossy(text, len, &n);
    json_t *value = clean ? json_stringn(clean, n) : NULL;

    free(clean);
    return value;
}

static int one_line(const struct tokenizer *t, const char *line, size_t len, FILE *out,
                    struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *in = NULL;
    LH_CLEANUP(lh_json_decrefp) json_t *result = NULL;
    struct token_list ids = {0}, plain = {0};
    char *decoded = NULL, *printed;
    const json_t *text;
    size_t n;
    json_error_t error;
    int rc;

    /* Not lh_json_parse: a text may hold the character 0. */
    in = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!in)
        return lh_err_set(reterr, LH_EINPUT, "not valid JSON at column %d: %s", error.column,
                          error.text);
    text = json_object_get(in, "text");
    if (!json_is_string(text))
        return lh_err_set(reterr, LH_EINPUT, "there is no string member \"text\"");
    rc = tokenizer_encode(t, json_string_value(text), json_string_length(text), true, &ids, reterr);
    if (rc == 0)
        rc = tokenizer_encode(t, json_string_value(text), json_string_length(text), false, &plain,
                              reterr);
    if (rc == 0)
        rc = tokenizer_decode(t, ids.at, ids.n, &decoded, &n, reterr);
    if (rc == 0) {
        result = json_pack("{s:O, s:o}", "text", text, "ids", ids_json(&ids));
        if (ids.n != plain.n || (ids.n && memcmp(ids.at, plain.at, ids.n * sizeof(*ids.at)) != 0))
            json_object_set_new(result, "plain_ids", ids_json(&plain));
        json_object_set_new(result, "decoded", decoded_json(decoded, n));
        printed = json_dumps(result, JSON_COMPACT); /* keeps the character 0 */
        if (!printed || fprintf(out, "%s\n", printed) < 0)
            rc = lh_err_set(reterr, -EIO, "write a line");
        free(printed);
    }
    free(decoded);
    token_list_release(&ids);
    token_list_release(&plain);
    return rc;
}

int worker_tokenize(const struct worker_options *o, struct lh_err *reterr)
{
    struct tokenizer *t = NULL;
    FILE *in, *out = NULL;
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int64_t number = 0;
    int rc = tokenizer_open(o->model, &t, reterr);

    if (rc < 0)
        return rc;
    in = fopen(o->in, "re");
    if (!in)
        rc = lh_err_set(reterr, -errno, "open '%s'", o->in);
    if (rc == 0 && !(out = fopen(o->out, "we")))
        rc = lh_err_set(reterr, -errno, "open '%s'", o->out);
    while (rc == 0 && (len = getline(&line, &cap, in)) > 0) {
        number++;
        if (line[len - 1] == '\n')
            len--;
        rc = one_line(t, line, (size_t)len, out, reterr);
        if (rc < 0)
            rc = lh_err_prefix(reterr, rc, "'%s' line %lld", o->in, (long long)number);
    }
    if (rc == 0 && ferror(in))
        rc = lh_err_set(reterr, -EIO, "read '%s'", o->in);
    if (in)
        (void)fclose(in);
    if (out && fclose(out) != 0 && rc == 0)
        rc = lh_err_set(reterr, -errno, "write '%s'", o->out);
    free(line);
    tokenizer_free(t);
    return rc;
}
