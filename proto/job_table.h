/* job_table.h - the table of all members of a job; shared by the job_*.c files and by nobody else.
 *
 * One entry a member: where it stands, what it may be, what it is when left out, which kinds of job
 * use it. Parsing, validation, defaults, the echoed spec and the JSON Schema all walk this one
 * table, in its order.
 */
#pragma once
#include "proto/job.h"
#include <stddef.h>

enum field_type {
    FIELD_OBJECT, /* a section: the members below it have its path as prefix */
    FIELD_STRING,
    FIELD_URI,
    FIELD_INT,
    FIELD_NUMBER,
    FIELD_BOOL,
    FIELD_ENUM,    /* stored as its index */
    FIELD_CHOICE,  /* the same, stored as its name */
    FIELD_STRINGS, /* array of strings */
    FIELD_URIS,    /* array of URIs */
    FIELD_CUSTOM,  /* field->take checks and stores it */
};

enum field_flag {
    FIELD_HAS_DEFAULT = 1,
    FIELD_ABOVE = 2,         /* min itself is not allowed */
    FIELD_BELOW = 4,         /* max itself is not allowed */
    FIELD_NULL_OK = 8,       /* null means: left out */
    FIELD_NOT_BUILT = 16,    /* known, refused whatever its value is */
    FIELD_DEFAULT_ONLY = 32, /* known, refused unless it is its default */
    FIELD_IF_SECTION = 64,   /* its default is echoed only when its section was given */
    FIELD_SWITCH = 128,      /* an object for which true stands ({}), and false (left out) */
};

struct field_name {
    const char *name;
    bool built;
};
struct field_names {
    const struct field_name *at;
    unsigned n;
};

struct job_parser;
struct field {
    const char *path; /* JSON pointer */
    enum field_type type;
    unsigned flags;
    size_t offset;     /* into struct lh_job */
    size_t has_offset; /* a bool that says whether it was given; 0: none (offset 0 is the arena) */
    double min, max;   /* of a number; of the entries of a list; of the characters of a string */
    const struct field_names *names;
    struct {
        double number;    /* of integers, numbers, booleans and enums */
        const char *text; /* of strings and choices; JSON of lists and custom members */
    } otherwise;
    unsigned kinds, required; /* bits 1 << enum lh_kind: who uses it, who must have it */
    /* The default that follows from members above it in the table; false: none. */
    bool (*derive)(const struct lh_job *job, double *ret_value);
    /* FIELD_CUSTOM: checks and stores value; problems go to the parser. pointer is the member's
     * own. */
    void (*take)(struct job_parser *p, const struct field *f, const json_t *value);
    const char *schema; /* FIELD_CUSTOM: its JSON Schema */
    const char
        *about; /* one line for people: the schema's description, and the end of "is missing" */
};

extern const struct field job_fields[];
extern const unsigned job_n_fields;
/* job_names.c: the words of members that take one of a few. */
extern const struct field_names kind_names, precision_names, attention_names, rope_names,
    format_names, schedule_names, device_names, target_names, when_names, nonfinite_names,
    eval_mode_names, eval_attention_names, export_format_names, export_dtype_names;

const struct field *field_find(const char *path);

/* ---- the parser (job_parse.c, job_take.c, job_unknown.c), as members and checks see it ---- */

struct job_parser {
    struct lh_job *job;
    const json_t *input;
    struct lh_problems *problems;
    unsigned kind_bit; /* 0: the kind is missing or wrong, so nothing depends on it */
    bool out_of_memory;
};

#define DOTTED_MAX 200
/* "context.attention.group", "data.train[2]" for a JSON pointer: how texts name members. Returns
 * buf. */
const char *dotted_name(const char *pointer, char buf[static DOTTED_MAX]);

/* The value at a pointer of the input, or NULL. */
const json_t *input_get(const struct job_parser *p, const char *pointer);
/* True when a problem was recorded at this pointer or below it: what depends on it is not looked
 * at. */
bool has_problem(const struct job_parser *p, const char *pointer);

/* Each records a problem and returns false, or returns true. pointer names the value. */
/* Of s, which may hold no control character but those listed in `controls`. */
bool count_characters(struct job_parser *p, const char *pointer, const char *s,
                      const char *controls, unsigned *ret_chars);
bool take_string(struct job_parser *p, const char *pointer, const json_t *value, unsigned min_chars,
                 unsigned max_chars, const char **ret_text);
bool take_uri(struct job_parser *p, const char *pointer, const json_t *value,
              const char **ret_text);
bool take_number(struct job_parser *p, const char *pointer, const json_t *value,
                 const struct field *range,
                 double *ret_value); /* type, flags, min and max of range count */
bool take_name(struct job_parser *p, const char *pointer, const json_t *value,
               const struct field_names *names, unsigned *ret_index);
/* Records wrong_type: "X is a string; it must be WANTED". Returns false. */
bool wrong_type(struct job_parser *p, const char *pointer, const json_t *value, const char *wanted);
void *parser_alloc(struct job_parser *p, size_t n); /* NULL sets out_of_memory */
/* Refuses members of value that are not among names (pointer is value's own). */
void refuse_unknown(struct job_parser *p, const char *pointer, const json_t *value,
                    const char *const *names, unsigned n);

/* ---- job_value.c: the members that are no plain scalar ---- */
void take_targets(struct job_parser *p, const struct field *f, const json_t *value);
void take_patterns(struct job_parser *p, const struct field *f, const json_t *value);
void take_pack(struct job_parser *p, const struct field *f, const json_t *value);
void take_betas(struct job_parser *p, const struct field *f, const json_t *value);
void take_micro_batches(struct job_parser *p, const struct field *f, const json_t *value);
void take_labels(struct job_parser *p, const struct field *f, const json_t *value);
void take_prompts(struct job_parser *p, const struct field *f, const json_t *value);
void take_after(struct job_parser *p, const struct field *f, const json_t *value);

/* ---- job_eval.c ---- */
void take_lengths(struct job_parser *p, const struct field *f, const json_t *value);
void take_depths(struct job_parser *p, const struct field *f, const json_t *value);
void take_ropes(struct job_parser *p, const struct field *f, const json_t *value);
/* The shortest length to report, or 0. */
int64_t eval_shortest(const struct lh_job *job);

/* ---- job_template.c ---- */
void take_template(struct job_parser *p, const struct field *f, const json_t *value);

/* ---- job_check.c: what members mean together ---- */
void job_check(struct job_parser *p);
