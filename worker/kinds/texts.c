/* texts.c - see texts.h. */
#include "worker/kinds/texts.h"
#include "proto/base/buf.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of texts in a report, whose lines have at most 1 MiB, also when every byte is escaped. */
#define RESULT_TEXT_MAX ((size_t)128 << 10)
#define FILE_MAX ((size_t)1 << 30)
#define SHOWN_OF_PROMPT 400 /* bytes of its end that are printed before the text */

static const char *const ended_names[] = {"eos", "max_tokens", "length"};

static int gather_one(struct run *r, struct text *texts, unsigned i, struct lh_err *reterr)
{
    struct comm *c = r->comm;
    int root = (int)(i % (unsigned)c->size);
    struct text *a = &texts[i], head = *a;
    int rc;

    head.text = NULL;
    rc = c->ops->broadcast(c, &head, sizeof(head), root, reterr);
    if (rc < 0)
        return rc;
    if (c->rank != root) {
        *a = head;
        a->text = calloc(1, (size_t)a->len + 1);
    }
    rc = run_agree(r, a->text ? 0 : lh_err_set(reterr, -ENOMEM, "texts"), reterr);
    return rc < 0 || a->len == 0 ? rc : c->ops->broadcast(c, a->text, a->len, root, reterr);
}

int texts_gather(struct run *r, struct text *texts, unsigned n, struct lh_err *reterr)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && r->comm->size > 1 && i < n; i++)
        rc = gather_one(r, texts, i, reterr);
    return rc;
}

/* text: NULL for all of it. */
static json_t *text_json(const struct text *a, const char *text)
{
    return json_pack("{s:s, s:I, s:I, s:s}", "text", text ? text : a->text, "tokens",
                     (json_int_t)a->tokens, "prompt_tokens", (json_int_t)a->prompt_tokens, "ended",
                     ended_names[a->ended]);
}

static int save_texts(const struct run *r, const struct text *texts, unsigned n,
                      struct lh_err *reterr)
{
    struct lh_buf b;
    char path[1100];
    int rc = 0;

    lh_buf_init(&b, FILE_MAX);
    for (unsigned i = 0; rc == 0 && i < n; i++) {
        LH_CLEANUP(lh_json_decrefp) json_t *line = text_json(&texts[i], NULL);
        char *text;

        (void)json_object_set_new(line, "prompt", json_string(r->job->generate.prompts.at[i]));
        text = lh_json_text(line, 0);
        rc = text ? lh_buf_printf(&b, "%s\n", text) : -ENOMEM;
        free(text);
    }
    (void)snprintf(path, sizeof(path), "%s/texts.jsonl", r->out_dir);
    rc = rc < 0 ? lh_err_set(reterr, rc, "'%s'", path) : lh_write_file(path, b.data, b.len, reterr);
    lh_buf_release(&b);
    return rc;
}

/* For people who read the log: the end of the prompt, and what was written behind it. */
static void print_texts(const struct run *r, const struct text *texts, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct text *a = &texts[i];
        const char *prompt = r->job->generate.prompts.at[i];
        size_t len = strlen(prompt), from = len > SHOWN_OF_PROMPT ? len - SHOWN_OF_PROMPT : 0;

        while (((unsigned char)prompt[from] & 0xc0) == 0x80)
            from++;
        (void)printf("--- prompt %u of %u: %lld tokens, then %lld (%s) ---\n%s%s[>]%s\n", i + 1, n,
                     (long long)a->prompt_tokens, (long long)a->tokens, ended_names[a->ended],
                     from > 0 ? "..." : "", prompt + from, a->text);
    }
    (void)fflush(stdout);
}

int texts_report(struct run *r, const struct text *texts, unsigned n, struct lh_err *reterr)
{
    size_t room = RESULT_TEXT_MAX / LH_MAX(n, 1u);
    json_t *list = json_array();
    int rc = save_texts(r, texts, n, reterr);

    for (unsigned i = 0; i < n; i++) {
        char *cut = (size_t)texts[i].len > room ? strndup(texts[i].text, room) : NULL;
        json_t *entry;

        if (cut)
            lh_utf8_trim(cut);
        entry = text_json(&texts[i], cut);
        if (cut)
            (void)json_object_set_new(entry, "cut", json_true());
        (void)json_array_append_new(list, entry);
        free(cut);
    }
    (void)json_object_set_new(r->result, "texts", list);
    if (rc == 0)
        print_texts(r, texts, n);
    return rc;
}
