/* main.c - the `longhaul` program: finds the verb, parses its options, connects, runs it. */
#include "daemon/cli/cli.h"
#include "proto/base/str.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPTIONS_MAX 24

static const struct cli_verb *const verbs[] = {
    &verb_submit, &verb_plan,   &verb_list, &verb_show,    &verb_logs,    &verb_events, &verb_wait,
    &verb_cancel, &verb_hold, &verb_release, &verb_explain, &verb_nodes,  &verb_status,
};

static const struct cli_option global_options[] = {
    {"server", 's', "URL", "the coordinator (default: $LONGHAUL_SERVER, else the newest standalone one of this user)"},
    {"token-file", 0, "FILE", "file with the access token (default: $LONGHAUL_TOKEN_FILE)"},
    {"json", 'j', NULL, "print JSON for programs"},
    {"help", 'h', NULL, "print this"},
    {"version", 0, NULL, "print the version"},
    {0},
};
enum { OPT_SERVER, OPT_TOKEN_FILE, OPT_JSON, OPT_HELP, OPT_VERSION, N_GLOBAL };

static void print_options(FILE *out, const struct cli_option *o)
{
    for (; o && o->name; o++) {
        char left[64];

        (void)snprintf(left, sizeof(left), "%s%c%s --%s%s%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ',
                       o->letter ? "," : " ", o->name, o->value ? " " : "", o->value ? o->value : "");
        fprintf(out, "  %-26s %s\n", left, o->help);
    }
}

static void print_help(FILE *out)
{
    fprintf(out, "longhaul - extend the context window of Llama models\n\nusage: longhaul [OPTIONS] VERB [ARGUMENTS]\n\nverbs:\n");
    for (size_t i = 0; i < LH_ARRAY_LEN(verbs); i++)
        fprintf(out, "  %-10s %-22s %s\n", verbs[i]->name, verbs[i]->arguments, verbs[i]->summary);
    fprintf(out, "\noptions:\n");
    print_options(out, global_options);
    fprintf(out, "\n'longhaul VERB --help' prints a verb's own options. Exit codes: 0 ok, 1 job failed, 2 usage, 3 cancelled,\n"
                 "4 timed out, 5 refused, 69 no server, 77 no permission.\n");
}

static void print_verb_help(const struct cli_verb *v)
{
    printf("usage: longhaul %s [OPTIONS] %s\n\n%s\n\noptions:\n", v->name, v->arguments, v->summary);
    print_options(stdout, v->options);
    print_options(stdout, global_options);
}

static const struct cli_verb *find_verb(const char *name)
{
    const char *names[LH_ARRAY_LEN(verbs)], *near;

    for (size_t i = 0; i < LH_ARRAY_LEN(verbs); i++) {
        if (strcmp(name, verbs[i]->name) == 0)
            return verbs[i];
        names[i] = verbs[i]->name;
    }
    near = lh_nearest(name, names, LH_ARRAY_LEN(verbs));
    fprintf(stderr, "longhaul: there is no verb '%s'%s%s%s; see 'longhaul --help'\n", name, near ? "; did you mean '" : "",
            near ? near : "", near ? "'?" : "");
    return NULL;
}

/* Finds `text` ("--name", "--name=value", "-x") among options; *ret_value points behind '=' or is NULL. */
static int match_option(const struct cli_option *options, const char *text, const char **ret_value)
{
    for (int i = 0; options && options[i].name; i++) {
        size_t n = strlen(options[i].name);

        *ret_value = NULL;
        if (text[0] == '-' && text[1] != '-' && text[1] == options[i].letter && text[2] == '\0')
            return i;
        if (strncmp(text, "--", 2) != 0 || strncmp(text + 2, options[i].name, n) != 0)
            continue;
        if (text[2 + n] == '\0')
            return i;
        if (text[2 + n] == '=') {
            *ret_value = text + 3 + n;
            return i;
        }
    }
    return -1;
}

struct parsed {
    const struct cli_verb *verb;
    const char *global[N_GLOBAL], *values[OPTIONS_MAX];
    char **arguments; /* in the place of argv's own entries */
    int n;
};

static int take_option(struct parsed *p, char **argv, int argc, int *i)
{
    const struct cli_option *options = global_options;
    const char **values = p->global, *value;
    int k = match_option(global_options, argv[*i], &value);

    if (k < 0 && p->verb) {
        options = p->verb->options;
        values = p->values;
        k = match_option(options, argv[*i], &value);
    }
    if (k < 0) {
        fprintf(stderr, "longhaul: unknown option '%s'; see 'longhaul %s--help'\n", argv[*i],
                p->verb ? p->verb->name : "");
        return CLI_USAGE;
    }
    if (!options[k].value && value) {
        fprintf(stderr, "longhaul: --%s takes no value\n", options[k].name);
        return CLI_USAGE;
    }
    if (options[k].value && !value) {
        if (*i + 1 >= argc) {
            fprintf(stderr, "longhaul: --%s needs a value: --%s %s\n", options[k].name, options[k].name,
                    options[k].value);
            return CLI_USAGE;
        }
        value = argv[++*i];
    }
    values[k] = value ? value : "";
    return 0;
}

static int parse(int argc, char **argv, struct parsed *p)
{
    bool only_arguments = false;

    p->arguments = argv;
    for (int i = 1; i < argc; i++) {
        int rc;

        if (!only_arguments && strcmp(argv[i], "--") == 0) {
            only_arguments = true;
        } else if (!only_arguments && argv[i][0] == '-' && argv[i][1] != '\0') {
            if ((rc = take_option(p, argv, argc, &i)) != 0)
                return rc;
        } else if (!p->verb) {
            if (!(p->verb = find_verb(argv[i])))
                return CLI_USAGE;
        } else {
            p->arguments[p->n++] = argv[i]; /* never overtakes i */
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct parsed p = {0};
    struct lh_err err;
    struct cli cli = {0};
    int rc = parse(argc, argv, &p);

    if (rc != 0)
        return rc;
    if (p.global[OPT_VERSION]) {
        printf("longhaul %s\n", LH_VERSION);
        return CLI_OK;
    }
    if (p.global[OPT_HELP] && p.verb) {
        print_verb_help(p.verb);
        return CLI_OK;
    }
    if (p.global[OPT_HELP] || !p.verb) {
        print_help(p.global[OPT_HELP] ? stdout : stderr);
        return p.global[OPT_HELP] ? CLI_OK : CLI_USAGE;
    }
    if (p.n < p.verb->min_arguments || (p.verb->max_arguments >= 0 && p.n > p.verb->max_arguments)) {
        fprintf(stderr, "usage: longhaul %s [OPTIONS] %s\n", p.verb->name, p.verb->arguments);
        return CLI_USAGE;
    }
    cli.json = p.global[OPT_JSON] != NULL;
    cli.tty = isatty(STDOUT_FILENO) && (!getenv("TERM") || strcmp(getenv("TERM"), "dumb") != 0);
    if (!cli_alone(p.verb, p.values))
        rc = client_new(p.global[OPT_SERVER], p.global[OPT_TOKEN_FILE], &cli.client, &err);
    if (rc < 0) {
        fprintf(stderr, "longhaul: %s\n", err.text);
        return rc == LH_EINPUT ? CLI_UNAVAILABLE : CLI_USAGE;
    }
    rc = p.verb->run(&cli, p.arguments, p.n, p.values);
    client_free(cli.client);
    return rc;
}
