/* dialog.c - see dialog.h: the templates that have a name, and compiling one.
 *
 * Named templates follow the model makers' own: llama2 and llama3 as Meta's code writes dialogues,
 * chatml with bare turns, alpaca as the instructions of Stanford Alpaca.
 */
#include "worker/data/dialog.h"
#include "proto/base/json.h"
#include "worker/data/dialog_parts.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 64 /* of a token such as <|eot_id|> */

#define ALPACA "Below is an instruction that describes a task"
#define ALPACA_WRITE "Write a response that appropriately completes the request.\n\n"
#define LLAMA3_TURN(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"

static const char *const form_names[FORMS] = {
    [FORM_BEGIN] = "begin",         [FORM_SYSTEM] = "system",
    [FORM_USER] = "user",           [FORM_USER_WITH_INPUT] = "user_with_input",
    [FORM_ASSISTANT] = "assistant", [FORM_ANSWER] = "answer",
    [FORM_AFTER] = "after",
};

static const struct named {
    const char *name;
    const char *forms[FORMS];
    const char *default_system;
    bool trim;
} templates[] = {
    {.name = "llama2",
     .forms = {[FORM_SYSTEM] = "<<SYS>>\n{content}\n<</SYS>>\n\n",
               [FORM_USER] = "{bos}[INST] {system}{content} [/INST]",
               [FORM_ANSWER] = " {content} {eos}"},
     .trim = true},
    {.name = "llama3",
     .forms = {[FORM_BEGIN] = "<|begin_of_text|>",
               [FORM_SYSTEM] = LLAMA3_TURN("system") "{content}<|eot_id|>",
               [FORM_USER] = LLAMA3_TURN("user") "{content}<|eot_id|>",
               [FORM_ASSISTANT] = LLAMA3_TURN("assistant"),
               [FORM_ANSWER] = "{content}<|eot_id|>"},
     .trim = true},
    {.name = "chatml",
     .forms = {[FORM_BEGIN] = "{bos?}",
               [FORM_SYSTEM] = "<|im_start|>system\n{content}<|im_end|>\n",
               [FORM_USER] = "<|im_start|>user\n{content}<|im_end|>\n",
               [FORM_ASSISTANT] = "<|im_start|>assistant\n",
               [FORM_ANSWER] = "{content}<|im_end|>",
               [FORM_AFTER] = "\n"}},
    {.name = "alpaca",
     .forms = {[FORM_BEGIN] = "{bos?}",
               [FORM_SYSTEM] = "{content}\n\n",
               [FORM_USER] = "{system}### Instruction:\n{content}\n\n### Response:",
               [FORM_USER_WITH_INPUT] =
                   ALPACA ", paired with an input that provides further context. " ALPACA_WRITE
                          "### Instruction:\n{content}\n\n### Input:\n{input}\n\n### Response:",
               [FORM_ANSWER] = "{content}{eos}",
               [FORM_AFTER] = "\n\n"},
     .default_system = ALPACA ". Write a response that appropriately completes the request."},
    {.name = "plain",
     .forms = {[FORM_BEGIN] = "{bos?}",
               [FORM_SYSTEM] = "{content}\n",
               [FORM_USER] = "{content}\n",
               [FORM_ANSWER] = "{content}{eos}",
               [FORM_AFTER] = "\n"}},
};

struct compiling {
    struct dialog *d;
    const char *name; /* of the template, for people */
    enum form_name at;
    struct lh_err *reterr;
};

static int fill_texts(struct dialog *d, const char *text, struct lh_err *reterr);
static int compile_form(struct compiling *c);
static int check_forms(const struct compiling *c);
static int make_digest(struct dialog *d, struct lh_err *reterr);

int dialog_open(const char *text, const struct tokenizer *t, struct dialog **ret_dialog,
                struct lh_err *reterr)
{
    LH_CLEANUP(dialog_freep) struct dialog *d = calloc(1, sizeof(*d));
    struct compiling c = {.d = d, .name = text[0] == '{' ? "of the job" : text, .reterr = reterr};
    int rc;

    if (!d)
        return lh_err_set(reterr, -ENOMEM, "template '%s'", c.name);
    d->tokenizer = t;
    rc = fill_texts(d, text, reterr);
    for (unsigned i = 0; i < FORMS && rc == 0; i++) {
        c.at = (enum form_name)i;
        rc = d->forms[i].text ? compile_form(&c) : 0;
    }
    if (rc == 0)
        rc = check_forms(&c);
    if (rc == 0)
        rc = make_digest(d, reterr);
    if (rc < 0)
        return rc;
    *ret_dialog = d;
    d = NULL;
    return 0;
}

void dialog_free(struct dialog *d)
{
    if (!d)
        return;
    for (unsigned i = 0; i < FORMS; i++) {
        free(d->forms[i].text);
        free(d->forms[i].pieces);
    }
    free(d->default_system);
    free(d->controls);
    free(d);
}

void dialog_digest(const struct dialog *d, char ret_hex[static LH_SHA256_HEX])
{
    memcpy(ret_hex, d->digest, LH_SHA256_HEX);
}

static int take(char **slot, const char *text)
{
    char *copy = text ? strdup(text) : NULL;

    if (text && !copy)
        return -ENOMEM;
    free(*slot);
    *slot = copy;
    return 0;
}

static int fill_named(struct dialog *d, const char *name)
{
    const struct named *n = NULL;
    int rc = 0;

    for (unsigned i = 0; i < LH_ARRAY_LEN(templates); i++)
        n = strcmp(templates[i].name, name) == 0 ? &templates[i] : n;
    if (!n)
        return -EINVAL;
    for (unsigned i = 0; i < FORMS && rc == 0; i++)
        rc = take(&d->forms[i].text, n->forms[i]);
    d->trim = n->trim;
    return rc < 0 ? rc : take(&d->default_system, n->default_system);
}

static int fill_object(struct dialog *d, const json_t *object)
{
    const char *like = lh_json_str(object, "like", NULL);
    const char *system = lh_json_str(object, "default_system", NULL);
    int rc = like ? fill_named(d, like) : 0;

    for (unsigned i = 0; i < FORMS && rc == 0; i++) {
        const char *text = lh_json_str(object, form_names[i], NULL);

        rc = text ? take(&d->forms[i].text, text) : 0;
    }
    d->trim = lh_json_bool(object, "trim", d->trim) != 0;
    /* An empty text takes the default of `like` away. */
    return rc < 0 || !system ? rc : take(&d->default_system, *system ? system : NULL);
}

static int fill_texts(struct dialog *d, const char *text, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *object = NULL;
    int rc;

    if (text[0] == '{') {
        rc = lh_json_parse(text, strlen(text), 2, &object, reterr);
        if (rc < 0)
            return rc;
        rc = fill_object(d, object);
    } else {
        rc = fill_named(d, text);
    }
    if (rc == -EINVAL)
        return lh_err_at(reterr, LH_EJOB, "/data/template", "there is no template '%.40s'", text);
    return rc < 0 ? lh_err_set(reterr, rc, "template") : 0;
}

/* ---- compiling one member ---- */

static int out_of_memory(const struct compiling *c)
{
    return lh_err_set(c->reterr, -ENOMEM, "template '%s'", c->name);
}

static int add_piece(struct compiling *c, struct piece piece)
{
    struct form *f = &c->d->forms[c->at];

    if ((f->n & (f->n - 1)) == 0) { /* full at each power of two */
        struct piece *more = realloc(f->pieces, (f->n ? 2 * (size_t)f->n : 1) * sizeof(*more));

        if (!more)
            return out_of_memory(c);
        f->pieces = more;
    }
    f->pieces[f->n++] = piece;
    return 0;
}

static int add_token(struct compiling *c, int64_t id)
{
    struct dialog *d = c->d;

    if (d->n_controls == d->controls_cap) {
        unsigned cap = d->controls_cap ? 2 * d->controls_cap : 16;
        int32_t *more = realloc(d->controls, cap * sizeof(*more));

        if (!more)
            return out_of_memory(c);
        d->controls = more;
        d->controls_cap = cap;
    }
    d->controls[d->n_controls++] = (int32_t)id;
    return add_piece(c, (struct piece){.kind = PIECE_TOKEN, .id = (int32_t)id});
}

/* Length of a word such as <|im_start|> at text, or 0. */
static size_t token_word(const char *text, size_t n)
{
    if (n < 5 || text[0] != '<' || text[1] != '|')
        return 0;
    for (size_t i = 2; i + 1 < n && i < NAME_MAX_BYTES; i++) {
        if (text[i] == '|' && text[i + 1] == '>')
            return i + 2;
        if (strchr(" \t\r\n<>|", text[i]))
            return 0;
    }
    return 0;
}

/* Text between placeholders: the tokenizer's own tokens in it stand for themselves. */
static int add_text(struct compiling *c, const char *text, size_t n)
{
    int rc = 0;

    while (n > 0 && rc == 0) {
        size_t at = n, len = 0, word;
        int64_t id = tokenizer_find_control(c->d->tokenizer, text, n, &at, &len);

        for (size_t i = 0; i < at; i++) {
            word = token_word(text + i, n - i);
            if (word)
                return lh_err_at(c->reterr, LH_EINPUT, "/data/template",
                                 "the template '%s' needs the token '%.*s', which the tokenizer of "
                                 "the model does not have; choose the template that the model "
                                 "was made with, or \"plain\"",
                                 c->name, (int)word, text + i);
        }
        if (at > 0)
            rc = add_piece(c, (struct piece){.kind = PIECE_TEXT, .text = text, .len = at});
        if (rc == 0 && id >= 0)
            rc = add_token(c, id);
        text += at + len;
        n -= at + len;
    }
    return rc;
}

static int add_end(struct compiling *c, const char *what, int64_t id)
{
    if (id < 0)
        return lh_err_at(c->reterr, LH_EINPUT, "/data/template",
                         "the template '%s' needs the token for the %s of a text, which the "
                         "files of the model do not name; give a template of your own",
                         c->name, what);
    return add_token(c, id);
}

enum word { WORD_NONE, WORD_CONTENT, WORD_INPUT, WORD_SYSTEM, WORD_BOS, WORD_BOS_IF, WORD_EOS };

/* The placeholder at text and its length; any other brace is text. */
static enum word placeholder(const char *text, size_t *ret_len)
{
    static const struct {
        const char *text;
        enum word word;
    } words[] = {{"{content}", WORD_CONTENT}, {"{input}", WORD_INPUT}, {"{system}", WORD_SYSTEM},
                 {"{bos}", WORD_BOS},         {"{bos?}", WORD_BOS_IF}, {"{eos}", WORD_EOS}};

    for (unsigned i = 0; i < LH_ARRAY_LEN(words); i++) {
        *ret_len = strlen(words[i].text);
        if (strncmp(text, words[i].text, *ret_len) == 0)
            return words[i].word;
    }
    *ret_len = 1;
    return WORD_NONE;
}

static bool may_hold(enum form_name form, enum word word)
{
    bool user = form == FORM_USER || form == FORM_USER_WITH_INPUT;

    if (word == WORD_CONTENT)
        return user || form == FORM_SYSTEM || form == FORM_ANSWER;
    if (word == WORD_INPUT)
        return form == FORM_USER_WITH_INPUT;
    return word != WORD_SYSTEM || user;
}

static int add_word(struct compiling *c, enum word word)
{
    static const enum piece_kind kinds[] = {
        [WORD_CONTENT] = PIECE_CONTENT, [WORD_INPUT] = PIECE_INPUT, [WORD_SYSTEM] = PIECE_SYSTEM};
    const struct tokenizer *t = c->d->tokenizer;

    if (word == WORD_EOS)
        return add_end(c, "end", tokenizer_eos(t));
    if (word == WORD_BOS_IF && !tokenizer_adds_bos(t))
        return 0;
    if (word == WORD_BOS || word == WORD_BOS_IF)
        return add_end(c, "beginning", tokenizer_bos(t));
    c->d->system_in_user |= word == WORD_SYSTEM && c->at == FORM_USER;
    return add_piece(c, (struct piece){.kind = kinds[word]});
}

static int compile_form(struct compiling *c)
{
    const char *from = c->d->forms[c->at].text, *brace = strchr(from, '{');
    int rc = 0;

    while (brace && rc == 0) {
        size_t len;
        enum word word = placeholder(brace, &len);

        if (word != WORD_NONE) {
            if (!may_hold(c->at, word))
                return lh_err_at(c->reterr, LH_EJOB, "/data/template",
                                 "data.template.%s cannot hold %.*s", form_names[c->at], (int)len,
                                 brace);
            rc = add_text(c, from, (size_t)(brace - from));
            if (rc == 0)
                rc = add_word(c, word);
            from = brace + len;
        }
        brace = strchr(brace + len, '{');
    }
    return rc < 0 ? rc : add_text(c, from, strlen(from));
}

static int check_forms(const struct compiling *c)
{
    const struct dialog *d = c->d;

    if (!d->forms[FORM_USER].text || !d->forms[FORM_ANSWER].text)
        return lh_err_at(c->reterr, LH_EJOB, "/data/template",
                         "data.template needs \"user\" and \"answer\", or \"like\"");
    if (d->default_system && !d->forms[FORM_SYSTEM].text)
        return lh_err_at(c->reterr, LH_EJOB, "/data/template",
                         "data.template has default_system but no \"system\", the form of a system "
                         "message");
    return 0;
}

static void feed(struct lh_sha256 *h, const char *text)
{
    char there = text ? '1' : '0';

    lh_sha256_update(h, &there, 1);
    if (text)
        lh_sha256_update(h, text, strlen(text) + 1);
}

static int make_digest(struct dialog *d, struct lh_err *reterr)
{
    struct lh_sha256 h;

    if (lh_sha256_init(&h) < 0)
        return lh_err_set(reterr, -ENOMEM, "digest of a template");
    for (unsigned i = 0; i < FORMS; i++)
        feed(&h, d->forms[i].text);
    feed(&h, d->default_system);
    feed(&h, d->trim ? "trim" : NULL);
    lh_sha256_final(&h, d->digest);
    return 0;
}
