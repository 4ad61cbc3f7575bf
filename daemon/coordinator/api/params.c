/* params.c - query parameters and header values of API requests, checked strictly: a mistyped value
 * is 400. */
#include "daemon/coordinator/api/api.h"
#include "proto/base/str.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void api_bad_param(struct api_call *c, const char *name, const char *detail)
{
    json_t *errors =
        json_pack("[{s:s, s:s, s:s}]", "pointer", name, "code", "bad_parameter", "detail", detail);

    http_answer_problem(c->q, 400, "bad_parameter", errors, "%s: %s", name, detail);
}

bool api_param_u64(struct api_call *c, const char *name, uint64_t min, uint64_t max,
                   uint64_t otherwise, uint64_t *ret_value)
{
    const char *text = http_query(c->q, name);
    char detail[128];
    int64_t value;

    if (!text) {
        *ret_value = otherwise;
        return true;
    }
    if (max > INT64_MAX)
        max = INT64_MAX;
    if (strspn(text, "0123456789") == strlen(text) &&
        lh_parse_i64(text, (int64_t)min, (int64_t)max, &value)) {
        *ret_value = (uint64_t)value;
        return true;
    }
    (void)snprintf(detail, sizeof(detail), "must be a whole number from %llu to %llu",
                   (unsigned long long)min, (unsigned long long)max);
    api_bad_param(c, name, detail);
    return false;
}

bool api_param_bool(struct api_call *c, const char *name, bool *ret_value)
{
    static const char *const yes[] = {"1", "true", "yes", ""};
    static const char *const no[] = {"0", "false", "no"};
    const char *text = http_query(c->q, name);

    *ret_value = false;
    if (!text)
        return true;
    for (size_t i = 0; i < LH_ARRAY_LEN(no); i++)
        if (strcmp(text, no[i]) == 0)
            return true;
    for (size_t i = 0; i < LH_ARRAY_LEN(yes); i++)
        if (strcmp(text, yes[i]) == 0) {
            *ret_value = true;
            return true;
        }
    api_bad_param(c, name, "must be true or false");
    return false;
}

bool api_etag(struct api_call *c, const char *header, uint64_t *ret_revision, bool *ret_any)
{
    const char *text = http_header(c->q, header);
    size_t n = text ? strlen(text) : 0;
    char digits[24];
    int64_t value;

    *ret_revision = 0;
    if (ret_any)
        *ret_any = false;
    if (!text)
        return true;
    if (strcmp(text, "*") == 0) {
        if (ret_any)
            *ret_any = true;
        return true;
    }
    if (n > 2 && n < sizeof(digits) && text[0] == '"' && text[n - 1] == '"') {
        memcpy(digits, text + 1, n - 2);
        digits[n - 2] = 0;
        if (strspn(digits, "0123456789") == n - 2 && lh_parse_i64(digits, 1, INT64_MAX, &value)) {
            *ret_revision = (uint64_t)value;
            return true;
        }
    }
    http_answer_problem(c->q, 400, "bad_etag", NULL,
                        "%s takes one ETag of a job, as \"12\" with its quotes", header);
    return false;
}

/* One element of an Accept header against type/subtype. *ret_named: not by a wildcard. */
static bool element_admits(const char *element, size_t n, const char *type, bool *ret_named)
{
    size_t range = strcspn(element, ";,");
    const char *slash = strchr(type, '/');
    size_t major = (size_t)(slash - type) + 1;
    const char *quality;
    char params[64];

    if (range > n)
        range = n;
    while (range > 0 && (element[range - 1] == ' ' || element[range - 1] == '\t'))
        range--;
    *ret_named = range == strlen(type) && strncasecmp(element, type, range) == 0;
    if (!*ret_named && !(range == 3 && strncmp(element, "*/*", 3) == 0) &&
        !(range == major + 1 && strncasecmp(element, type, major) == 0 && element[major] == '*'))
        return false;
    (void)snprintf(params, sizeof(params), "%.*s", (int)(n - range), element + range);
    quality = strcasestr(params, "q=");
    return !quality || strtod(quality + 2, NULL) > 0;
}

static bool accepts(const struct http_request *q, const char *type, bool by_name)
{
    const char *accept = http_header(q, "Accept");

    if (!accept || !*accept)
        return !by_name;
    while (*accept) {
        size_t n = strcspn(accept, ",");
        const char *element = accept;
        bool named;

        while (n > 0 && (*element == ' ' || *element == '\t')) {
            element++;
            n--;
        }
        if (n > 0 && element_admits(element, n, type, &named) && (named || !by_name))
            return true;
        accept = element + n;
        if (*accept == ',')
            accept++;
    }
    return false;
}

bool api_accepts(const struct http_request *q, const char *type)
{
    return accepts(q, type, false);
}

bool api_accepts_named(const struct http_request *q, const char *type)
{
    return accepts(q, type, true);
}

bool api_only(struct api_call *c, const char *type)
{
    if (api_accepts(c->q, type))
        return true;
    http_answer_problem(c->q, 406, "not_acceptable", NULL,
                        "this answers %s, which the Accept header does not admit", type);
    return false;
}
