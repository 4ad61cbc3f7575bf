/* change.h - what the core decided and the store keeps: events, each with the table rows that it changed.
 *
 * The one piece of vocabulary that core/ and store/ share. A change set is written in one transaction or not at
 * all. Rows are flat JSON objects of scalars and strings, one member a column of store/schema.c; they are owned by
 * their change set alone, so that it can travel to the writer's thread.
 */
#pragma once
#include <jansson.h>
#include <stdint.h>

#define CHANGE_ID_MAX 32
#define CHANGE_TYPE_MAX 32

struct change_row {
    const char *table; /* static: "job", "job_update", "job_plan", "job_result", "attempt", "claim", "... */
    json_t *row;       /* owned */
};
struct change_event {
    uint64_t seq, time_ms; /* seq: the core counts; the event's id on the stream. time: wall clock */
    char type[CHANGE_TYPE_MAX]; /* "job.queued", "attempt.running", "node.down", ... */
    char job[CHANGE_ID_MAX];    /* "" when the event is about no job */
    uint64_t attempt;           /* 0: about no attempt */
    json_t *data;               /* owned: what the API shows */
    struct change_row *rows;    /* owned */
    unsigned n_rows;
};
struct change_set {
    struct change_event *events; /* owned */
    unsigned n_events, cap_events;
    json_t *idem; /* owned: a row of idem_key that goes into the same transaction, or NULL */
};

/* All zero is an empty set. Out of memory aborts: half a decision cannot be undone, the database is the recovery. */
void change_set_release(struct change_set *set);

/* Adds an event; data is stolen. The pointer lives until the next change_event_add. */
struct change_event *change_event_add(struct change_set *set, uint64_t seq, uint64_t time_ms,
                                      const char *type, const char *job, uint64_t attempt,
                                      json_t *data);

/* Adds a row to an event; row is stolen. */
void change_row_add(struct change_event *e, const char *table, json_t *row);

/* The rows as the text that the event log keeps: [["job",{...}],...]; malloc'ed. */
char *change_rows_text(const struct change_event *e);

/* The event as the API shows it: {seq, time, type, job, attempt, data}; a new object. */
json_t *change_event_json(const struct change_event *e);
