/* dialog_parts.h - inside of dialog.h: a compiled template. */
#pragma once
#include "worker/data/dialog.h"
#include <stdbool.h>

enum piece_kind {
    PIECE_TEXT,
    PIECE_TOKEN,
    PIECE_CONTENT, /* {content}: the text of the turn */
    PIECE_INPUT,   /* {input}: of an instruction */
    PIECE_SYSTEM,  /* {system}: the system message in its own form, when there is one */
};

struct piece {
    enum piece_kind kind;
    const char *text; /* PIECE_TEXT: into the member's own text */
    size_t len;
    int32_t id; /* PIECE_TOKEN */
};

/* A member of the template, cut into pieces. */
struct form {
    char *text; /* owned; NULL: not given */
    struct piece *pieces;
    unsigned n;
};

enum form_name {
    FORM_BEGIN,
    FORM_SYSTEM,
    FORM_USER,
    FORM_USER_WITH_INPUT,
    FORM_ASSISTANT,
    FORM_ANSWER,
    FORM_AFTER,
    FORMS
};

struct dialog {
    const struct tokenizer *tokenizer;
    struct form forms[FORMS];
    char *default_system; /* NULL: none */
    bool trim;
    bool system_in_user; /* the form of a user's turn has a place for the system message */
    int32_t *controls;   /* tokens of the template: never found in the text of a record */
    unsigned n_controls, controls_cap;
    char digest[LH_SHA256_HEX];
};
