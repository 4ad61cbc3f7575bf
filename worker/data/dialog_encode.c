/* dialog_encode.c - one record to tokens, through a compiled template; see dialog.h.
 *
 * Texts of the template and of the record that follow each other are encoded as one, because
 * tokenizers cut differently inside a text than at its ends. The text is cut where a control token
 * stands, and where training begins or ends: there the prompt of a later conversation ends too.
 */
#include "proto/base/json.h"
#include "worker/data/dialog_parts.h"
#include "worker/text/utf8.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct text {
    const char *at; /* NULL: none */
    size_t len;
};

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ANSWER };

struct turn {
    enum role role;
    struct text content, input;
};

struct dialog_scratch {
    char *run; /* text that waits to be encoded */
    size_t run_n, run_cap;
    struct turn *turns;
    size_t n_turns, turns_cap;
};

struct rendering {
    const struct dialog *d;
    struct dialog_scratch *s;
    struct tokenizer_scratch *words;
    struct token_list *ids;
    struct lh_err *reterr;
    struct text system; /* waits for the user's turn that holds it */
    bool by_default;    /* it is the template's */
    bool trained;       /* what is put now */
    bool continues;     /* text stands before, and no control token */
};

struct dialog_scratch *dialog_scratch_new(void)
{
    return calloc(1, sizeof(struct dialog_scratch));
}

void dialog_scratch_free(struct dialog_scratch *s)
{
    if (!s)
        return;
    free(s->run);
    free(s->turns);
    free(s);
}

/* ---- the turns of a record ---- */

static int add_turn(struct dialog_scratch *s, enum role role, struct text content,
                    struct text input)
{
    if (s->n_turns == s->turns_cap) {
        size_t cap = s->turns_cap ? 2 * s->turns_cap : 16;
        struct turn *more = realloc(s->turns, cap * sizeof(*more));

        if (!more)
            return -ENOMEM;
        s->turns = more;
        s->turns_cap = cap;
    }
    s->turns[s->n_turns++] = (struct turn){role, content, input};
    return 0;
}

static struct text text_of(const struct dialog *d, const json_t *value)
{
    struct text t = {json_string_value(value), json_string_length(value)};
    size_t spaces;

    if (!t.at || !d->trim)
        return t;
    spaces = utf8_spaces_at_start(t.at, t.len);
    t.at += spaces;
    t.len -= spaces;
    t.len -= utf8_spaces_at_end(t.at, t.len);
    return t;
}

/* A member that is a string, or absent or null when it may be. */
static int member(const struct dialog *d, const json_t *object, const char *name, bool required,
                  struct text *ret, struct lh_err *reterr)
{
    const json_t *value = json_object_get(object, name);

    *ret = (struct text){NULL, 0};
    if (json_is_string(value))
        *ret = text_of(d, value);
    else if (required || (value && !json_is_null(value)))
        return lh_err_set(reterr, LH_EINPUT, "its member '%s' is %s", name,
                          value ? "not a text" : "missing");
    return 0;
}

static int turns_of_instruction(const struct dialog *d, struct dialog_scratch *s,
                                const json_t *record, struct lh_err *reterr)
{
    static const struct text none = {NULL, 0};
    struct text system, instruction, input, output;
    int rc = member(d, record, "system", false, &system, reterr);

    if (rc == 0)
        rc = member(d, record, "instruction", true, &instruction, reterr);
    if (rc == 0)
        rc = member(d, record, "input", false, &input, reterr);
    if (rc == 0)
        rc = member(d, record, "output", true, &output, reterr);
    if (rc < 0)
        return rc;
    if (input.len == 0)
        input = none;
    if ((system.len > 0 && add_turn(s, ROLE_SYSTEM, system, none) < 0) ||
        add_turn(s, ROLE_USER, instruction, input) < 0 ||
        add_turn(s, ROLE_ANSWER, output, none) < 0)
        return lh_err_set(reterr, -ENOMEM, "encode a record");
    return 0;
}

static int turn_of_message(const struct dialog *d, struct dialog_scratch *s, const json_t *message,
                           size_t i, struct lh_err *reterr)
{
    static const char *const roles[] = {
        [ROLE_SYSTEM] = "system", [ROLE_USER] = "user", [ROLE_ANSWER] = "assistant"};
    const char *role = lh_json_str(message, "role", NULL);
    const json_t *content = json_object_get(message, "content");

    if (!role || !json_is_string(content))
        return lh_err_set(reterr, LH_EINPUT,
                          "message %zu is not {\"role\": text, \"content\": text}", i);
    for (unsigned k = 0; k < LH_ARRAY_LEN(roles); k++) {
        if (strcmp(role, roles[k]) != 0)
            continue;
        if (k == ROLE_SYSTEM && i > 0)
            return lh_err_set(reterr, LH_EINPUT,
                              "message %zu is of the system; only the first may be", i);
        if (add_turn(s, (enum role)k, text_of(d, content), (struct text){NULL, 0}) < 0)
            return lh_err_set(reterr, -ENOMEM, "encode a record");
        return 0;
    }
    return lh_err_set(reterr, LH_EINPUT,
                      "message %zu has the role '%.32s'; system, user and assistant are known", i,
                      role);
}

static int turns_of_record(const struct dialog *d, struct dialog_scratch *s, const json_t *record,
                           struct lh_err *reterr)
{
    const json_t *messages = json_object_get(record, "messages");
    int rc = 0;

    s->n_turns = 0;
    if (!messages && !json_object_get(record, "instruction"))
        return lh_err_set(reterr, LH_EINPUT,
                          "it has neither 'messages' nor 'instruction' and 'output'");
    if (!messages)
        return turns_of_instruction(d, s, record, reterr);
    if (!json_is_array(messages))
        return lh_err_set(reterr, LH_EINPUT, "its member 'messages' is not a list");
    for (size_t i = 0; i < json_array_size(messages) && rc == 0; i++)
        rc = turn_of_message(d, s, json_array_get(messages, i), i, reterr);
    return rc;
}

/* ---- tokens ---- */

static int out_of_memory(const struct rendering *r)
{
    return lh_err_set(r->reterr, -ENOMEM, "encode a record");
}

/* Encodes the text that waits. */
static int flush(struct rendering *r)
{
    const struct tokenizer_part part = {
        .continues = r->continues, .never = r->d->controls, .n_never = r->d->n_controls};
    size_t before = r->ids->n;
    int rc;

    if (r->s->run_n == 0)
        return 0;
    rc = tokenizer_encode_part(r->d->tokenizer, r->words, r->s->run, r->s->run_n, &part, r->ids,
                               r->reterr);
    if (rc < 0)
        return rc;
    for (size_t i = before; r->trained && i < r->ids->n; i++)
        r->ids->at[i] |= DIALOG_TRAINED;
    r->s->run_n = 0;
    r->continues = true;
    return 0;
}

static int put_text(struct rendering *r, const char *text, size_t n)
{
    struct dialog_scratch *s = r->s;

    if (n > s->run_cap - s->run_n) {
        size_t cap = s->run_cap ? s->run_cap : 4096;
        char *more;

        while (cap - s->run_n < n)
            cap *= 2;
        more = realloc(s->run, cap);
        if (!more)
            return out_of_memory(r);
        s->run = more;
        s->run_cap = cap;
    }
    if (n > 0)
        memcpy(s->run + s->run_n, text, n);
    s->run_n += n;
    return 0;
}

static int put_token(struct rendering *r, int32_t id)
{
    int rc = flush(r);

    if (rc == 0 && token_list_append(r->ids, r->trained ? id | DIALOG_TRAINED : id) < 0)
        rc = out_of_memory(r);
    r->continues = false;
    return rc;
}

static int put_form(struct rendering *r, enum form_name name, const struct turn *turn);

/* The system message, once; its form holds no system message, so this nests no deeper. */
static int put_system(struct rendering *r)
{
    const struct turn turn = {.role = ROLE_SYSTEM, .content = r->system};

    r->system = (struct text){NULL, 0};
    return turn.content.at ? put_form(r, FORM_SYSTEM, &turn) : 0;
}

/* An input for which there is no form of its own stands on the lines after the instruction. */
static int put_content(struct rendering *r, enum form_name name, const struct turn *turn)
{
    int rc = put_text(r, turn->content.at, turn->content.len);

    if (rc == 0 && name == FORM_USER && turn->input.at) {
        rc = put_text(r, "\n", 1);
        if (rc == 0)
            rc = put_text(r, turn->input.at, turn->input.len);
    }
    return rc;
}

static int put_form(struct rendering *r, enum form_name name, const struct turn *turn)
{
    const struct form *f = &r->d->forms[name];
    int rc = 0;

    for (unsigned i = 0; i < f->n && rc == 0; i++) {
        const struct piece *p = &f->pieces[i];

        switch (p->kind) {
        case PIECE_TEXT:
            rc = put_text(r, p->text, p->len);
            break;
        case PIECE_TOKEN:
            rc = put_token(r, p->id);
            break;
        case PIECE_CONTENT:
            rc = put_content(r, name, turn);
            break;
        case PIECE_INPUT:
            rc = put_text(r, turn->input.at, turn->input.len);
            break;
        case PIECE_SYSTEM:
            rc = put_system(r);
            break;
        }
    }
    return rc;
}

static bool has_system(const struct form *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        if (f->pieces[i].kind == PIECE_SYSTEM)
            return true;
    }
    return false;
}

static int put_user(struct rendering *r, const struct turn *turn)
{
    const struct form *with_input = &r->d->forms[FORM_USER_WITH_INPUT];
    int rc = 0;

    if (!turn->input.at || !with_input->text)
        return put_form(r, FORM_USER, turn);
    /* A form for instructions with input that has no place for the system message says itself what
     * the default says. */
    if (!has_system(with_input) && !r->by_default)
        rc = put_system(r);
    if (!has_system(with_input))
        r->system = (struct text){NULL, 0};
    return rc < 0 ? rc : put_form(r, FORM_USER_WITH_INPUT, turn);
}

static int put_answer(struct rendering *r, const struct turn *turn, bool last)
{
    int rc = put_form(r, FORM_ASSISTANT, turn);

    if (rc == 0)
        rc = flush(r);
    r->trained = turn->content.len > 0;
    if (rc == 0)
        rc = put_form(r, FORM_ANSWER, turn);
    if (rc == 0)
        rc = flush(r);
    r->trained = false;
    return rc < 0 || last ? rc : put_form(r, FORM_AFTER, turn);
}

static int put_turn(struct rendering *r, const struct turn *turn, bool last)
{
    bool alone = !r->d->system_in_user;

    if (turn->role == ROLE_SYSTEM) {
        if (!r->d->forms[FORM_SYSTEM].text)
            return lh_err_set(r->reterr, LH_EINPUT,
                              "it has a system message, for which the template has no form; give "
                              "\"system\" in data.template");
        r->system = turn->content;
        return alone ? put_system(r) : 0;
    }
    return turn->role == ROLE_USER ? put_user(r, turn) : put_answer(r, turn, last);
}

static int put_turns(struct rendering *r, size_t n)
{
    const struct turn *turns = r->s->turns;
    int rc = put_form(r, FORM_BEGIN, NULL);

    if (rc == 0 && turns[0].role != ROLE_SYSTEM && r->d->default_system) {
        const struct turn system = {
            .role = ROLE_SYSTEM, .content = {r->d->default_system, strlen(r->d->default_system)}};

        r->by_default = true;
        rc = put_turn(r, &system, false);
    }
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = put_turn(r, &turns[i], i + 1 == n);
    return rc < 0 ? rc : flush(r);
}

int dialog_encode(const struct dialog *d, struct dialog_scratch *s, struct tokenizer_scratch *words,
                  const json_t *record, struct token_list *ids, struct lh_err *reterr)
{
    struct rendering r = {.d = d, .s = s, .words = words, .ids = ids, .reterr = reterr};
    size_t before = ids->n, n;
    int rc = turns_of_record(d, s, record, reterr);

    if (rc < 0)
        return rc;
    /* What follows the last answer trains nothing. */
    for (n = s->n_turns; n > 0; n--) {
        if (s->turns[n - 1].role == ROLE_ANSWER && s->turns[n - 1].content.len > 0)
            break;
    }
    if (n == 0)
        return 0;
    s->run_n = 0;
    rc = put_turns(&r, n);
    if (rc < 0)
        ids->n = before;
    return rc < 0 ? rc : 1;
}
