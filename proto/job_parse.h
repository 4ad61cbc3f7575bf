/* job_parse.h - what the other job_*.c files need of the walk over the table; private to proto. */
#pragma once
#include "proto/job_table.h"

#define JOB_WHOLE_MAX                                                                              \
    9007199254740991.0 /* 2^53 - 1: the largest whole number that every JSON reader keeps */

#define POINTER_MAX sizeof(((struct lh_problem *)0)->pointer)

/* The spec with objects in place of sections that are switched on by `true`, and without those that
 * are `false`: new reference, NULL when memory is exhausted. */
json_t *job_switch(const json_t *spec);

/* Reads p->input into p->job, p->job->spec and p->problems. */
void job_read(struct job_parser *p);

/* The default of a field as JSON: new reference, NULL when it has none. */
json_t *field_default(const struct field *f);

/* ---- job_take.c, for the walk ---- */

/* input_get; *ret_unusable tells that a section on the way is there and is no object. */
const json_t *input_find(const struct job_parser *p, const char *pointer, bool *ret_unusable);

/* Text for people of a value: a string in quotes and cut at 60 bytes, a number as written. Returns
 * buf. */
#define VALUE_TEXT_MAX 96
const char *value_text(const json_t *value, char buf[static VALUE_TEXT_MAX]);

/* 'one of "prepare", "train"', or '"cpu"': only what this build takes. Returns buf. */
const char *names_text(const struct field_names *names, char *buf, size_t cap);

/* Appends "/" and key as RFC 6901 wants it; cut where it does not fit. */
void pointer_append(char *pointer, size_t cap, const char *key);

/* ---- job_unknown.c ---- */

/* Refuses what no entry of the table stands for, in a section ("" for the root) and the sections
 * below it. */
void refuse_unknown_below(struct job_parser *p, const char *section, const json_t *object);

/* ---- job_value.c, for the other members that are lists ---- */

/* The pointer of entry i of a list. Returns buf. */
const char *entry_pointer(const char *path, size_t i, char buf[static POINTER_MAX]);
/* False (recorded) unless value is a list of min to max entries. */
bool is_list(struct job_parser *p, const char *pointer, const json_t *value, size_t min, size_t max,
             const char *wanted);
