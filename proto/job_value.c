/* job_value.c - the members of a job that are lists, maps or unions; called through the table. */
#include "proto/base/attr.h"
#include "proto/job_parse.h"
#include <stdio.h>
#include <string.h>

#define LABELS_MAX 64
#define AFTER_MAX 64
#define PATTERNS_MAX 8192 /* seven linear layers of LH_LAYERS_MAX layers, rounded up */

const char *entry_pointer(const char *path, size_t i, char buf[static POINTER_MAX])
{
    (void)snprintf(buf, POINTER_MAX, "%s/%zu", path, i);
    return buf;
}

bool is_list(struct job_parser *p, const char *pointer, const json_t *value, size_t min, size_t max,
             const char *wanted)
{
    size_t n = json_array_size(value);
    char name[DOTTED_MAX];

    if (!json_is_array(value))
        return wrong_type(p, pointer, value, wanted);
    if (n < min)
        lh_problem_add(p->problems, pointer, "bad_value", "%s has %zu entries; it must be %s",
                       dotted_name(pointer, name), n, wanted);
    else if (n > max)
        lh_problem_add(p->problems, pointer, "too_long",
                       "%s has %zu entries; at most %zu are allowed", dotted_name(pointer, name), n,
                       max);
    return n >= min && n <= max;
}

void take_targets(struct job_parser *p, const struct field *f, const json_t *value)
{
    char at[POINTER_MAX], name[DOTTED_MAX];
    unsigned set = 0, index;

    if (!is_list(p, f->path, value, 1, 7,
                 "a list of \"q\", \"k\", \"v\", \"o\", \"gate\", \"up\", \"down\""))
        return;
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (!take_name(p, entry_pointer(f->path, i, at), json_array_get(value, i), &target_names,
                       &index))
            continue;
        if (set & 1u << index)
            lh_problem_add(p->problems, at, "bad_value", "%s names \"%s\" a second time",
                           dotted_name(at, name), target_names.at[index].name);
        set |= 1u << index;
    }
    p->job->adapter.targets = set;
}

void take_patterns(struct job_parser *p, const struct field *f, const json_t *value)
{
    bool ranks = f->offset == offsetof(struct lh_job, adapter.rank_pattern);
    struct field range = {.type = ranks ? FIELD_INT : FIELD_NUMBER,
                          .min = f->min,
                          .max = f->max,
                          .flags = ranks ? 0 : FIELD_ABOVE};
    size_t n = json_object_size(value);
    char name[DOTTED_MAX];
    struct lh_pattern *patterns;
    const char *key;
    json_t *entry;
    unsigned i = 0;

    if (!json_is_object(value)) {
        (void)wrong_type(p, f->path, value, "an object of module names and numbers");
        return;
    }
    if (n > PATTERNS_MAX) {
        lh_problem_add(p->problems, f->path, "too_long",
                       "%s has %zu entries; at most %d are allowed", dotted_name(f->path, name), n,
                       PATTERNS_MAX);
        return;
    }
    patterns = parser_alloc(p, LH_MAX(n, (size_t)1) * sizeof(*patterns));
    if (!patterns)
        return;
    json_object_foreach((json_t *)(uintptr_t)value, key, entry)
    {
        json_t *text = json_string(key);
        char at[POINTER_MAX];

        (void)snprintf(at, sizeof(at), "%s", f->path);
        pointer_append(at, sizeof(at), key);
        if (!text)
            p->out_of_memory = true;
        else if (take_string(p, at, text, 1, 200, &patterns[i].module) &&
                 take_number(p, at, entry, &range, &patterns[i].value))
            i++;
        json_decref(text);
    }
    if (ranks) {
        p->job->adapter.rank_pattern = patterns;
        p->job->adapter.n_rank_pattern = i;
    } else {
        p->job->adapter.alpha_pattern = patterns;
        p->job->adapter.n_alpha_pattern = i;
    }
}

void take_pack(struct job_parser *p, const struct field *f, const json_t *value)
{
    if (json_is_boolean(value))
        p->job->data.pack = json_is_true(value) ? LH_PACK_MASKED : LH_PACK_NONE;
    else if (json_is_string(value) && strcmp(json_string_value(value), "join") == 0)
        p->job->data.pack = LH_PACK_JOIN;
    else
        (void)wrong_type(p, f->path, value, "true, false or \"join\"");
}

void take_betas(struct job_parser *p, const struct field *f, const json_t *value)
{
    static const struct field range = {.type = FIELD_NUMBER, .max = 1, .flags = FIELD_BELOW};
    char at[POINTER_MAX];

    if (is_list(p, f->path, value, 2, 2, "a list of two numbers, as [0.9, 0.95]")) {
        (void)take_number(p, entry_pointer(f->path, 0, at), json_array_get(value, 0), &range,
                          &p->job->optim.beta1);
        (void)take_number(p, entry_pointer(f->path, 1, at), json_array_get(value, 1), &range,
                          &p->job->optim.beta2);
    }
}

static bool take_rows(struct job_parser *p, const struct field *f, size_t i, const json_t *list)
{
    static const struct field range = {.type = FIELD_INT, .max = 65535};
    struct lh_micro_batch *batch = &p->job->resources.micro_batches[i];
    char at[POINTER_MAX];
    size_t n = json_array_size(list);

    (void)entry_pointer(f->path, i, at);
    if (!is_list(p, at, list, 1, 65536, "a list of rows, as [0, 1]"))
        return false;
    batch->rows = parser_alloc(p, n * sizeof(*batch->rows));
    if (!batch->rows)
        return false;
    for (size_t k = 0; k < n; k++) {
        double row;

        (void)snprintf(at, sizeof(at), "%s/%zu/%zu", f->path, i, k);
        if (!take_number(p, at, json_array_get(list, k), &range, &row))
            return false;
        batch->rows[batch->n++] = (int64_t)row;
    }
    return true;
}

void take_micro_batches(struct job_parser *p, const struct field *f, const json_t *value)
{
    struct field range = {.type = FIELD_INT, .min = f->min, .max = f->max};
    size_t n = json_array_size(value);
    double rows;

    p->job->resources.micro_batch_rows = 1;
    if (!json_is_array(value)) {
        if (!json_is_number(value))
            (void)wrong_type(p, f->path, value, "a number of rows, or a list of lists of rows");
        else if (take_number(p, f->path, value, &range, &rows))
            p->job->resources.micro_batch_rows = (int64_t)rows;
        return;
    }
    if (!is_list(p, f->path, value, 1, 65536, "a number of rows, or a list of lists of rows"))
        return;
    p->job->resources.micro_batches = parser_alloc(p, n * sizeof(*p->job->resources.micro_batches));
    if (!p->job->resources.micro_batches)
        return;
    p->job->resources.n_micro_batches = (unsigned)n;
    for (size_t i = 0; i < n; i++)
        if (!take_rows(p, f, i, json_array_get(value, i)))
            return;
}

void take_labels(struct job_parser *p, const struct field *f, const json_t *value)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-";
    size_t n = json_object_size(value);
    char name[DOTTED_MAX];
    const char *key;
    json_t *entry;

    if (!json_is_object(value)) {
        (void)wrong_type(p, f->path, value, "an object of strings, as {\"team\": \"research\"}");
        return;
    }
    if (n > LABELS_MAX) {
        lh_problem_add(p->problems, f->path, "too_long",
                       "%s has %zu entries; at most %d are allowed", dotted_name(f->path, name), n,
                       LABELS_MAX);
        return;
    }
    p->job->labels = parser_alloc(p, LH_MAX(n, (size_t)1) * sizeof(*p->job->labels));
    if (!p->job->labels)
        return;
    json_object_foreach((json_t *)(uintptr_t)value, key, entry)
    {
        struct lh_label *label = &p->job->labels[p->job->n_labels];
        char at[POINTER_MAX];

        if (key[0] == '\0' || strlen(key) > 63 || key[strspn(key, letters)] != '\0') {
            lh_problem_add(
                p->problems, f->path, "bad_value",
                "the label name \"%.63s\" must be 1 to 63 of the characters A-Z a-z 0-9 . _ / -",
                key);
            continue;
        }
        (void)snprintf(at, sizeof(at), "%s", f->path);
        pointer_append(at, sizeof(at), key);
        label->key = lh_arena_strdup(&p->job->arena, key);
        if (!label->key)
            p->out_of_memory = true;
        else if (take_string(p, at, entry, 0, 255, &label->value))
            p->job->n_labels++;
    }
}

static bool take_dependency(struct job_parser *p, const char *at, const json_t *entry,
                            struct lh_after *after)
{
    static const char *const members[] = {"job", "when"};
    const json_t *job = json_object_get(entry, "job"), *when = json_object_get(entry, "when");
    char sub[POINTER_MAX], name[DOTTED_MAX];
    unsigned index = LH_WHEN_OK;
    bool ok = true;

    if (!json_is_object(entry))
        return wrong_type(p, at, entry,
                          "an object, as {\"job\": \"ID or name\", \"when\": \"ok\"}");
    refuse_unknown(p, at, entry, members, LH_ARRAY_LEN(members));
    (void)snprintf(sub, sizeof(sub), "%.100s/job", at);
    if (!job) {
        lh_problem_add(p->problems, sub, "missing",
                       "%s is missing; give the id or the name of a job", dotted_name(sub, name));
        return false;
    }
    ok = take_string(p, sub, job, 1, 120, &after->job);
    (void)snprintf(sub, sizeof(sub), "%.100s/when", at);
    if (when)
        ok = take_name(p, sub, when, &when_names, &index) && ok;
    after->when = (enum lh_when)index;
    return ok;
}

/* A prompt is text with lines, of any length that a job's body has room for. */
static bool take_prompt(struct job_parser *p, const char *pointer, const json_t *value,
                        const char **ret_text)
{
    const char *s = json_string_value(value);
    char name[DOTTED_MAX];
    unsigned chars;

    if (!s)
        return wrong_type(p, pointer, value, "a string");
    if (!*s) {
        lh_problem_add(p->problems, pointer, "bad_value",
                       "%s is empty; give at least one character to go on with",
                       dotted_name(pointer, name));
        return false;
    }
    if (!count_characters(p, pointer, s, "\t\n\r", &chars))
        return false;
    *ret_text = lh_arena_strdup(&p->job->arena, s);
    if (!*ret_text)
        p->out_of_memory = true;
    return *ret_text != NULL;
}

void take_prompts(struct job_parser *p, const struct field *f, const json_t *value)
{
    size_t n = json_array_size(value);
    char at[POINTER_MAX];
    const char **prompts;

    if (!is_list(p, f->path, value, (size_t)f->min, (size_t)f->max, "a list of texts"))
        return;
    prompts = parser_alloc(p, n * sizeof(*prompts));
    if (!prompts)
        return;
    for (size_t i = 0; i < n; i++)
        (void)take_prompt(p, entry_pointer(f->path, i, at), json_array_get(value, i), &prompts[i]);
    p->job->generate.prompts = (struct lh_strings){prompts, (unsigned)n};
}

void take_after(struct job_parser *p, const struct field *f, const json_t *value)
{
    char at[POINTER_MAX], name[DOTTED_MAX];
    struct lh_after *list;
    unsigned n = 0;

    if (!is_list(p, f->path, value, 0, AFTER_MAX, "a list of {\"job\": ..., \"when\": ...}"))
        return;
    list = parser_alloc(p, LH_MAX(json_array_size(value), (size_t)1) * sizeof(*list));
    if (!list)
        return;
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (!take_dependency(p, entry_pointer(f->path, i, at), json_array_get(value, i), &list[n]))
            continue;
        for (unsigned k = 0; k < n; k++)
            if (strcmp(list[k].job, list[n].job) == 0)
                lh_problem_add(p->problems, at, "bad_value",
                               "%s waits for job \"%.120s\" a second time", dotted_name(at, name),
                               list[n].job);
        n++;
    }
    p->job->after = list;
    p->job->n_after = n;
}
