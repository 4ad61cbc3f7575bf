/* manifest.h - manifest.json: the files of a directory with sizes and SHA-256, written last.
 *
 * A directory without a manifest is not there (checkpoints, shards, exports all use it; spec: checkpoint.md).
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "proto/base/sha256.h"
#include <jansson.h>
#include <stdint.h>

#define LH_MANIFEST_NAME "manifest.json"
#define LH_MANIFEST_FILES_MAX 4096

struct lh_manifest_file {
    char name[256]; /* relative, no "..", no leading '/' */
    uint64_t bytes;
    char sha256[LH_SHA256_HEX];
};
struct lh_manifest {
    char kind[32];      /* "checkpoint", "shards", "export" */
    json_t *about;      /* owned object: job, attempt, step, ... (may be empty) */
    struct lh_manifest_file *files; /* owned, sorted by name */
    unsigned n_files;
    uint64_t bytes;                 /* of all files */
    char sha256[LH_SHA256_HEX];     /* of the manifest file's own bytes; set by read and write */
};

/* Hashes every regular file below dir (but the manifest), fsyncs each, writes the manifest durably.
 * about is borrowed. On success *ret_manifest (may be NULL) is set; release it. */
LH_MUST_CHECK int lh_manifest_write(const char *dir, const char *kind, json_t *about,
                                    struct lh_manifest *ret_manifest, struct lh_err *reterr);

/* Reads and checks dir/manifest.json: members, names, sizes, digests well-formed (LH_EINPUT otherwise). */
LH_MUST_CHECK int lh_manifest_read(const char *dir, struct lh_manifest *ret_manifest, struct lh_err *reterr);

/* The same from bytes in memory; where names them in errors. */
LH_MUST_CHECK int lh_manifest_parse(const char *text, size_t len, const char *where,
                                    struct lh_manifest *ret_manifest, struct lh_err *reterr);

/* Reads the manifest and every file it names; LH_EINPUT names the first file that is missing, of another size
 * or of other bytes. */
LH_MUST_CHECK int lh_manifest_verify(const char *dir, struct lh_err *reterr);

void lh_manifest_release(struct lh_manifest *m);
