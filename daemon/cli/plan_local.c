/* plan_local.c - longhaul plan --local: what `longhaul-worker --plan` says on this machine, without
 * a coordinator. */
#include "daemon/cli/plan.h"
#include "proto/base/attr.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_BYTES_MAX (1 << 20) /* a plan is some kilobytes */

extern char **environ;

/* The job in a file of its own, for it may have come as YAML or from a pipe. Returns 0 or -errno.
 */
static int write_job(const json_t *job, char path[static 64])
{
    FILE *f;
    int fd, rc = 0;

    (void)snprintf(path, 64, "/tmp/longhaul-plan-XXXXXX");
    fd = mkostemp(path, O_CLOEXEC);
    f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f)
        return -errno;
    if (json_dumpf(job, f, JSON_COMPACT) < 0)
        rc = -EIO;
    if (fclose(f) != 0)
        rc = -errno;
    return rc;
}

/* Starts the worker with its standard output in a pipe: *ret_out. Returns 0 or -errno. */
static int start(const char *job_path, pid_t *ret_pid, int *ret_out)
{
    char program[1024];
    char *argv[] = {program, (char *)(uintptr_t)job_path, "--plan", NULL};
    posix_spawn_file_actions_t actions;
    int pipes[2], rc;

    (void)lh_sibling_program("longhaul-worker", program, sizeof(program));
    if (pipe2(pipes, O_CLOEXEC) < 0)
        return -errno;
    rc = posix_spawn_file_actions_init(&actions);
    if (rc == 0) {
        rc = posix_spawn_file_actions_adddup2(&actions, pipes[1], STDOUT_FILENO);
        if (rc == 0)
            rc = posix_spawnp(ret_pid, program, &actions, NULL, argv, environ);
        (void)posix_spawn_file_actions_destroy(&actions);
    }
    (void)close(pipes[1]);
    if (rc != 0)
        (void)close(pipes[0]);
    else
        *ret_out = pipes[0];
    return -rc;
}

/* Everything from fd, as JSON; NULL when it is none. */
static json_t *read_answer(int fd)
{
    struct lh_buf text;
    json_t *answer = NULL;
    char chunk[4096];
    ssize_t n;
    int rc = 0;

    lh_buf_init(&text, ANSWER_BYTES_MAX);
    while (rc == 0 && ((n = read(fd, chunk, sizeof(chunk))) > 0 || (n < 0 && errno == EINTR)))
        rc = n > 0 ? lh_buf_append(&text, chunk, (size_t)n) : 0;
    if (rc == 0 && text.data)
        answer = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, NULL);
    lh_buf_release(&text);
    return answer;
}

int plan_local(const json_t *job, json_t **ret_answer)
{
    char path[64];
    int out = -1, status = 0, rc = write_job(job, path);
    json_t *answer = NULL;
    pid_t pid;

    if (rc == 0)
        rc = start(path, &pid, &out);
    if (rc == 0) {
        answer = read_answer(out);
        (void)close(out);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    (void)unlink(path);
    if (rc < 0)
        fprintf(stderr, "longhaul: longhaul-worker cannot be started: %s\n", strerror(-rc));
    else if (!answer)
        fprintf(stderr, "longhaul: longhaul-worker --plan gave no answer (status %#x)\n",
                (unsigned)status);
    if (!answer)
        return CLI_UNAVAILABLE;
    *ret_answer = answer;
    return CLI_OK;
}
