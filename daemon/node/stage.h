/* stage.h - brings a job's inputs onto this machine and writes the spec that its ranks read.
 * Blocking: worker threads.
 *
 * file:// is used in place. job: and s3:// are looked up in `inputs` and come out of a
 * content-addressed cache (STATE/cache/objects/SHA), verified by their manifest, fetched once.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>

struct stage_env {
    const char *cache;           /* directory */
    const char *worker;          /* program */
    const char *s3_config;       /* file with credentials, or NULL: the environment */
    pthread_mutex_t *cache_lock; /* or NULL */
    const volatile bool *cancel;
};

/* spec (changed in place) gets local paths in place of URIs; errors carry the pointer of the
 * member. */
LH_MUST_CHECK int stage_inputs(const struct stage_env *env, json_t *spec, const json_t *inputs,
                               struct lh_err *reterr);

/* The local directory of {uri, manifest_sha256}; path of 1024 bytes. */
LH_MUST_CHECK int stage_fetch(const struct stage_env *env, const json_t *input, char *ret_path,
                              struct lh_err *reterr);

/* Writes DIR/job.json, and tokenises the texts of a job that has some (`longhaul-worker
 * --prepare`). */
LH_MUST_CHECK int stage_job(const struct stage_env *env, const char *dir, const json_t *spec,
                            struct lh_err *reterr);

/* What the worker says before a job may start: {"ok": true, bytes, ...} or {"ok": false, code,
 * pointer, detail}. New object. */
LH_MUST_CHECK int stage_plan(const struct stage_env *env, const char *dir, json_t **ret_plan,
                             struct lh_err *reterr);

/* {code, pointer, detail} of an error, for reports. */
json_t *stage_problem(const struct lh_err *err);
