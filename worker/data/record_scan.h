/* record_scan.h - finds where the records of a .json file end, without reading what they hold.
 *
 * The file is a list of objects, or objects one after another. It is scanned once from its start to
 * its end, in any pieces; what is inside a record is checked by whoever parses it.
 */
#pragma once
#include "proto/base/attr.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum record_state {
    RECORD_START,      /* nothing but white space yet */
    RECORD_FIRST,      /* behind [: a record or ] */
    RECORD_WANTED,     /* behind a comma */
    RECORD_INSIDE,     /* of a record */
    RECORD_BEHIND,     /* behind a record of a list: a comma or ] */
    RECORD_BEHIND_ONE, /* behind a record that is in no list: white space or a record */
    RECORD_CLOSED,     /* behind ] */
};

struct record_scan {
    enum record_state state;
    bool list, in_string, escaped;
    uint32_t depth; /* of braces and brackets inside the record */
};

/* Scans n more bytes. Returns how many were scanned: fewer than n when the byte there cannot stand
 * where it does. *ret_end: bytes up to the last end of a record among them (0: none), *ret_records:
 * how many ended. */
size_t record_scan(struct record_scan *s, const char *text, size_t n, size_t *ret_end,
                   uint64_t *ret_records);

/* The file may end here. */
bool record_scan_whole(const struct record_scan *s);
