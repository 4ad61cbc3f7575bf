/* mapping.h - a whole file mapped read-only: how every reader here gets its bytes.
 *
 * The size is that at opening. A file cut short while it is mapped raises SIGBUS on access, as with
 * any mapping; a program that has called mapping_watch learns which file it was.
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

/* Called at most once, in the thread that read: rc LH_EINPUT for a file that became shorter, -EIO for
 * one that can no longer be read; *err names it. Must not return. */
typedef void mapping_lost_fn(int rc, const struct lh_err *err);
/* From now on SIGBUS of mapped files goes to lost; any other ends the process as before. */
void mapping_watch(mapping_lost_fn *lost);

/* Little-endian values at p, of any alignment. */
static inline uint32_t le32_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t le64_at(const uint8_t *p)
{
    return (uint64_t)le32_at(p) | (uint64_t)le32_at(p + 4) << 32;
}
