/* fs.h - files that survive a crash: whole-file reads, atomic writes, directories. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads a whole file of at most max_bytes (else -EFBIG). *ret_data is malloc'ed, 0-terminated; free it. */
LH_MUST_CHECK int lh_read_file(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len,
                               struct lh_err *reterr);

/* Writes path so that after any crash it holds either the old or the new bytes: temporary file in the same
 * directory, fsync, rename, fsync of the directory. */
LH_MUST_CHECK int lh_write_file(const char *path, const void *data, size_t len, struct lh_err *reterr);

/* Appends in one write(2) and does not sync. */
LH_MUST_CHECK int lh_append_file(const char *path, const void *data, size_t len, struct lh_err *reterr);

/* All of it, however many calls of write(2) that takes. 0 or -errno. */
LH_MUST_CHECK int lh_write_all(int fd, const void *data, uint64_t bytes);

/* fsync, then close, which happens in any case; path is for the error. */
LH_MUST_CHECK int lh_close_synced(int fd, const char *path, struct lh_err *reterr);

/* mkdir -p with mode 0777 less umask; an existing directory is fine. */
LH_MUST_CHECK int lh_mkdir_p(const char *path, struct lh_err *reterr);

/* fsync of a directory, or of a file by its path. */
LH_MUST_CHECK int lh_sync_path(const char *path, struct lh_err *reterr);

/* Removes a file or a whole tree; absent is fine. Never follows symbolic links. */
LH_MUST_CHECK int lh_remove_tree(const char *path, struct lh_err *reterr);

bool lh_path_exists(const char *path);
bool lh_is_dir(const char *path);
int64_t lh_file_size(const char *path); /* -errno when it cannot be told */

/* True when path lies on a network file system (NFS, CIFS, SMB, 9p, FUSE is allowed). */
bool lh_is_network_fs(const char *path);

/* Free bytes for unprivileged users on the file system of path; 0 when it cannot be told. */
uint64_t lh_free_bytes(const char *path);

/* Path of a program: beside the running executable when it is there, else its bare name (for PATH).
 * buf has at least 1024 bytes; returns buf. */
const char *lh_sibling_program(const char *name, char *buf, size_t cap);
