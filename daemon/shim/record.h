/* record.h - the shim's files: shim.json, exit.json, cleaned.json. All durable before anybody is
 * told. */
#pragma once
#include "daemon/shim/attempt.h"
#include "daemon/shim/outcome.h"
#include "daemon/shim/ranks.h"

struct record {
    enum stop_cause cause;
    char reason[64];
    bool launched;
    int launcher_exit, launcher_signal;
    uint64_t started_ms, launcher_ended_ms; /* wall clock */
    struct lh_err launch_error;             /* code 0: none */
};

LH_MUST_CHECK int
record_shim(struct lh_err *reterr); /* who we are: pid, start ticks, boot id, protocol */
LH_MUST_CHECK int record_exit(const struct attempt *a, const struct record *r,
                              const struct ranks *ranks, struct lh_err *reterr);
LH_MUST_CHECK int record_cleaned(const struct attempt *a, const struct ranks *ranks,
                                 struct lh_err *reterr);
