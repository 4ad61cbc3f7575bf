/* daemon_rig.h - longhauld as a child process for tests: starting and ending it, an HTTP client, a
 * scripted node.
 *
 * daemon_program is its path. A child dies with the test. Failed expectations fail the test.
 */
#pragma once
#include "tests/unit/unit.h"
#include <sys/types.h>

#define START_MS 15000 /* until its address stands there, on a machine that builds meanwhile */
#define CHECK_JOB "{'kind':'check','name':'c'}"

extern const char *daemon_program;

struct daemon {
    char *dir;
    pid_t pid;
    int port;
    int status; /* of the last request */
    char headers[4096];
};

/* What systemd would give: a socket that listens (-1: none), and where to send notices (NULL). */
struct systemd {
    int listen_fd;
    const char *notify;
};

/* A node that does what a test says. */
struct fake {
    struct daemon *d;
    uint64_t ack, epoch;
};

/* Starts longhauld; args end with NULL. Standard error goes to DIR.log. systemd may be NULL. */
pid_t run_under(const char *dir, const char *fault, const char *const *args,
                const struct systemd *systemd);
pid_t run_program(const char *dir, const char *fault, const char *const *args);
/* Starts it and waits for its address. fault: LONGHAUL_FAULT; setting: a --set; both may be NULL. */
void daemon_start_with(struct daemon *d, const char *fault, const char *setting);
void daemon_start(struct daemon *d);
void daemon_init(struct daemon *d);
/* Waits for its end and returns the exit code, or 128 + signal. */
int reap(pid_t pid);
int daemon_stop(struct daemon *d, int signum);
void daemon_release(struct daemon *d);
int send_request(const struct daemon *d, const char *method, const char *path, const char *header,
                 const char *body);
/* The answer's JSON (or NULL), its status in d->status: 0 when the connection ended without one. */
json_t *receive(struct daemon *d, int fd);
char *double_quotes(const char *text);
/* One request with its answer; body is JSON with ' for ". */
json_t *call(struct daemon *d, const char *method, const char *path, const char *header,
             const char *body);
void expect(struct daemon *d, int status, json_t *answer, const char *code);
json_t *node_call(struct fake *f, const char *what, const char *more);
void node_register_with(struct fake *f, const char *attempts);
/* Polls until a command of that type comes, acknowledges it, and returns it. */
json_t *node_command(struct fake *f, const char *type);
void node_report(struct fake *f, const char *report);
void submit(struct daemon *d, const char *spec, char id[64]);
void expect_job(struct daemon *d, const char *id, const char *state);
/* Brings a fresh job to the state running. */
void run_job(struct fake *f, const char *spec, char id[64]);
