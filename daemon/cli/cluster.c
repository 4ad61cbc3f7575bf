/* cluster.c - the verbs about the cluster: nodes and status. */
#include "daemon/cli/cli.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <stdlib.h>
#include <string.h>

static const struct cli_option no_options[] = {{0}};

enum { NODE_COLUMNS = 7, CELL_BYTES = 80 };

static void node_row(const json_t *node, char (*cells)[CELL_BYTES])
{
    char bytes[32], ago[32];

    (void)snprintf(cells[0], CELL_BYTES, "%s", lh_json_str(node, "name", ""));
    (void)snprintf(cells[1], CELL_BYTES, "%s", lh_json_str(node, "state", ""));
    (void)snprintf(cells[2], CELL_BYTES, "%lld/%lld", (long long)lh_json_i64(node, "slots_used", 0), (long long)lh_json_i64(node, "slots", 0));
    (void)snprintf(cells[3], CELL_BYTES, "%s", lh_json_str(node, "device", ""));
    (void)snprintf(cells[4], CELL_BYTES, "%s", lh_bytes_text((uint64_t)lh_json_i64(node, "memory_bytes", 0), bytes));
    (void)snprintf(cells[5], CELL_BYTES, "%s", lh_json_str(node, "address", ""));
    (void)snprintf(cells[6], CELL_BYTES, "%s", cli_ago(lh_json_str(node, "seen_at", NULL), ago));
}

static int nodes(struct cli *cli, char **arguments, int n, const char *const *values)
{
    static const char *const header[NODE_COLUMNS] = {"NODE", "STATE", "SLOTS", "DEVICE", "MEMORY", "ADDRESS", "SEEN"};
    struct reply reply;
    const json_t *list, *node;
    char(*cells)[CELL_BYTES];
    const char **rows;
    size_t count, i;
    int rc = cli_ask(cli, "GET", "/v1/nodes", &reply);

    (void)arguments;
    (void)n;
    (void)values;
    if (rc != 0)
        return rc;
    list = json_object_get(reply.json, "nodes");
    count = json_array_size(list);
    cells = calloc((count + 1) * NODE_COLUMNS, CELL_BYTES);
    rows = calloc((count + 1) * NODE_COLUMNS, sizeof(*rows));
    if (cli->json) {
        cli_print_json(list);
    } else if (cells && rows) {
        memcpy(rows, header, sizeof(header));
        json_array_foreach (list, i, node)
            node_row(node, cells + (i + 1) * NODE_COLUMNS);
        for (i = NODE_COLUMNS; i < (count + 1) * NODE_COLUMNS; i++)
            rows[i] = cells[i];
        cli_print_table(rows, NODE_COLUMNS, (unsigned)count + 1);
    }
    free(cells);
    free(rows);
    reply_release(&reply);
    return CLI_OK;
}

/* "queued 3  running 1": the members of an object that are not 0. */
static void print_counts(const char *title, const json_t *counts)
{
    const char *name;
    json_t *value;
    bool any = false;

    printf("%-12s", title);
    json_object_foreach ((json_t *)counts, name, value) {
        if (!json_is_integer(value) || json_integer_value(value) == 0)
            continue;
        printf(" %s %lld ", name, (long long)json_integer_value(value));
        any = true;
    }
    puts(any ? "" : " none");
}

static int status(struct cli *cli, char **arguments, int n, const char *const *values)
{
    struct reply reply;
    const json_t *s, *warning;
    char span[32], bytes[32];
    size_t i;
    int rc = cli_ask(cli, "GET", "/v1/status", &reply);

    (void)arguments;
    (void)n;
    (void)values;
    if (rc != 0)
        return rc;
    s = reply.json;
    if (cli->json) {
        cli_print_json(s);
        reply_release(&reply);
        return CLI_OK;
    }
    printf("%-12s longhauld %s at %s, up %s, epoch %lld, %s\n", "server", lh_json_str(s, "version", "?"), client_server(cli->client),
           cli_span(lh_json_num(s, "uptime_s", 0), span), (long long)lh_json_i64(s, "epoch", 0), lh_json_str(s, "mode", ""));
    print_counts("jobs", json_object_get(s, "jobs"));
    print_counts("nodes", json_object_get(s, "nodes"));
    print_counts("slots", json_object_get(s, "slots"));
    printf("%-12s %s on disk\n", "database", lh_bytes_text((uint64_t)lh_json_i64(json_object_get(s, "database"), "bytes", 0), bytes));
    json_array_foreach (json_object_get(s, "warnings"), i, warning)
        printf("%-12s %s %s\n", i == 0 ? "warnings" : "", lh_json_str(warning, "time", ""), lh_json_str(warning, "text", ""));
    reply_release(&reply);
    return CLI_OK;
}

const struct cli_verb verb_nodes = {"nodes", "", "the machines and their slots", no_options, 0, 0, nodes};
const struct cli_verb verb_status = {"status", "", "what is going on, and what is wrong", no_options, 0, 0, status};
