/* progress.c - where a job stands, from the newest lines of its attempt's journal (events.md).
 *
 * The journal is a file that only grows and is read from its end: one pread of PROGRESS_TAIL_MAX
 * bytes. A phase or step report comes at least once a second of a run's time, so the newest of both
 * are in that tail.
 */
#include "daemon/coordinator/api/api.h"
#include "proto/base/json.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRESS_TAIL_MAX ((size_t)32 * 1024) /* some hundred lines */

const char *api_attempt_file(const struct app *a, const struct core_job *j, uint64_t attempt,
                             const char *file, char *buf, size_t cap)
{
    char dir[1024];

    (void)snprintf(buf, cap, "%s/%llu/%s", app_job_dir(a, j->id, dir, sizeof(dir)),
                   (unsigned long long)attempt, file);
    return buf;
}

/* The file's last whole lines in a malloc'ed text, or NULL. */
static char *read_tail(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    off_t from = size > (off_t)PROGRESS_TAIL_MAX ? size - (off_t)PROGRESS_TAIL_MAX : 0;
    char *text = size > 0 ? malloc(PROGRESS_TAIL_MAX + 1) : NULL;
    ssize_t n = text ? pread(fd, text, PROGRESS_TAIL_MAX, from) : -1;
    char *first;

    if (fd >= 0)
        (void)close(fd);
    if (n <= 0) {
        free(text);
        return NULL;
    }
    text[n] = 0;
    first = from > 0 ? strchr(text, '\n') : text;
    if (!first) {
        free(text);
        return NULL;
    }
    memmove(text, first, strlen(first) + 1);
    return text;
}

static void copy_member(json_t *to, const char *name, const json_t *from, const char *as)
{
    json_t *value = json_object_get(from, name);

    if (value)
        (void)json_object_set(to, as, value);
}

static void take_phase(json_t *progress, const json_t *line)
{
    copy_member(progress, "name", line, "phase");
    copy_member(progress, "done", line, "done");
    copy_member(progress, "of", line, "phase_of");
    copy_member(progress, "unit", line, "unit");
    copy_member(progress, "time", line, "time");
}

static void take_step(json_t *progress, const json_t *line)
{
    static const char *const names[] = {"step",          "of",     "loss",         "grad_norm",
                                        "learning_rate", "step_s", "tokens_per_s", "tokens"};
    double left = lh_json_num(line, "of", 0) - lh_json_num(line, "step", 0);
    double step_s = lh_json_num(line, "step_s", -1);

    for (size_t i = 0; i < LH_ARRAY_LEN(names); i++)
        copy_member(progress, names[i], line, names[i]);
    copy_member(progress, "time", line, "time");
    if (step_s >= 0 && left >= 0)
        (void)json_object_set_new(progress, "eta_s", json_real(left * step_s));
}

json_t *api_progress(const struct app *a, const struct core_job *j)
{
    char path[1200];
    json_t *progress = json_object();
    char *text, *at, *line;

    if (j->n_attempts == 0 || !progress) {
        json_decref(progress);
        return json_null();
    }
    api_attempt_file(a, j, j->attempts[j->n_attempts - 1].number, "events.jsonl", path,
                     sizeof(path));
    text = read_tail(path);
    for (at = text; at && (line = strsep(&at, "\n"));) {
        bool phase = strstr(line, "\"phase\"") != NULL;
        json_t *value = NULL;

        if (!at || (!phase && !strstr(line, "\"step\"")))
            continue; /* without a newline it is not a report yet */
        if (lh_json_parse(line, strlen(line), 8, &value, NULL) < 0)
            continue;
        if (strcmp(lh_json_str(value, "type", ""), "phase") == 0)
            take_phase(progress, value);
        else if (strcmp(lh_json_str(value, "type", ""), "step") == 0)
            take_step(progress, value);
        json_decref(value);
    }
    free(text);
    if (json_object_size(progress) == 0) {
        json_decref(progress);
        return json_null();
    }
    return progress;
}
