/* format.c - how the CLI prints: tables, times, refusals; and the one request that most verbs are. */
#include "daemon/cli/cli.h"
#include "proto/base/json.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CELL_MAX 48

void cli_print_json(const json_t *value)
{
    char *text = lh_json_text(value, 2);

    if (text)
        puts(text);
    free(text);
}

/* Columns on the screen: bytes that do not continue a UTF-8 character. */
static int width_of(const char *s)
{
    int n = 0;

    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

void cli_print_table(const char *const *cells, unsigned n_columns, unsigned n_rows)
{
    for (unsigned r = 0; r < n_rows; r++) {
        for (unsigned c = 0; c < n_columns; c++) {
            const char *cell = cells[r * n_columns + c] ? cells[r * n_columns + c] : "";
            int width = 0;

            for (unsigned k = 0; k < n_rows; k++) {
                int w = cells[k * n_columns + c] ? width_of(cells[k * n_columns + c]) : 0;

                width = LH_MAX(width, LH_MIN(w, CELL_MAX));
            }
            if (c + 1 == n_columns)
                printf("%s", cell); /* the last column is never cut */
            else if (width_of(cell) > CELL_MAX)
                printf("%.*s...  ", CELL_MAX - 3, cell);
            else
                printf("%s%*s  ", cell, width - width_of(cell), "");
        }
        putchar('\n');
    }
}

const char *cli_span(double seconds, char *buf)
{
    if (seconds < 0)
        (void)snprintf(buf, 32, "--");
    else if (seconds < 100)
        (void)snprintf(buf, 32, "%.0f s", seconds);
    else if (seconds < 100 * 60.0)
        (void)snprintf(buf, 32, "%.0f min", seconds / 60);
    else if (seconds < 48 * 3600.0)
        (void)snprintf(buf, 32, "%.1f h", seconds / 3600);
    else
        (void)snprintf(buf, 32, "%.1f d", seconds / 86400);
    return buf;
}

const char *cli_ago(const char *rfc3339, char *buf)
{
    struct tm tm = {0};
    char span[32];

    if (!rfc3339 || !strptime(rfc3339, "%Y-%m-%dT%H:%M:%S", &tm))
        return strcpy(buf, "--");
    (void)snprintf(buf, 32, "%.24s ago", cli_span(LH_MAX(0.0, difftime(time(NULL), timegm(&tm))), span));
    return buf;
}

int cli_refusal(const struct reply *reply)
{
    const char *title = lh_json_str(reply->json, "title", "refused");
    const char *detail = lh_json_str(reply->json, "detail", NULL);
    json_t *errors = json_object_get(reply->json, "errors"), *e;
    size_t i;

    fprintf(stderr, "longhaul: %s%s%s\n", title, detail ? ": " : "", detail ? detail : "");
    json_array_foreach (errors, i, e)
        fprintf(stderr, "  %s: %s\n", lh_json_str(e, "pointer", ""), lh_json_str(e, "detail", ""));
    if (reply->status == 401 || reply->status == 403)
        return CLI_NO_PERMISSION;
    return reply->status >= 500 ? CLI_UNAVAILABLE : CLI_REFUSED;
}

int cli_ask(struct cli *cli, const char *method, const char *path, struct reply *ret_reply)
{
    struct lh_err err;

    if (client_request(cli->client, method, path, NULL, NULL, ret_reply, &err) < 0) {
        fprintf(stderr, "longhaul: %s\n", err.text);
        return CLI_UNAVAILABLE;
    }
    if (ret_reply->status >= 400) {
        int rc = cli_refusal(ret_reply);

        reply_release(ret_reply);
        return rc;
    }
    return 0;
}
