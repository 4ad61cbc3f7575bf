/* gguf_cursor.h - inside of gguf.h: forwards through the bytes of a file that may be damaged.
 *
 * No call passes the end of the file, whatever lengths the file claims: each either takes what it
 * was asked for and moves on, or records an error that says what (`what`, in people's words) was
 * cut or is wrong, and at which byte.
 */
#pragma once
#include "worker/formats/gguf_file.h"

struct gguf_cursor {
    struct gguf_file *f; /* gguf_take_name adds to its names */
    const char *path;    /* for texts */
    uint64_t at;         /* never beyond f->map.bytes */
};

/* n bytes at the cursor, inside the mapping; NULL with the error set. */
const uint8_t *gguf_take(struct gguf_cursor *c, uint64_t n, const char *what,
                         struct lh_err *reterr);
LH_MUST_CHECK int gguf_take_u32(struct gguf_cursor *c, const char *what, uint32_t *ret,
                                struct lh_err *reterr);
LH_MUST_CHECK int gguf_take_u64(struct gguf_cursor *c, const char *what, uint64_t *ret,
                                struct lh_err *reterr);
/* A key or a name, 1 to max bytes of UTF-8, copied to the names of the file with a 0 behind it. */
LH_MUST_CHECK int gguf_take_name(struct gguf_cursor *c, uint64_t max, const char *what,
                                 const char **ret, struct lh_err *reterr);
