/* job_template.c - data.template: the name of a form of dialogues, or an object that describes one.
 *
 * Only shape is checked here: which members there are, and that the text of the records has a place
 * in them. Whether the tokenizer has the tokens that a form names is for the worker, which has the
 * forms themselves (worker/data/template.c).
 */
#include "proto/base/attr.h"
#include "proto/base/json.h"
#include "proto/job_parse.h"
#include <stdlib.h>
#include <string.h>

#define TEXT_CHARS_MAX 8000 /* of one member: a long system text, well below LH_JOB_BODY_MAX */

static const struct field_name templates[] = {
    {"llama2", true}, {"llama3", true}, {"chatml", true}, {"alpaca", true}, {"plain", true},
};
static const struct field_names template_names = {templates, LH_ARRAY_LEN(templates)};

static const struct {
    const char *name;
    bool has_content; /* the text of a record goes in here */
    bool required;    /* unless `like` brings it along */
} texts[] = {
    {"begin", false, false},     {"system", true, false},          {"user", true, true},
    {"assistant", false, false}, {"user_with_input", true, false}, {"answer", true, true},
    {"after", false, false},     {"default_system", false, false},
};

/* Templates hold newlines, which other strings of a job may not. */
static bool take_text(struct job_parser *p, const char *pointer, const json_t *value)
{
    const char *s = json_string_value(value);
    char name[DOTTED_MAX];
    unsigned chars = 0;

    if (!s)
        return wrong_type(p, pointer, value, "a string");
    if (!count_characters(p, pointer, s, "\t\n\r", &chars))
        return false;
    if (chars > TEXT_CHARS_MAX)
        lh_problem_add(p->problems, pointer, "too_long",
                       "%s has %u characters; at most %d are allowed", dotted_name(pointer, name),
                       chars, TEXT_CHARS_MAX);
    return chars <= TEXT_CHARS_MAX;
}

static void check_members(struct job_parser *p, const struct field *f, const json_t *value)
{
    const json_t *like = json_object_get(value, "like"), *trim = json_object_get(value, "trim");
    char at[POINTER_MAX], name[DOTTED_MAX];
    unsigned index;

    for (unsigned i = 0; i < LH_ARRAY_LEN(texts); i++) {
        const json_t *text = json_object_get(value, texts[i].name);

        (void)snprintf(at, sizeof(at), "%s/%s", f->path, texts[i].name);
        if (!text && texts[i].required && !like)
            lh_problem_add(p->problems, at, "missing",
                           "%s is missing; give it, or name a template to start from in \"like\"",
                           dotted_name(at, name));
        else if (text && take_text(p, at, text) && texts[i].has_content &&
                 !strstr(json_string_value(text), "{content}"))
            lh_problem_add(p->problems, at, "bad_value",
                           "%s has no {content}, the place where a record's text goes",
                           dotted_name(at, name));
    }
    (void)snprintf(at, sizeof(at), "%s/like", f->path);
    if (like)
        (void)take_name(p, at, like, &template_names, &index);
    (void)snprintf(at, sizeof(at), "%s/trim", f->path);
    if (trim && !json_is_boolean(trim))
        (void)wrong_type(p, at, trim, "true or false");
}

static void take_object(struct job_parser *p, const struct field *f, const json_t *value)
{
    const char *names[LH_ARRAY_LEN(texts) + 2] = {"like", "trim"};
    unsigned before = p->problems->n;
    char *text;

    for (unsigned i = 0; i < LH_ARRAY_LEN(texts); i++)
        names[i + 2] = texts[i].name;
    refuse_unknown(p, f->path, value, names, LH_ARRAY_LEN(names));
    check_members(p, f, value);
    if (p->problems->n != before)
        return;
    text = lh_json_text(value, 0);
    p->job->data.template_ = text ? lh_arena_strdup(&p->job->arena, text) : NULL;
    if (!p->job->data.template_)
        p->out_of_memory = true;
    free(text);
}

void take_template(struct job_parser *p, const struct field *f, const json_t *value)
{
    unsigned index;

    if (json_is_object(value))
        take_object(p, f, value);
    else if (!json_is_string(value))
        (void)wrong_type(p, f->path, value,
                         "\"llama2\", \"llama3\", \"chatml\", \"alpaca\", \"plain\" or an object");
    else if (take_name(p, f->path, value, &template_names, &index))
        p->job->data.template_ = template_names.at[index].name;
}
