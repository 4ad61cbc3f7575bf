/* dialog.h - records of a conversation to tokens: which texts stand around each turn, and which
 * tokens are trained.
 *
 * A template (data.template; its members are described in proto/spec/job-spec.md) is compiled once
 * against a tokenizer: the tokens that it names are looked up then, and a token that is missing is
 * refused. Texts of records are only ever encoded as text, so what somebody wrote into a record
 * cannot become a control token.
 *
 * Thread-safe once compiled: state is in struct dialog_scratch, one a thread.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "proto/base/sha256.h"
#include "worker/text/tokenizer.h"
#include <jansson.h>

/* Set in an id that is trained: far above all ids (VOCAB_MAX). */
#define DIALOG_TRAINED ((int32_t)1 << 30)

struct dialog;
struct dialog_scratch;

/* text: data.template of a job that was parsed, a name or the text of an object. t must outlive it.
 * LH_EINPUT at /data/template: the tokenizer lacks a token of the template. */
LH_MUST_CHECK int dialog_open(const char *text, const struct tokenizer *t,
                              struct dialog **ret_dialog, struct lh_err *reterr);
void dialog_free(struct dialog *d); /* accepts NULL */
LH_DEFINE_FREEP(struct dialog *, dialog_free)

/* Of everything that decides tokens beside the tokenizer: part of the key of prepared shards. */
void dialog_digest(const struct dialog *d, char ret_hex[static LH_SHA256_HEX]);

struct dialog_scratch *dialog_scratch_new(void); /* NULL: memory is exhausted */
void dialog_scratch_free(struct dialog_scratch *s);

/* Appends the tokens of a record: {instruction, output, input and system if given} or {messages:
 * [{role, content}]}; other members are left alone. Returns 1, or 0 for a record without an answer,
 * which appends nothing. LH_EINPUT says what is wrong; the caller prefixes file and line. */
LH_MUST_CHECK int dialog_encode(const struct dialog *d, struct dialog_scratch *s,
                                struct tokenizer_scratch *words, const json_t *record,
                                struct token_list *ids, struct lh_err *reterr);
