/* pretok.c - see pretok.h. */
#include "worker/text/pretok.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <errno.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define PATTERN_BYTES_MAX 4096      /* of a translated pattern; published ones have 200 */
#define UNKNOWN_MATCH_MAX 10000000u /* steps of one match; PCRE2's own default */
#define JIT_STACK_START (32 * 1024)
#define JIT_STACK_MAX (8 * 1024 * 1024)

/* Unicode's White_Space, as members of a class. */
#define SPACES                                                                                     \
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"                                   \
    "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

struct pretok_scratch {
    pcre2_match_data *matches[PRETOK_STEPS_MAX]; /* one a step: steps nest */
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

struct translation {
    char out[PATTERN_BYTES_MAX];
    size_t n;
    bool too_long;
};

static void emit(struct translation *t, const char *text, size_t n)
{
    if (n > sizeof(t->out) - 1 - t->n) {
        t->too_long = true;
        return;
    }
    memcpy(t->out + t->n, text, n);
    t->n += n;
}

/* Whether the construct at p means something else in Oniguruma than in PCRE2. */
static bool differs(const char *p, bool in_class)
{
    if (p[0] == '\\')
        return p[1] == '\0' || strchr("wWbBhHRXKGkgAzZ", p[1]) || (in_class && p[1] == 'S');
    if (in_class)
        return p[0] == '[' || (p[0] == '&' && p[1] == '&');
    return p[0] == '^' || p[0] == '$' || (p[0] == '}' && p[1] == '+') ||
           (p[0] == '[' && (p[1] == ']' || (p[1] == '^' && p[2] == ']')));
}

/* Bytes of the escape at p, with the braces of \p{..} and \x{..}. */
static size_t escape_bytes(const char *p)
{
    const char *close = p[2] == '{' && strchr("pPx", p[1]) ? strchr(p, '}') : NULL;

    return close ? (size_t)(close - p) + 1 : 2;
}

static int translate(const char *pattern, struct translation *t, struct lh_err *reterr)
{
    bool in_class = false;
    size_t n;

    for (const char *p = pattern; *p; p += n) {
        n = 1;
        if (differs(p, in_class))
            return lh_err_set(reterr, LH_EINPUT,
                              "the pattern '%.200s' is not supported (at '%.8s')", pattern, p);
        if (p[0] == '\\' && (p[1] == 's' || p[1] == 'S')) {
            const char *class = p[1] == 'S' ? "[^" SPACES "]" : in_class ? SPACES : "[" SPACES "]";

            emit(t, class, strlen(class));
            n = 2;
            continue;
        }
        if (p[0] == '\\')
            n = escape_bytes(p);
        else if (!in_class && p[0] == '[')
            in_class = true, n = p[1] == '^' ? 2 : 1;
        else if (in_class && p[0] == ']')
            in_class = false;
        emit(t, p, n);
    }
    t->out[t->n] = '\0';
    if (t->too_long)
        return lh_err_set(reterr, LH_EINPUT, "the pattern '%.200s' is too long", pattern);
    return 0;
}

static int compile(const char *pattern, bool literal, pcre2_code **ret_code, struct lh_err *reterr)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int error;
    PCRE2_SIZE at;
    pcre2_code *code;

    if (!context)
        return lh_err_set(reterr, -ENOMEM, "compile a pattern");
    (void)pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP), &error, &at, context);
    pcre2_compile_context_free(context);
    if (!code) {
        char text[128] = "";

        (void)pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof(text));
        return lh_err_set(reterr, LH_EINPUT, "the pattern '%.200s' does not compile: %s (at %zu)",
                          pattern, text, at);
    }
    /* Where the CPU has no JIT the interpreter gives the same words. */
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    *ret_code = code;
    return 0;
}

int pretok_add(struct pretok *p, const char *pattern, bool literal, bool keep_matches,
               bool keep_gaps, struct lh_err *reterr)
{
    struct translation t = {.n = 0};
    pcre2_code *code = NULL;
    int rc;

    if (p->n == PRETOK_STEPS_MAX)
        return lh_err_set(reterr, LH_EINPUT, "more than %d pre-tokenizer steps", PRETOK_STEPS_MAX);
    rc = literal ? 0 : translate(pattern, &t, reterr);
    if (rc == 0)
        rc = compile(literal ? pattern : t.out, literal, &code, reterr);
    if (rc < 0)
        return rc;
    p->steps[p->n++] = (struct pretok_step){code, keep_matches, keep_gaps};
    if (!literal && keep_matches &&
        (strcmp(pattern, PRETOK_GPT2) == 0 || strcmp(pattern, PRETOK_LLAMA3) == 0))
        p->cuts_words = true;
    else if (literal || (strcmp(pattern, "\\p{N}") != 0 && strcmp(pattern, "\\p{N}+") != 0))
        p->unknown_steps = true;
    return 0;
}

/* Both patterns end every match that holds a letter at the end of a run of letters, and neither
 * looks back. */
bool pretok_cuts_at_spaces(const struct pretok *p)
{
    return p->cuts_words && !p->unknown_steps;
}

void pretok_release(struct pretok *p)
{
    for (unsigned i = 0; i < p->n; i++)
        pcre2_code_free(p->steps[i].code);
    p->n = 0;
}

struct pretok_scratch *pretok_scratch_new(void)
{
    struct pretok_scratch *s = calloc(1, sizeof(*s));
    bool whole = s != NULL;

    if (!s)
        return NULL;
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    whole = s->context && s->stack;
    for (unsigned i = 0; i < PRETOK_STEPS_MAX; i++) {
        s->matches[i] = pcre2_match_data_create(1, NULL);
        whole = whole && s->matches[i];
    }
    if (!whole) {
        pretok_scratch_free(s);
        return NULL;
    }
    pcre2_jit_stack_assign(s->context, NULL, s->stack);
    return s;
}

void pretok_scratch_free(struct pretok_scratch *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < PRETOK_STEPS_MAX; i++)
        pcre2_match_data_free(s->matches[i]);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    free(s);
}

struct cutting {
    const struct pretok *p;
    struct pretok_scratch *s;
    pretok_word_fn *word;
    void *arg;
    struct lh_err *reterr;
};

/* Steps nest at most PRETOK_STEPS_MAX deep. */
static int cut(const struct cutting *c, unsigned step, const char *text, size_t n)
{
    const struct pretok_step *st = &c->p->steps[step];
    size_t at = 0;
    int rc = 0;

    if (n == 0)
        return 0;
    if (step == c->p->n)
        return c->word(c->arg, text, n);
    while (at < n && rc == 0) {
        int found =
            pcre2_match(st->code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                        c->s->matches[step], c->s->context);
        const PCRE2_SIZE *where = pcre2_get_ovector_pointer(c->s->matches[step]);
        size_t begin = n, end = n;

        if (found >= 0) {
            begin = where[0];
            end = where[1];
        } else if (found != PCRE2_ERROR_NOMATCH) {
            return lh_err_set(c->reterr, LH_EINPUT,
                              "a pre-tokenizer pattern gives up (PCRE2 error %d)", found);
        }
        if (st->keep_gaps && begin > at)
            rc = cut(c, step + 1, text + at, begin - at);
        if (rc == 0 && st->keep_matches && end > begin)
            rc = cut(c, step + 1, text + begin, end - begin);
        at = end;
    }
    return rc;
}

int pretok_cut(const struct pretok *p, struct pretok_scratch *s, const char *text, size_t n,
               pretok_word_fn *word, void *arg, struct lh_err *reterr)
{
    const struct cutting c = {p, s, word, arg, reterr};

    /* Our patterns walk back over a long run of spaces once; others may never end. */
    (void)pcre2_set_match_limit(s->context, p->unknown_steps ? UNKNOWN_MATCH_MAX : UINT32_MAX);
    return cut(&c, 0, text, n);
}
