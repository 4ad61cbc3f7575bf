/* node_files.c - NODE-7: logs and journals of attempts, appended by byte offset to
 * STATE/jobs/JOB/ATTEMPT/FILE.
 *
 * The size of the file is the protocol's only state, so nothing is lost or doubled by restarts on
 * either side. Files are not synced: after a power cut a shorter file makes the node send the rest
 * again.
 */
#include "daemon/coordinator/app_parts.h"
#include "proto/base/fs.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX                                                                             \
    ((int64_t)1 << 30) /* of one file: a rank that writes 1 MB/s fills it in 17 minutes, and its   \
                          shim caps it */
#define CHUNK_MAX ((size_t)1 << 20)

/* events.jsonl, launch.log, RANK.log: nothing else is written below STATE/jobs by a node's wish. */
static bool good_name(const char *file)
{
    size_t digits = strspn(file, "0123456789");

    if (strcmp(file, "events.jsonl") == 0 || strcmp(file, "launch.log") == 0)
        return true;
    return digits > 0 && digits <= 5 && strcmp(file + digits, ".log") == 0;
}

struct target {
    const struct core_job *job;
    uint64_t attempt;
    const char *file;
    int64_t offset;
};

/* The request's node must be one that has registered: 409 makes it do so. */
static bool take_agent(struct app *a, struct http_request *q)
{
    const char *name = http_query(q, "name"), *agent = http_query(q, "agent_id"),
               *epoch = http_query(q, "epoch");
    int64_t seen = 0;

    if (!name || !agent || (epoch && !lh_parse_i64(epoch, 0, INT64_MAX, &seen))) {
        http_answer_problem(q, 400, "bad_request", NULL,
                            "name, agent_id or epoch is missing from the query, or wrong");
        return false;
    }
    if ((uint64_t)seen <= store_epoch(a->store) && core_knows_agent(a->core, name, agent))
        return true;
    http_answer_problem(q, 409, "not_registered", NULL,
                        "this coordinator does not know this agent; register");
    return false;
}

static bool in_gang(const struct core_job *j, uint64_t attempt, const char *node)
{
    for (unsigned i = 0; i < j->n_attempts; i++)
        for (unsigned k = 0; j->attempts[i].number == attempt && k < j->attempts[i].n_claims; k++)
            if (strcmp(j->attempts[i].claims[k].node, node) == 0)
                return true;
    return false;
}

/* /v1/node/files/JOB/ATTEMPT/FILE?offset=N. Answers and returns false when it is not that. */
static bool take_target(struct app *a, struct http_request *q, struct target *t)
{
    char job[CORE_ID_MAX] = "", attempt[24] = "";
    const char *path = http_path(q), *offset = http_query(q, "offset");
    int64_t number = 0;
    int used = 0;

    if (sscanf(path, "/v1/node/files/%31[a-z0-9]/%20[0-9]/%n", job, attempt, &used) == 2 &&
        used > 0 && lh_parse_i64(attempt, 1, INT64_MAX, &number) && good_name(path + used))
        t->job = core_find_job(a->core, job);
    if (!t->job || strcmp(t->job->id, job) != 0 ||
        !in_gang(t->job, (uint64_t)number, http_query(q, "name"))) {
        http_answer_problem(q, 404, "no_such_file", NULL,
                            "this node has no such attempt, or attempts have no such file");
        return false;
    }
    if (!offset || !lh_parse_i64(offset, 0, INT64_MAX, &t->offset)) {
        http_answer_problem(q, 400, "bad_offset", NULL, "offset is missing or no number");
        return false;
    }
    t->attempt = (uint64_t)number;
    t->file = path + used;
    return true;
}

static int open_file(struct app *a, const struct target *t, char *path, size_t cap)
{
    char dir[4300];
    int fd;

    if (snprintf(path, cap, "%s/jobs/%s/%llu/%s", a->config->state, t->job->id,
                 (unsigned long long)t->attempt, t->file) >= (int)cap)
        return -ENAMETOOLONG;
    fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd >= 0 || errno != ENOENT)
        return fd < 0 ? -errno : fd;
    (void)snprintf(dir, sizeof(dir), "%s/jobs/%s/%llu", a->config->state, t->job->id,
                   (unsigned long long)t->attempt);
    if (lh_mkdir_p(dir, NULL) < 0)
        return -errno;
    fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    return fd < 0 ? -errno : fd;
}

/* All or nothing: what a full disk cut short is taken back, so that the size stays a line that both
 * sides know. */
static int append(int fd, int64_t size, const char *bytes, size_t len)
{
    int rc = lh_write_all(fd, bytes, len);

    return rc < 0 && ftruncate(fd, size) < 0 ? -errno : rc;
}

static void answer_size(struct http_request *q, int status, int64_t size)
{
    http_answer_json(q, status, json_pack("{s:I}", "size", (json_int_t)size), NULL);
}

void node_file_put(struct app *a, struct http_request *q)
{
    struct target t = {.job = NULL};
    char path[4400];
    size_t len = 0;
    const char *bytes = http_body(q, &len);
    struct stat st;
    int fd, rc;

    if (store_mode(a->store) != STORE_OK) { /* the reserve is for the database */
        http_answer_problem(q, 507, "disk_reserve", NULL,
                            "the coordinator's disk is full up to the reserve; send it later");
        return;
    }
    if (!take_agent(a, q) || !take_target(a, q, &t))
        return;
    fd = open_file(a, &t, path, sizeof(path));
    if (fd < 0 || fstat(fd, &st) < 0) {
        http_answer_problem(q, fd == -ENOSPC ? 507 : 500, "storage", NULL,
                            "the file cannot be opened: %s", strerror(fd < 0 ? -fd : errno));
    } else if (st.st_size != t.offset) {
        answer_size(q, 409, st.st_size);
    } else if (len > CHUNK_MAX || st.st_size + (int64_t)len > FILE_BYTES_MAX) {
        http_answer_problem(q, 413, "file_full", NULL,
                            "a file of an attempt takes at most %lld bytes",
                            (long long)FILE_BYTES_MAX);
    } else if ((rc = append(fd, st.st_size, bytes, len)) < 0) {
        http_answer_problem(q, rc == -ENOSPC ? 507 : 500, "storage", NULL,
                            "the file cannot be written: %s", strerror(-rc));
    } else {
        if (len > 0 && strcmp(t.file, "events.jsonl") == 0)
            progress_grown(a, t.job->id, t.attempt, path, (uint64_t)st.st_size,
                           (uint64_t)st.st_size + len);
        answer_size(q, 200, st.st_size + (int64_t)len);
    }
    if (fd >= 0)
        (void)close(fd);
}
