/* config.h - longhauld's settings: defaults, then longhauld.yaml, then flags. One struct for main and app. */
#pragma once
#include "daemon/coordinator/core/core.h"
#include "daemon/coordinator/http/http.h"
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct config {
    char *state, *listen, *store, *ports, *token_file, *tls_cert, *tls_key; /* owned; NULL: not set */
    char **sets; /* owned: what config_set took, so that a reload can lay it over the file again */
    unsigned n_sets;
    char *node_token_file; /* --standalone: the token of its own node, needed with auth token */
    bool standalone, insecure;
    bool realtime; /* --standalone: ranks on every core would make each of our fsyncs wait for a tick */
    bool auth_given;
    enum http_auth auth;
    unsigned slots; /* --standalone: of the local node; 0: one a core */
    uint64_t heartbeat_ms, tick_ms;
    struct core_config core; /* store and ports point into this struct's own strings after config_finish */
    uint64_t reserve_bytes;
    uint64_t body_max_bytes;
    unsigned connections_max;
    unsigned request_ms, idle_ms;
    uint64_t dry_run_ms;    /* how long a dry run waits for its preflights */
    unsigned dry_runs_max;  /* at a time */
    uint64_t events_keep_ms, events_max; /* of the log; older ones are folded into its snapshot */
};

void config_init(struct config *c);
void config_release(struct config *c);

/* Overlays a YAML file. Unknown keys, wrong types and values out of range are refused with their line (-EINVAL). */
LH_MUST_CHECK int config_load(struct config *c, const char *path, struct lh_err *reterr);

/* The settings of another one that were given by config_set, laid over this one. */
LH_MUST_CHECK int config_set_again(struct config *c, const struct config *from, struct lh_err *reterr);

/* Overlays one setting given as "timers.suspect_ms=500" or "listen=127.0.0.1:0". */
LH_MUST_CHECK int config_set(struct config *c, const char *assignment, struct lh_err *reterr);

/* Whether timers fit together; config_finish asks, too. */
LH_MUST_CHECK int config_check(const struct config *c, struct lh_err *reterr);

/* Fills in what follows from the rest (state directory, default store) and checks that it fits together. */
LH_MUST_CHECK int config_finish(struct config *c, struct lh_err *reterr);
