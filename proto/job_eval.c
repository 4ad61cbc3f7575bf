/* job_eval.c - the members of a job's eval section that are lists; called through the table. */
#include "proto/base/attr.h"
#include "proto/job_parse.h"
#include <stdio.h>
#include <string.h>

#define DEPTHS_MAX 64

/* eval.lengths, eval.passkey.lengths */
void take_lengths(struct job_parser *p, const struct field *f, const json_t *value)
{
    struct lh_lengths *list = (struct lh_lengths *)((char *)p->job + f->offset);
    struct field range = {.type = FIELD_INT, .min = f->min, .max = f->max};
    size_t n = json_array_size(value);
    char at[POINTER_MAX], name[DOTTED_MAX];
    double number;

    if (!is_list(p, f->path, value, 1, LH_EVAL_LENGTHS_MAX, "a list of whole numbers"))
        return;
    list->at = parser_alloc(p, n * sizeof(int64_t));
    if (!list->at)
        return;
    for (size_t i = 0; i < n; i++) {
        if (!take_number(p, entry_pointer(f->path, i, at), json_array_get(value, i), &range,
                         &number))
            continue;
        for (unsigned k = 0; k < list->n; k++)
            if (list->at[k] == (int64_t)number)
                lh_problem_add(p->problems, at, "bad_value", "%s gives %.0f a second time",
                               dotted_name(at, name), number);
        list->at[list->n++] = (int64_t)number;
    }
}

void take_depths(struct job_parser *p, const struct field *f, const json_t *value)
{
    struct field range = {.type = FIELD_NUMBER, .min = f->min, .max = f->max};
    size_t n = json_array_size(value);
    char at[POINTER_MAX], name[DOTTED_MAX];
    double *depths;
    unsigned taken = 0;

    if (!is_list(p, f->path, value, 1, DEPTHS_MAX, "a list of numbers from 0 to 1"))
        return;
    depths = parser_alloc(p, n * sizeof(*depths));
    if (!depths)
        return;
    for (size_t i = 0; i < n; i++) {
        if (!take_number(p, entry_pointer(f->path, i, at), json_array_get(value, i), &range,
                         &depths[taken]))
            continue;
        for (unsigned k = 0; k < taken; k++)
            if (depths[k] == depths[taken])
                lh_problem_add(p->problems, at, "bad_value", "%s gives %g a second time",
                               dotted_name(at, name), depths[taken]);
        taken++;
    }
    p->job->eval.passkey.depths = depths;
    p->job->eval.passkey.n_depths = taken;
}

static void take_rope(struct job_parser *p, const char *at, const json_t *entry,
                      struct lh_rope_wish *wish)
{
    static const char *const members[] = {"type", "factor"};
    static const struct field range = {.type = FIELD_NUMBER, .min = 1, .max = 1e6};
    const json_t *type = json_object_get(entry, "type"), *factor = json_object_get(entry, "factor");
    const char *word = json_string_value(entry);
    char sub[POINTER_MAX];
    unsigned index;

    if (word && strcmp(word, "shipped") == 0) {
        wish->factor = 1;
        return;
    }
    if (json_object_size(entry) == 0) {
        (void)wrong_type(p, at, entry,
                         "\"shipped\", or an object, as {\"type\": \"yarn\", \"factor\": 2}");
        return;
    }
    refuse_unknown(p, at, entry, members, LH_ARRAY_LEN(members));
    (void)snprintf(sub, sizeof(sub), "%.100s/type", at);
    if (type && take_name(p, sub, type, &rope_names, &index)) {
        wish->has_type = true;
        wish->type = (enum lh_rope)index;
    }
    (void)snprintf(sub, sizeof(sub), "%.100s/factor", at);
    if (factor)
        (void)take_number(p, sub, factor, &range, &wish->factor);
}

void take_ropes(struct job_parser *p, const struct field *f, const json_t *value)
{
    size_t n = json_array_size(value);
    struct lh_rope_wish *ropes;
    char at[POINTER_MAX];

    if (!is_list(p, f->path, value, 1, LH_EVAL_ROPES_MAX,
                 "a list of \"shipped\" and of objects with type and factor"))
        return;
    ropes = parser_alloc(p, n * sizeof(*ropes));
    if (!ropes)
        return;
    memset(ropes, 0, n * sizeof(*ropes));
    for (size_t i = 0; i < n; i++)
        take_rope(p, entry_pointer(f->path, i, at), json_array_get(value, i), &ropes[i]);
    p->job->eval.ropes = ropes;
    p->job->eval.n_ropes = (unsigned)n;
}

int64_t eval_shortest(const struct lh_job *job)
{
    int64_t shortest = LH_MIN(job->context.length, (int64_t)2048);

    for (unsigned i = 0; i < job->eval.lengths.n; i++)
        shortest = i == 0 ? job->eval.lengths.at[0] : LH_MIN(shortest, job->eval.lengths.at[i]);
    return shortest;
}
