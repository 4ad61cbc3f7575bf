/* units.h - inputs cut into units of work: a part of one plain document, or some lines of a .jsonl
 * file.
 *
 * Units come in the order of the files and their texts; each is at most a few MiB unless one line,
 * or a document that the tokenizer cannot take in parts, is longer.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "worker/data/inputs.h"
#include "worker/data/text_stream.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct unit {
    const char *path; /* the list's */
    char *text;       /* owned, reused */
    size_t len, cap;
    bool lines;          /* .jsonl: whole lines */
    bool ends_document;  /* plain: the last part */
    uint64_t offset;     /* plain: where the part begins in its (decompressed) document */
    uint64_t first_line; /* lines: number of the first, from 1 */
    uint64_t done_bytes; /* of all files, when this unit is done */
};

struct unit_reader {
    const struct input_list *list;
    bool cut_documents; /* tokenizer_cuts_at_spaces */
    size_t target;      /* bytes of a unit */
    unsigned file;
    struct text_stream *stream; /* of list->paths[file]; NULL: not open */
    char *rest;                 /* read and not handed out yet */
    size_t rest_n, rest_cap;
    bool eof;
    uint64_t offset, line, before_bytes; /* before_bytes: of the files that are done */
};

bool unit_is_lines(const char *path); /* .jsonl, .jsonl.gz, .jsonl.zst */

/* Fills *u with the next unit: 1, or 0 at the end of all files. LH_EINPUT names the file. */
LH_MUST_CHECK int unit_next(struct unit_reader *r, struct unit *u, struct lh_err *reterr);
void unit_reader_release(struct unit_reader *r);
