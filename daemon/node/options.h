/* options.h - the command line of longhaul-node. */
#pragma once
#include "daemon/node/node.h"

struct options {
    struct node_config config; /* strings point into this struct or argv */
    char token[512];           /* read from --token-file */
    char state[NODE_PATH_MAX], coordinator[256], name[64], address[64];
    char worker[NODE_PATH_MAX], shim[NODE_PATH_MAX];
};

/* 0; 1 when help or the version was printed; or a negative code. */
LH_MUST_CHECK int options_parse(int argc, char **argv, struct options *ret_options,
                                struct lh_err *reterr);
