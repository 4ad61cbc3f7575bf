/* units.h - inputs cut into units of work: a part of one plain document, some lines of a .jsonl
 * file, or some records of a .json file.
 *
 * Units come in the order of the files and their texts; each is at most a few MiB unless one line,
 * a record, or a document that the tokenizer cannot take in parts, is longer.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "worker/data/inputs.h"
#include "worker/data/record_scan.h"
#include "worker/data/text_stream.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum unit_kind {
    UNIT_PLAIN,
    UNIT_LINES,   /* .jsonl: whole lines */
    UNIT_RECORDS, /* .json, when records are wanted: whole records, commas and brackets around them
                   */
};

/* Where a unit begins; all zeros: the first of all. */
struct unit_place {
    unsigned file;         /* of the list */
    uint64_t offset, next; /* bytes of its text before; number of the next line or record */
    uint64_t before_bytes; /* of the files before */
    uint64_t done_bytes;   /* of all files, when everything before has been read */
    bool list;             /* .json: the records are in a list */
};

struct unit {
    const char *path; /* the list's */
    char *text;       /* owned, reused */
    size_t len, cap;
    enum unit_kind kind;
    bool ends_document;      /* plain: the last part */
    uint64_t offset;         /* where the part begins in its (decompressed) file */
    uint64_t first;          /* number of the first line or record, from 1 */
    uint64_t done_bytes;     /* of all files, when this unit is done */
    struct unit_place after; /* where the unit behind this one begins */
};

struct unit_reader {
    const struct input_list *list;
    bool cut_documents;     /* tokenizer_cuts_at_spaces */
    bool cut_lines;         /* tokenizer_cuts_at_lines */
    bool records;           /* .json files are lists of records, not plain text */
    size_t target;          /* bytes of a unit */
    struct unit_place from; /* where to begin */
    unsigned file;
    struct text_stream *stream; /* of list->paths[file]; NULL: not open */
    char *rest;                 /* read and not handed out yet */
    size_t rest_n, rest_cap;
    bool eof;
    struct record_scan scan;
    size_t scanned, records_end;         /* bytes of rest */
    uint64_t n_records;                  /* up to records_end */
    uint64_t offset, next, before_bytes; /* next: line or record; before_bytes: of the files done */
};

/* By the name, which .gz or .zst may follow. */
enum unit_kind unit_kind_of(const char *path, bool records);

/* Takes a reader just made to a place that a reader of the same list has named. */
void unit_reader_begin(struct unit_reader *r, const struct unit_place *at);

/* Fills *u with the next unit: 1, or 0 at the end of all files. LH_EINPUT names the file. */
LH_MUST_CHECK int unit_next(struct unit_reader *r, struct unit *u, struct lh_err *reterr);
void unit_reader_release(struct unit_reader *r);
