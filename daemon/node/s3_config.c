/* s3_config.c - see s3_config.h. */
#include "daemon/node/s3_config.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (64u << 10)

/* The value of NAME in text (lines NAME=value), or of the environment when text is NULL. False:
 * absent or empty. */
static bool lookup(const char *text, const char *name, char *buf, size_t cap)
{
    size_t n = strlen(name);

    if (!text) {
        const char *value = getenv(name);

        if (!value || !*value)
            return false;
        (void)snprintf(buf, cap, "%s", value);
        return true;
    }
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += strspn(line, "\n \t");
        if (lh_starts_with(line, "export "))
            line += 7;
        if (strncmp(line, name, n) == 0 && line[n] == '=') {
            const char *value = line + n + 1;
            size_t len = strcspn(value, "\r\n");

            if (len >= 2 && (*value == '"' || *value == '\'') && value[len - 1] == *value) {
                value++;
                len -= 2;
            }
            (void)snprintf(buf, cap, "%.*s", (int)len, value);
            return len > 0;
        }
    }
    return false;
}

int s3_config_load(const char *path, struct s3_config *ret_config, struct lh_err *reterr)
{
    const char *where = path ? path : "the environment of longhaul-node";
    struct s3_config c = {0};
    char *text = NULL;
    size_t n;
    int rc = path ? lh_read_file(path, FILE_MAX, &text, NULL, reterr) : 0;

    if (rc < 0)
        return lh_err_prefix(reterr, rc, "--s3-config");
    if (!lookup(text, "AWS_ACCESS_KEY_ID", c.access, sizeof(c.access)))
        rc = lh_err_set(reterr, LH_EREMOTE,
                        "AWS_ACCESS_KEY_ID is missing in %s: s3:// needs credentials", where);
    else if (!lookup(text, "AWS_SECRET_ACCESS_KEY", c.secret, sizeof(c.secret)))
        rc = lh_err_set(reterr, LH_EREMOTE,
                        "AWS_SECRET_ACCESS_KEY is missing in %s: s3:// needs credentials", where);
    (void)lookup(text, "AWS_SESSION_TOKEN", c.token, sizeof(c.token));
    if (!lookup(text, "AWS_REGION", c.region, sizeof(c.region)) &&
        !lookup(text, "AWS_DEFAULT_REGION", c.region, sizeof(c.region)))
        (void)snprintf(c.region, sizeof(c.region), "us-east-1");
    if (!lookup(text, "AWS_ENDPOINT_URL_S3", c.endpoint, sizeof(c.endpoint)) &&
        !lookup(text, "AWS_ENDPOINT_URL", c.endpoint, sizeof(c.endpoint)))
        (void)snprintf(c.endpoint, sizeof(c.endpoint), "https://s3.%s.amazonaws.com", c.region);
    free(text);
    if (rc < 0)
        return rc;
    n = strlen(c.endpoint);
    while (n > 0 && c.endpoint[n - 1] == '/')
        c.endpoint[--n] = '\0';
    if ((!lh_starts_with(c.endpoint, "http://") && !lh_starts_with(c.endpoint, "https://")) ||
        strchr(strstr(c.endpoint, "://") + 3, '/'))
        return lh_err_set(reterr, LH_EREMOTE,
                          "AWS_ENDPOINT_URL '%s' in %s must be http[s]://HOST[:PORT]", c.endpoint,
                          where);
    *ret_config = c;
    return 0;
}
