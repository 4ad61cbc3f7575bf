/* job_parse.h - what the other job_*.c files need of the walk over the table; private to proto. */
#pragma once
#include "proto/job_table.h"

#define JOB_WHOLE_MAX 9007199254740991.0 /* 2^53 - 1: the largest whole number that every JSON reader keeps */

/* Reads p->input into p->job, p->job->spec and p->problems. */
void job_read(struct job_parser *p);

/* The default of a field as JSON: new reference, NULL when it has none. */
json_t *field_default(const struct field *f);
