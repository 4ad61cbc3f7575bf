/* options.c - see options.h. Every refusal names the option and the way out. */
#include "daemon/node/options.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char help[] =
    "longhaul-node - runs the ranks of training jobs on this machine, for a longhauld elsewhere\n"
    "\n"
    "  longhaul-node --coordinator URL --state DIR [options]\n"
    "\n"
    "  --coordinator URL   http[s]://HOST:PORT of longhauld\n"
    "  --name NAME         unique among nodes (default: the host name)\n"
    "  --state DIR         attempts, cache and records of this node; made when absent\n"
    "  --slots N           ranks that may run here at a time (default: one a core)\n"
    "  --device D          what a slot is: cpu (default; others are not built yet)\n"
    "  --address IP        where MPI of other nodes reaches this one (default: our end of the line "
    "to the coordinator)\n"
    "  --token-file FILE   the node's token, one line\n"
    "  --ca-file FILE      certificates to trust in place of the system's\n"
    "  --insecure          allow http:// to a coordinator that is not on this machine\n"
    "  --store URI         where checkpoints go when neither job nor coordinator says\n"
    "  --s3-config FILE    lines AWS_ACCESS_KEY_ID=... and the like, in place of the environment\n"
    "  --heartbeat-ms N    poll at least so often (default: what the coordinator says)\n"
    "  --upload-retry-s N  how long an upload that may work later is tried (default 900)\n"
    "  --cache-max BYTES   the most that staged inputs take; the longest unused go first, never\n"
    "                      what a live job uses (default: half of the file system)\n"
    "  --kept-days N       checkpoints that could not be uploaded stay for so long (default 30;\n"
    "                      0: for ever)\n"
    "  --worker PROGRAM, --shim PROGRAM\n"
    "                      in place of those beside this program\n"
    "  --mpirun PROGRAM    in place of the one on the PATH\n"
    "  --version | --help\n"
    "\n"
    "Limits that shims keep by themselves:\n"
    "  --grace-ms N        ranks have so long for a last checkpoint before they are killed,\n"
    "                      unless the coordinator says (default 60000)\n"
    "  --hang-ms N         without a sign of life from any rank for so long, or ten median\n"
    "                      steps if those are longer, an attempt is ended; 0: never\n"
    "                      (default 600000)\n"
    "  --evict-ms N        how often the cache is looked at (default 60000)\n"
    "  --log-max BYTES     the most that a rank's log takes (default 67108864)\n"
    "\n"
    "S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,\n"
    "AWS_ENDPOINT_URL. LONGHAUL_LOG=error|warn|info|debug: how much goes to standard error.\n"
    "TERM ends the daemon and leaves running jobs alone; the next one adopts them.\n"
    "Exit: 0 stopped on request, 64 usage, 78 the state directory or another setting cannot be\n"
    "used as it is.\n";

enum {
    OPT_COORDINATOR = 256,
    OPT_NAME,
    OPT_STATE,
    OPT_SLOTS,
    OPT_DEVICE,
    OPT_ADDRESS,
    OPT_TOKEN,
    OPT_CA,
    OPT_INSECURE,
    OPT_STORE,
    OPT_S3,
    OPT_HEARTBEAT,
    OPT_WORKER,
    OPT_SHIM,
    OPT_MPIRUN,
    OPT_GRACE,
    OPT_HANG,
    OPT_LOG,
    OPT_UPLOAD,
    OPT_CACHE,
    OPT_KEPT,
    OPT_EVICT,
    OPT_VERSION,
    OPT_HELP
};

static const struct option table[] = {
    {"coordinator", required_argument, NULL, OPT_COORDINATOR},
    {"name", required_argument, NULL, OPT_NAME},
    {"state", required_argument, NULL, OPT_STATE},
    {"slots", required_argument, NULL, OPT_SLOTS},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"address", required_argument, NULL, OPT_ADDRESS},
    {"token-file", required_argument, NULL, OPT_TOKEN},
    {"ca-file", required_argument, NULL, OPT_CA},
    {"insecure", no_argument, NULL, OPT_INSECURE},
    {"store", required_argument, NULL, OPT_STORE},
    {"s3-config", required_argument, NULL, OPT_S3},
    {"heartbeat-ms", required_argument, NULL, OPT_HEARTBEAT},
    {"worker", required_argument, NULL, OPT_WORKER},
    {"shim", required_argument, NULL, OPT_SHIM},
    {"mpirun", required_argument, NULL, OPT_MPIRUN},
    {"grace-ms", required_argument, NULL, OPT_GRACE},
    {"hang-ms", required_argument, NULL, OPT_HANG},
    {"log-max", required_argument, NULL, OPT_LOG},
    {"upload-retry-s", required_argument, NULL, OPT_UPLOAD},
    {"cache-max", required_argument, NULL, OPT_CACHE},
    {"kept-days", required_argument, NULL, OPT_KEPT},
    {"evict-ms", required_argument, NULL, OPT_EVICT},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int usage(struct lh_err *reterr, const char *what)
{
    return lh_err_set(reterr, LH_EJOB, "%s; see longhaul-node --help", what);
}

static int number(const char *option, const char *text, int64_t min, int64_t max,
                  int64_t *ret_value, struct lh_err *reterr)
{
    if (lh_parse_i64(text, min, max, ret_value))
        return 0;
    return lh_err_set(reterr, LH_EJOB, "%s '%s' must be a whole number from %lld to %lld", option,
                      text, (long long)min, (long long)max);
}

static int take_option(struct options *o, int c, struct lh_err *reterr)
{
    struct node_config *g = &o->config;
    int64_t v = 0;
    int rc = 0;

    switch (c) {
    case OPT_COORDINATOR:
        g->coordinator = optarg;
        break;
    case OPT_NAME:
        g->name = optarg;
        break;
    case OPT_STATE:
        g->state = optarg;
        break;
    case OPT_DEVICE:
        g->device = optarg;
        break;
    case OPT_ADDRESS:
        g->address = optarg;
        break;
    case OPT_TOKEN:
        g->token_file = optarg;
        break;
    case OPT_CA:
        g->ca_file = optarg;
        break;
    case OPT_INSECURE:
        g->insecure = true;
        break;
    case OPT_STORE:
        g->store = optarg;
        break;
    case OPT_S3:
        g->s3_config = optarg;
        break;
    case OPT_WORKER:
        g->worker = optarg;
        break;
    case OPT_SHIM:
        g->shim = optarg;
        break;
    case OPT_MPIRUN:
        g->mpirun = optarg;
        break;
    case OPT_SLOTS:
        rc = number("--slots", optarg, 1, NODE_SLOTS_MAX, &v, reterr);
        g->slots = (unsigned)v;
        break;
    case OPT_HEARTBEAT:
        rc = number("--heartbeat-ms", optarg, 100, 60000, &v, reterr);
        g->heartbeat_ms = (unsigned)v;
        break;
    case OPT_GRACE:
        rc = number("--grace-ms", optarg, 0, 3600000, &v, reterr);
        g->grace_ms = (uint64_t)v;
        break;
    case OPT_HANG:
        rc = number("--hang-ms", optarg, 0, INT64_MAX, &v, reterr);
        g->hang_ms = (uint64_t)v;
        break;
    case OPT_UPLOAD:
        rc = number("--upload-retry-s", optarg, 0, 30 * 86400, &v, reterr);
        g->upload_retry_ms = (uint64_t)v * 1000u;
        break;
    case OPT_CACHE:
        rc = number("--cache-max", optarg, 1, INT64_MAX, &v, reterr);
        g->cache_max_bytes = (uint64_t)v;
        break;
    case OPT_KEPT:
        rc = number("--kept-days", optarg, 0, 36500, &v, reterr);
        g->kept_ms = (uint64_t)v * 86400000u;
        break;
    case OPT_EVICT:
        rc = number("--evict-ms", optarg, 100, 86400000, &v, reterr);
        g->evict_every_ms = (uint64_t)v;
        break;
    case OPT_LOG:
        rc = number("--log-max", optarg, 4096, INT64_MAX, &v, reterr);
        g->log_max_bytes = (uint64_t)v;
        break;
    }
    return rc;
}

static int read_token(struct options *o, struct lh_err *reterr)
{
    char *text = NULL;
    int rc;

    if (!o->config.token_file)
        return 0;
    rc = lh_read_file(o->config.token_file, sizeof(o->token) - 1, &text, NULL, reterr);
    if (rc < 0)
        return lh_err_prefix(reterr, rc, "--token-file");
    (void)snprintf(o->token, sizeof(o->token), "%.*s", (int)strcspn(text, "\r\n"), text);
    free(text);
    return o->token[0]
               ? 0
               : lh_err_set(reterr, LH_EJOB, "--token-file '%s' is empty", o->config.token_file);
}

/* Host and port of the URL; it has neither path nor user. */
static int split_url(const char *url, char *host, size_t host_cap, char *port, size_t port_cap)
{
    const char *at = strstr(url, "://"), *end, *colon;
    bool tls = lh_starts_with(url, "https://");

    if (!tls && !lh_starts_with(url, "http://"))
        return -EINVAL;
    at += 3;
    end = at + strlen(at);
    if (strpbrk(at, "/?#@"))
        return -EINVAL;
    colon = *at == '[' ? strchr(at, ']') : at;
    colon = colon ? strchr(colon, ':') : NULL;
    (void)snprintf(port, port_cap, "%s", colon ? colon + 1 : tls ? "443" : "80");
    if (colon)
        end = colon;
    if (*at == '[' && end > at + 1 && end[-1] == ']') {
        at++;
        end--;
    }
    (void)snprintf(host, host_cap, "%.*s", (int)(end - at), at);
    return host[0] ? 0 : -EINVAL;
}

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24) == 127;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

/* Our end of a connection to the coordinator: a UDP socket finds the route without sending
 * anything. */
static void find_address(struct options *o, const struct addrinfo *to)
{
    struct sockaddr_storage own;
    socklen_t len = sizeof(own);
    int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, to->ai_addr, to->ai_addrlen) == 0 &&
        getsockname(fd, (struct sockaddr *)&own, &len) == 0)
        (void)getnameinfo((struct sockaddr *)&own, len, o->address, sizeof(o->address), NULL, 0,
                          NI_NUMERICHOST);
    if (fd >= 0)
        (void)close(fd);
}

static int check_coordinator(struct options *o, struct lh_err *reterr)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    char host[200], port[16];
    size_t n = strlen(o->config.coordinator);
    bool loopback;

    while (n > 0 && o->config.coordinator[n - 1] == '/')
        n--;
    (void)snprintf(o->coordinator, sizeof(o->coordinator), "%.*s", (int)n, o->config.coordinator);
    o->config.coordinator = o->coordinator;
    if (split_url(o->coordinator, host, sizeof(host), port, sizeof(port)) < 0)
        return lh_err_set(reterr, LH_EJOB,
                          "--coordinator '%s' must be http://HOST:PORT or https://HOST:PORT",
                          o->coordinator);
    /* A name that cannot be resolved yet (a network that comes up late) is no reason to give up:
     * libcurl tries again. */
    if (getaddrinfo(host, port, &hints, &found) != 0)
        found = NULL;
    loopback = found ? is_loopback(found->ai_addr) : strcmp(host, "localhost") == 0;
    if (found && !o->config.address)
        find_address(o, found);
    if (found)
        freeaddrinfo(found);
    if (!loopback && !o->config.insecure && lh_starts_with(o->coordinator, "http://"))
        return lh_err_set(
            reterr, LH_EJOB,
            "--coordinator '%s' is not on this machine and not https: token and jobs would cross "
            "the "
            "network in the clear; use https://, or --insecure on a network you trust",
            o->coordinator);
    if (!o->config.address)
        o->config.address = o->address[0] ? o->address : "127.0.0.1";
    return 0;
}

static int check_name(struct options *o, struct lh_err *reterr)
{
    if (!o->config.name && gethostname(o->name, sizeof(o->name) - 1) == 0)
        o->config.name = o->name;
    if (!o->config.name || !o->config.name[0] || strlen(o->config.name) >= 64)
        return lh_err_set(reterr, LH_EJOB, "--name must have 1 to 63 characters");
    for (const char *p = o->config.name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr(".-_", *p))
            return lh_err_set(reterr, LH_EJOB,
                              "--name '%s' may hold letters, digits, '.', '-' and '_' only",
                              o->config.name);
    return 0;
}

static int check_paths(struct options *o, struct lh_err *reterr)
{
    char cwd[NODE_PATH_MAX / 2] = "";

    if (!o->config.state)
        return usage(reterr, "--state DIR is missing");
    if (o->config.state[0] != '/' && !getcwd(cwd, sizeof(cwd)))
        return lh_err_set(reterr, -errno, "working directory");
    if (snprintf(o->state, sizeof(o->state), "%s%s%s", cwd, cwd[0] ? "/" : "", o->config.state) >
        NODE_PATH_MAX / 2)
        return lh_err_set(reterr, LH_EJOB, "--state '%s' is too long: paths below it must fit, too",
                          o->config.state);
    o->config.state = o->state;
    if (!o->config.worker)
        o->config.worker = lh_sibling_program("longhaul-worker", o->worker, sizeof(o->worker));
    if (!o->config.shim)
        o->config.shim = lh_sibling_program("longhaul-shim", o->shim, sizeof(o->shim));
    if (access(o->config.shim, X_OK) < 0)
        return lh_err_set(reterr, -errno, "--shim '%s' cannot be run", o->config.shim);
    return 0;
}

int options_parse(int argc, char **argv, struct options *ret_options, struct lh_err *reterr)
{
    struct options *o = ret_options;
    int c, rc = 0;

    memset(o, 0, sizeof(*o));
    o->config = (struct node_config){.device = "cpu",
                                     .mpirun = "mpirun",
                                     .grace_ms = 60000,
                                     .hang_ms = 600000,
                                     .log_max_bytes = 64u << 20,
                                     .upload_retry_ms = 900000,
                                     .kept_ms = (uint64_t)30 * 86400000u};
    opterr = 0;
    while (rc == 0 && (c = getopt_long(argc, argv, ":", table, NULL)) != -1) {
        if (c == OPT_HELP)
            return fputs(help, stdout) >= 0;
        if (c == OPT_VERSION)
            return printf("longhaul-node %s\n", LH_VERSION) > 0;
        rc =
            c == '?' || c == ':'
                ? lh_err_set(reterr, LH_EJOB,
                             "'%s' is no option, or its value is missing; see longhaul-node --help",
                             argv[optind - 1])
                : take_option(o, c, reterr);
    }
    if (rc == 0 && optind < argc)
        rc = lh_err_set(reterr, LH_EJOB, "'%s' is no option; see longhaul-node --help",
                        argv[optind]);
    if (rc == 0 && !o->config.coordinator)
        rc = usage(reterr, "--coordinator URL is missing");
    if (rc == 0 && strcmp(o->config.device, "cpu") != 0)
        rc = lh_err_set(reterr, LH_ENOTSUP, "--device '%s' is not built yet; give cpu",
                        o->config.device);
    if (rc == 0)
        rc = check_name(o, reterr);
    if (rc == 0)
        rc = check_paths(o, reterr);
    if (rc == 0)
        rc = read_token(o, reterr);
    return rc < 0 ? rc : check_coordinator(o, reterr);
}
