/* main.c - longhauld's command line: flags over the configuration file over defaults, and the exit
 * codes.
 *
 * Exit: 0 stopped on request, 64 usage, 69 the address is taken, 73 the state cannot be made or
 * written, 74 the disk failed, 75 another longhauld holds the state directory, 78 the configuration
 * or the state is not usable as it is.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DEFAULT_CONFIG "/etc/longhaul/longhauld.yaml"

static const char usage_text[] =
    "Usage: longhauld --state DIR [--standalone] [--listen HOST:PORT] [--config FILE] ...\n"
    "\n"
    "The coordinator of longhaul: takes jobs over HTTP, keeps them in SQLite, and has nodes run "
    "them.\n"
    "\n"
    "  --state DIR        where everything is kept; made when absent\n"
    "  --listen ADDR      HOST:PORT (port 0 takes a free one) or unix:/PATH; default "
    "127.0.0.1:7420\n"
    "  --standalone       also run a longhaul-node on this machine: one command is the whole "
    "system\n"
    "  --slots N          with --standalone: slots of this machine (default: one a core)\n"
    "  --config FILE      YAML; default " DEFAULT_CONFIG " when it is there\n"
    "  --set KEY=VALUE    one setting of that file, as timers.suspect_ms=15000; may be repeated\n"
    "  --token-file FILE  lines \"ROLE NAME SHA256\"; requests then need a token\n"
    "  --node-token-file FILE  with --standalone and tokens: the token of the local node\n"
    "  --tls-cert FILE, --tls-key FILE  PEM: serve https://\n"
    "  --insecure         allow plain HTTP beyond this machine\n"
    "  --version, --help\n"
    "\n"
    "The address stands in DIR/address once longhauld is ready. The sample longhauld.yaml lists\n"
    "every setting with its default. HUP reads the file again (timers and limits of the queue);\n"
    "TERM stops, and running jobs go on. LONGHAUL_LOG=error|warn|info|debug: how much goes to\n"
    "standard error.\n"
    "\n"
    "Exit: 0 stopped on request, 64 usage, 69 the address is taken, 73 the state cannot be made\n"
    "or written, 74 the disk failed, 75 another longhauld holds the state directory, 78 the\n"
    "configuration or the state cannot be used as it is.\n";

enum {
    OPT_STATE = 256,
    OPT_LISTEN,
    OPT_STANDALONE,
    OPT_SLOTS,
    OPT_CONFIG,
    OPT_SET,
    OPT_TOKEN_FILE,
    OPT_NODE_TOKEN_FILE,
    OPT_TLS_CERT,
    OPT_TLS_KEY,
    OPT_INSECURE,
    OPT_VERSION,
    OPT_HELP
};
static const struct option options[] = {
    {"state", required_argument, NULL, OPT_STATE},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"standalone", no_argument, NULL, OPT_STANDALONE},
    {"slots", required_argument, NULL, OPT_SLOTS},
    {"config", required_argument, NULL, OPT_CONFIG},
    {"set", required_argument, NULL, OPT_SET},
    {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
    {"node-token-file", required_argument, NULL, OPT_NODE_TOKEN_FILE},
    {"tls-cert", required_argument, NULL, OPT_TLS_CERT},
    {"tls-key", required_argument, NULL, OPT_TLS_KEY},
    {"insecure", no_argument, NULL, OPT_INSECURE},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int usage_error(const char *fmt, ...) LH_PRINTF(1, 2);

static int usage_error(const char *fmt, ...)
{
    va_list ap;

    (void)fputs("longhauld: ", stderr);
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputs("; see longhauld --help\n", stderr);
    return 64;
}

static int fail(const struct lh_err *err, int exit_code)
{
    (void)fprintf(stderr, "longhauld: %s\n", err->text);
    return exit_code;
}

static int exit_code_of(int rc)
{
    switch (rc) {
    case -EBUSY:
        return 75;
    case -EADDRINUSE:
    case -EADDRNOTAVAIL:
        return 69;
    case LH_ESTATE:
    case LH_EINPUT:
    case -EINVAL:
        return 78;
    default:
        return 73;
    }
}

static void set_text(char **to, const char *value)
{
    free(*to);
    *to = strdup(value);
}

static int unknown_option(char *const *argv)
{
    const char *names[LH_ARRAY_LEN(options)], *near;
    const char *word = argv[optind - 1] ? argv[optind - 1] : "";
    size_t n = 0;

    while (options[n].name) {
        names[n] = options[n].name;
        n++;
    }
    near = lh_nearest(word + strspn(word, "-"), names, n);
    return near ? usage_error("unknown or incomplete flag '%s'; did you mean --%s?", word, near)
                : usage_error("unknown or incomplete flag '%s'", word);
}

/* First pass: the file that the flags are laid over. */
static int find_config(int argc, char **argv, const char **ret_path)
{
    struct stat st;
    int opt;

    *ret_path = NULL;
    opterr = 0;
    optind = 1;
    while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1)
        if (opt == OPT_CONFIG)
            *ret_path = optarg;
        else if (opt == '?')
            return unknown_option(argv);
        else if (opt == OPT_HELP || opt == OPT_VERSION)
            return -1;
    if (optind < argc)
        return usage_error("'%s' is no flag", argv[optind]);
    if (!*ret_path && stat(DEFAULT_CONFIG, &st) == 0)
        *ret_path = DEFAULT_CONFIG;
    return 0;
}

static int take_flags(struct config *c, int argc, char **argv, struct lh_err *reterr)
{
    char assignment[64];
    int opt, rc = 0;

    optind = 1;
    while (rc == 0 && (opt = getopt_long(argc, argv, "+", options, NULL)) != -1)
        switch (opt) {
        case OPT_STATE:
            set_text(&c->state, optarg);
            break;
        case OPT_LISTEN:
            set_text(&c->listen, optarg);
            break;
        case OPT_STANDALONE:
            c->standalone = true;
            break;
        case OPT_SLOTS:
            (void)snprintf(assignment, sizeof(assignment), "slots=%.40s", optarg);
            rc = config_set(c, assignment, reterr);
            break;
        case OPT_SET:
            rc = config_set(c, optarg, reterr);
            break;
        case OPT_TOKEN_FILE:
            set_text(&c->token_file, optarg);
            break;
        case OPT_NODE_TOKEN_FILE:
            set_text(&c->node_token_file, optarg);
            break;
        case OPT_TLS_CERT:
            set_text(&c->tls_cert, optarg);
            break;
        case OPT_TLS_KEY:
            set_text(&c->tls_key, optarg);
            break;
        case OPT_INSECURE:
            c->insecure = true;
            break;
        default: /* --config has been read */
            break;
        }
    return rc;
}

static int info(int argc, char **argv)
{
    int opt;

    optind = 1;
    while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1)
        if (opt == OPT_HELP || opt == OPT_VERSION)
            break;
    (void)fputs(opt == OPT_HELP ? usage_text : "longhauld " LH_VERSION "\n", stdout);
    return fflush(stdout) == 0 ? 0 : 74;
}

int main(int argc, char **argv)
{
    struct config config;
    struct lh_err err = {.code = 0};
    const char *path;
    int rc = find_config(argc, argv, &path);

    if (rc < 0)
        return info(argc, argv);
    if (rc > 0)
        return rc;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)umask(0077 | (umask(0) & 0777));
    config_init(&config);
    rc = path ? config_load(&config, path, &err) : 0;
    if (rc < 0) {
        config_release(&config);
        return fail(&err, 78);
    }
    rc = take_flags(&config, argc, argv, &err);
    if (rc == 0)
        rc = config_finish(&config, &err);
    if (rc < 0) {
        config_release(&config);
        return fail(&err, path && !config.state ? 78 : 64);
    }
    rc = app_run(&config, path, &err);
    config_release(&config);
    return rc < 0 ? fail(&err, exit_code_of(rc)) : rc;
}
