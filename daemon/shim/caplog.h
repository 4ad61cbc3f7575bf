/* caplog.h - a rank's log file that a flood of output cannot grow without bound.
 *
 * The file only grows (it is shipped by offset). Beyond a rate (a burst of 8 MiB, then 1 MiB a
 * second) and beyond a total, output is dropped and a line says how much; when the total was
 * reached the last 8 KiB are kept and written at the end, because that is where the error stands.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CAPLOG_BURST_BYTES (8u << 20)
#define CAPLOG_BYTES_PER_S (1u << 20)
#define CAPLOG_TAIL_BYTES 8192

struct caplog {
    int fd; /* borrowed */
    uint64_t max_bytes, written;
    uint64_t tokens, refilled_ms; /* bytes that may be written now */
    uint64_t dropped;             /* since the last line that told so */
    bool full;
    char tail[CAPLOG_TAIL_BYTES];
    uint64_t tail_n; /* bytes ever put into the tail */
};

/* fd is open for appending and holds `written` bytes already. now_ms is monotonic. */
void caplog_init(struct caplog *c, int fd, uint64_t written, uint64_t max_bytes, uint64_t now_ms);
void caplog_write(struct caplog *c, const char *data, size_t n, uint64_t now_ms);
void caplog_finish(struct caplog *c); /* tells what was dropped, writes the tail */
