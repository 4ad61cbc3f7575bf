/* options.c - the command line of longhaul-worker. */
#include "proto/base/str.h"
#include "worker/commands.h"
#include <getopt.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

static const char help[] =
    "longhaul-worker - runs one job of longhaul, alone or as one rank under mpirun\n"
    "\n"
    "  longhaul-worker JOB.json --out DIR [--resume DIR] [--dump DIR] [--profile FILE]\n"
    "      runs the job\n"
    "  longhaul-worker JOB.json --prepare\n"
    "      tokenises the job's texts into the cache, nothing more\n"
    "  longhaul-worker JOB.json --plan\n"
    "      checks job, model and data, and prints bytes and FLOPs as one line of JSON\n"
    "  longhaul-worker --tokenize MODEL IN.jsonl OUT.jsonl\n"
    "      writes the token ids of each line's member \"text\"\n"
    "  longhaul-worker --version | --help\n"
    "\n"
    "  --out DIR     checkpoints, events and results; made when it is not there\n"
    "  --resume DIR  go on from this checkpoint, or from the newest one in DIR\n"
    "  --dump DIR    write tensors of the first step, and the final ones, to\n"
    "                DIR/results.safetensors\n"
    "  --cache DIR   prepared data (else $LONGHAUL_CACHE, else $XDG_CACHE_HOME/longhaul, else\n"
    "                ~/.cache/longhaul)\n"
    "  --profile FILE  write a trace of all ops to FILE (for chrome://tracing or\n"
    "                ui.perfetto.dev), print a table of where the time went\n"
    "  --events DIR  journals of the ranks (else $LONGHAUL_EVENTS_DIR, else OUT/events)\n"
    "\n"
    "LONGHAUL_NODE_SLOTS=N: a rank takes at most an N-th of the cores, unless the job\n"
    "says how many. LONGHAUL_CPU_ISA=base|avx2|avx512|avx512_bf16|amx: no newer\n"
    "instructions than these. LONGHAUL_LOG=error|warn|info|debug: how much goes to\n"
    "standard error.\n"
    "\n"
    "SIGUSR1 asks for a checkpoint; SIGTERM, SIGINT or a file OUT/stop for a checkpoint\n"
    "and an end. Exit: 0 done, 64 bad job, 65 bad input file, 70 internal error, 75 try\n"
    "again, 85 stopped on request, 86 a loss or gradient is not finite.\n";

enum {
    OPT_OUT = 256,
    OPT_RESUME,
    OPT_DUMP,
    OPT_PLAN,
    OPT_PROFILE,
    OPT_CACHE,
    OPT_EVENTS,
    OPT_PREPARE,
    OPT_TOKENIZE,
    OPT_VERSION
};

static const struct option options[] = {
    {"out", required_argument, NULL, OPT_OUT},
    {"resume", required_argument, NULL, OPT_RESUME},
    {"dump", required_argument, NULL, OPT_DUMP},
    {"plan", no_argument, NULL, OPT_PLAN},
    {"profile", required_argument, NULL, OPT_PROFILE},
    {"cache", required_argument, NULL, OPT_CACHE},
    {"events", required_argument, NULL, OPT_EVENTS},
    {"prepare", no_argument, NULL, OPT_PREPARE},
    {"tokenize", no_argument, NULL, OPT_TOKENIZE},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static int positionals(struct worker_options *o, char **rest, int n, struct lh_err *reterr)
{
    if (o->mode == WORKER_HELP || o->mode == WORKER_VERSION)
        return 0;
    if (o->mode == WORKER_TOKENIZE) {
        if (n != 3)
            return lh_err_set(reterr, LH_EJOB,
                              "--tokenize wants MODEL IN.jsonl OUT.jsonl, %d arguments are given",
                              n);
        o->model = rest[0];
        o->in = rest[1];
        o->out = rest[2];
        return 0;
    }
    if (n != 1)
        return lh_err_set(
            reterr, LH_EJOB,
            "one JOB.json is wanted, %d arguments are given; see longhaul-worker --help", n);
    o->job = rest[0];
    if (o->profile && o->mode != WORKER_RUN)
        return lh_err_set(reterr, LH_EJOB,
                          "--profile goes with a run of a job, not with --plan or --prepare");
    if (o->mode == WORKER_RUN && !o->out_dir)
        return lh_err_set(reterr, LH_EJOB,
                          "--out DIR is missing: where checkpoints, events and results go");
    return 0;
}

int worker_options_parse(int argc, char **argv, struct worker_options *ret_options,
                         struct lh_err *reterr)
{
    struct worker_options o = {.cache_dir = getenv("LONGHAUL_CACHE"),
                               .events_dir = getenv("LONGHAUL_EVENTS_DIR")};
    int c, rc;

    opterr = 0;
    while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        switch (c) {
        case OPT_OUT:
            o.out_dir = optarg;
            break;
        case OPT_RESUME:
            o.resume_dir = optarg;
            break;
        case OPT_DUMP:
            o.dump_dir = optarg;
            break;
        case OPT_CACHE:
            o.cache_dir = optarg;
            break;
        case OPT_EVENTS:
            o.events_dir = optarg;
            break;
        case OPT_PROFILE:
            o.profile = optarg;
            break;
        case OPT_PLAN:
            o.mode = WORKER_PLAN;
            break;
        case OPT_PREPARE:
            o.mode = WORKER_PREPARE;
            break;
        case OPT_TOKENIZE:
            o.mode = WORKER_TOKENIZE;
            break;
        case OPT_VERSION:
            o.mode = WORKER_VERSION;
            break;
        case 'h':
            o.mode = WORKER_HELP;
            break;
        case ':':
            return lh_err_set(reterr, LH_EJOB, "option %s wants a value", argv[optind - 1]);
        default:
            return lh_err_set(reterr, LH_EJOB, "unknown option %s; see longhaul-worker --help",
                              argv[optind - 1]);
        }
    }
    rc = positionals(&o, argv + optind, argc - optind, reterr);
    if (rc == 0)
        *ret_options = o;
    return rc;
}

const char *worker_help(void)
{
    return help;
}

const char *worker_cache_dir(const struct worker_options *o, char buf[static 1024])
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

    if (o->cache_dir && *o->cache_dir)
        (void)snprintf(buf, 1024, "%s", o->cache_dir);
    else if (xdg && *xdg)
        (void)snprintf(buf, 1024, "%s/longhaul", xdg);
    else if (home && *home)
        (void)snprintf(buf, 1024, "%s/.cache/longhaul", home);
    else
        (void)snprintf(buf, 1024, "/var/cache/longhaul");
    return buf;
}

int worker_cores(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : CPU_COUNT(&set);
}

int worker_threads(const struct lh_job *job, int ranks)
{
    const char *slots = getenv("LONGHAUL_NODE_SLOTS");
    int64_t n;

    if (job->resources.threads > 0)
        return (int)job->resources.threads;
    /* Other jobs may come to the rest of the node's slots. */
    if (slots && lh_parse_i64(slots, 1, INT_MAX, &n))
        ranks = LH_MAX(ranks, (int)n);
    return LH_MAX(1, worker_cores() / ranks);
}
