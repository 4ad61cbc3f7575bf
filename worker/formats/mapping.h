/* mapping.h - a whole file mapped read-only: how every reader here gets its bytes.
 *
 * The size is that at opening. A file cut short while it is mapped raises SIGBUS on access, as with
 * any mapping; inputs are taken as not changing during a run.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stddef.h>
#include <stdint.h>

struct mapping {
    const uint8_t *data; /* NULL for an empty file */
    size_t bytes;
};

/* Maps a regular file. Errors: -errno, LH_EINPUT for what is no regular file; both name it. */
LH_MUST_CHECK int mapping_open(const char *path, struct mapping *ret_map, struct lh_err *reterr);
void mapping_close(struct mapping *m); /* of zeros: nothing happens */

/* Little-endian values at p, of any alignment. */
static inline uint32_t le32_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t le64_at(const uint8_t *p)
{
    return (uint64_t)le32_at(p) | (uint64_t)le32_at(p + 4) << 32;
}
