/* stage.c - see stage.h. */
#include "daemon/node/stage.h"
#include "daemon/node/cache.h"
#include "daemon/node/spawn.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include "proto/event.h"
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLAN_TIMEOUT_MS 300000u      /* reads a model's header and the directory of its data */
#define PREPARE_TIMEOUT_MS 21600000u /* six hours of tokenising: beyond, something is broken */
#define PATH_CAP 1024

/* Whether there is something to tokenise before a slot is held: texts to train on, or to measure
 * with. */
static bool has_texts(const json_t *spec)
{
    const json_t *data = json_object_get(spec, "data");
    const json_t *eval = json_object_get(json_object_get(spec, "eval"), "perplexity");
    const char *first = json_string_value(json_array_get(eval, 0));

    if (first && !lh_ends_with(first, ".safetensors"))
        return true;
    return json_array_size(json_object_get(data, "train")) > 0 &&
           strcmp(lh_json_str(data, "format", "text"), "tokens") != 0;
}

static int check_readable(const char *path, const char *pointer, struct lh_err *reterr)
{
    glob_t found;
    int rc = 0;

    if (access(path, R_OK) == 0)
        return 0;
    if (!strpbrk(path, "*?["))
        return lh_err_at(reterr, errno == ENOENT ? LH_EINPUT : -errno, pointer,
                         "'%s' cannot be read on this node", path);
    if (glob(path, 0, NULL, &found) != 0)
        return lh_err_at(reterr, LH_EINPUT, pointer, "no file matches '%s' on this node", path);
    for (size_t i = 0; rc == 0 && i < found.gl_pathc; i++)
        if (access(found.gl_pathv[i], R_OK) < 0)
            rc = lh_err_at(reterr, -errno, pointer, "'%s' cannot be read on this node",
                           found.gl_pathv[i]);
    globfree(&found);
    return rc;
}

/* One URI of the spec becomes a path. */
static int stage_uri(const struct stage_env *env, const char *uri, const json_t *inputs,
                     const char *pointer, json_t **ret_path, struct lh_err *reterr)
{
    struct lh_uri parsed;
    char path[PATH_CAP];
    const json_t *input;
    int rc = lh_uri_parse(uri, &parsed, reterr);

    if (rc == 0 && parsed.scheme == LH_URI_FILE) {
        rc = check_readable(parsed.path, pointer, reterr);
        (void)snprintf(path, sizeof(path), "%s", parsed.path);
    } else if (rc == 0) {
        input = json_object_get(inputs, uri);
        rc = input ? stage_fetch(env, input, path, reterr)
                   : lh_err_set(reterr, LH_EINPUT, "'%s' was not resolved by the coordinator", uri);
    }
    if (rc < 0 && reterr && !reterr->pointer[0])
        (void)snprintf(reterr->pointer, sizeof(reterr->pointer), "%s", pointer);
    if (rc == 0)
        *ret_path = json_string(path);
    return rc;
}

int stage_inputs(const struct stage_env *env, json_t *spec, const json_t *inputs,
                 struct lh_err *reterr)
{
    static const struct {
        const char *object, *member;
        bool list;
    } at[] = {{"model", "base", false},
              {"model", "adapter", false},
              {"data", "train", true},
              {"eval", "perplexity", true}};

    for (size_t i = 0; i < LH_ARRAY_LEN(at); i++) {
        json_t *object = json_object_get(spec, at[i].object),
               *member = json_object_get(object, at[i].member), *path;
        size_t n = at[i].list ? json_array_size(member) : json_is_string(member);
        char pointer[64];

        for (size_t k = 0; k < n; k++) {
            const json_t *uri = at[i].list ? json_array_get(member, k) : member;
            int rc;

            (void)snprintf(pointer, sizeof(pointer), "/%s/%s", at[i].object, at[i].member);
            if (at[i].list)
                (void)snprintf(pointer, sizeof(pointer), "/%s/%s/%zu", at[i].object, at[i].member,
                               k);
            if (!json_is_string(uri))
                continue;
            rc = stage_uri(env, json_string_value(uri), inputs, pointer, &path, reterr);
            if (rc < 0)
                return rc;
            if (at[i].list)
                (void)json_array_set_new(member, k, path);
            else
                (void)json_object_set_new(object, at[i].member, path);
        }
    }
    return 0;
}

int stage_fetch(const struct stage_env *env, const json_t *input, char *ret_path,
                struct lh_err *reterr)
{
    struct cache_request q = {.dir = env->cache,
                              .uri = lh_json_str(input, "uri", ""),
                              .manifest_sha256 = lh_json_str(input, "manifest_sha256", ""),
                              .s3_config = env->s3_config,
                              .lock = env->cache_lock,
                              .cancel = env->cancel};

    return cache_fetch(&q, ret_path, reterr);
}

/* The last `error` that a worker wrote into DIR/events, else the end of what it wrote to standard
 * error. */
static int worker_error(const char *dir, const struct spawn_result *r, struct lh_err *reterr)
{
    char path[PATH_CAP], text[640] = "", pointer[160] = "";
    uint64_t offset = 0;
    json_t *line;
    int code = r->exit == 75 || r->exit < 0 ? LH_ETRYAGAIN
               : r->exit == 64              ? LH_EJOB
                                            : LH_EINPUT,
        fd;

    (void)snprintf(path, sizeof(path), "%s/events/rank-0.jsonl", dir);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && lh_journal_next(fd, &offset, &line) > 0) {
        if (strcmp(lh_json_str(line, "type", ""), "error") == 0) {
            (void)snprintf(text, sizeof(text), "%s", lh_json_str(line, "text", ""));
            (void)snprintf(pointer, sizeof(pointer), "%s", lh_json_str(line, "pointer", ""));
        }
        json_decref(line);
    }
    if (fd >= 0)
        (void)close(fd);
    if (!text[0])
        (void)snprintf(text, sizeof(text), "longhaul-worker ended with %s %d: %.500s",
                       r->signal ? "signal" : "exit code", r->signal ? r->signal : r->exit, r->err);
    return lh_err_at(reterr, code, pointer, "%s", text);
}

static int run_worker(const struct stage_env *env, const char *dir, const char *mode,
                      unsigned timeout_ms, struct spawn_result *ret_result, struct lh_err *reterr)
{
    char job[PATH_CAP], events[PATH_CAP], cache[PATH_CAP + 16];
    char *argv[] = {(char *)(uintptr_t)env->worker, job,    (char *)(uintptr_t)mode,
                    (char *)(uintptr_t) "--events", events, NULL};
    const char *set_env[] = {cache, NULL};
    struct spawn_request q = {
        .argv = argv, .set_env = set_env, .timeout_ms = timeout_ms, .cancel = env->cancel};
    int rc;

    (void)snprintf(job, sizeof(job), "%s/job.json", dir);
    (void)snprintf(events, sizeof(events), "%s/events", dir);
    (void)snprintf(cache, sizeof(cache), "LONGHAUL_CACHE=%s", env->cache);
    rc = lh_mkdir_p(events, reterr);
    return rc < 0 ? rc : spawn_run(&q, ret_result, reterr);
}

int stage_job(const struct stage_env *env, const char *dir, const json_t *spec,
              struct lh_err *reterr)
{
    struct spawn_result r;
    char path[PATH_CAP];
    int rc;

    (void)snprintf(path, sizeof(path), "%s/job.json", dir);
    rc = lh_json_save(path, spec, reterr);
    if (rc < 0 || !has_texts(spec))
        return rc;
    rc = run_worker(env, dir, "--prepare", PREPARE_TIMEOUT_MS, &r, reterr);
    if (rc < 0)
        return rc;
    if (r.exit != 0)
        rc = worker_error(dir, &r, reterr);
    lh_buf_release(&r.out);
    return rc;
}

int stage_plan(const struct stage_env *env, const char *dir, json_t **ret_plan,
               struct lh_err *reterr)
{
    struct spawn_result r;
    json_t *plan = NULL;
    int rc = run_worker(env, dir, "--plan", PLAN_TIMEOUT_MS, &r, reterr);

    if (rc < 0)
        return rc;
    /* The answer is its last line; libraries may have written before. */
    while (r.out.len > 0 && r.out.data[r.out.len - 1] == '\n')
        r.out.data[--r.out.len] = '\0';
    if (r.out.len > 0) {
        const char *line = strrchr(r.out.data, '\n');

        line = line ? line + 1 : r.out.data;
        if (lh_json_parse(line, strlen(line), 32, &plan, NULL) < 0 || !json_is_object(plan)) {
            json_decref(plan);
            plan = NULL;
        }
    }
    if (!plan)
        rc = worker_error(dir, &r, reterr);
    lh_buf_release(&r.out);
    if (rc == 0)
        *ret_plan = plan;
    return rc;
}

json_t *stage_problem(const struct lh_err *err)
{
    return json_pack("{s:s, s:s, s:s}", "code", lh_err_name(err->code), "pointer", err->pointer,
                     "detail", err->text);
}
