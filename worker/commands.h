/* commands.h - the command line of longhaul-worker and what it can be asked to do beside running a
 * job. */
#pragma once
#include "worker/run.h"

enum worker_mode {
    WORKER_RUN,
    WORKER_PREPARE,
    WORKER_PLAN,
    WORKER_TOKENIZE,
    WORKER_HELP,
    WORKER_VERSION
};

struct worker_options {
    enum worker_mode mode;
    const char *job;        /* JOB.json */
    const char *out_dir;    /* --out; NULL when not given */
    const char *resume_dir; /* --resume */
    const char *dump_dir;   /* --dump */
    const char *cache_dir;  /* --cache, else $LONGHAUL_CACHE; NULL: the user's cache directory */
    const char *events_dir; /* --events, else $LONGHAUL_EVENTS_DIR; NULL: OUT/events */
    const char *model, *in, *out; /* --tokenize MODEL IN OUT */
    const char *profile;          /* --profile FILE; NULL: none */
};

/* Strings point into argv and the environment. LH_EJOB with one sentence for a wrong command line.
 */
LH_MUST_CHECK int worker_options_parse(int argc, char **argv, struct worker_options *ret_options,
                                       struct lh_err *reterr);

/* The text of --help. */
const char *worker_help(void);

/* $LONGHAUL_CACHE and --cache are looked at before; this is $XDG_CACHE_HOME/longhaul,
 * ~/.cache/longhaul, or /var/cache/longhaul where there is no home. buf of 1024 bytes; returns buf.
 */
const char *worker_cache_dir(const struct worker_options *o, char buf[static 1024]);

/* Cores that this process may use. */
int worker_cores(void);

/* Threads for one of `ranks` ranks on this machine: the job's wish, else an even share of the cores
 * we may use, over the slots of the node ($LONGHAUL_NODE_SLOTS) where those are more. */
int worker_threads(const struct lh_job *job, int ranks);

/* --plan: checks the job against its files without training and prints one line of JSON on stdout.
 * Returns the exit code: 0 also when the line says "ok": false, for the line is the answer; others
 * when there is no answer. */
enum worker_exit worker_preflight(const struct worker_options *o);

/* --tokenize: one JSON object a line with "text" in; the same with ids, plain_ids (where they
 * differ), decoded out. */
LH_MUST_CHECK int worker_tokenize(const struct worker_options *o, struct lh_err *reterr);
