/* manifest.c - writing, reading and verifying manifest.json; see manifest.h and
 * proto/spec/checkpoint.md.
 *
 * Called by the worker (checkpoints, shards, exports) and by longhaul-node (uploads, staging). A
 * manifest that comes from elsewhere is hostile until read: names never leave the directory,
 * numbers are bounded.
 */
#include "proto/manifest.h"
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/str.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* 4096 files of at most some 400 bytes an entry, with room for `about`. */
#define TEXT_MAX_BYTES ((size_t)4 << 20)
#define DEPTH_MAX 8 /* folders below the directory; ours are flat, exports may have one */

/* ---- collecting ---- */

static int add_file(struct lh_manifest *m, const char *dir, const char *name, struct lh_err *reterr)
{
    char path[4096];
    struct lh_manifest_file *f, *grown;
    int rc;

    if (m->n_files == LH_MANIFEST_FILES_MAX)
        return lh_err_set(reterr, -E2BIG, "'%s' holds more than %d files", dir,
                          LH_MANIFEST_FILES_MAX);
    if (strlen(name) >= sizeof(f->name))
        return lh_err_set(reterr, -ENAMETOOLONG, "'%s/%s'", dir, name);
    if ((m->n_files & (m->n_files - 1)) == 0) { /* grow at powers of two */
        grown = realloc(m->files, LH_MAX(1u, m->n_files * 2) * sizeof(*f));
        if (!grown)
            return lh_err_set(reterr, -ENOMEM, "manifest of '%s'", dir);
        m->files = grown;
    }
    f = &m->files[m->n_files];
    (void)snprintf(f->name, sizeof(f->name), "%s", name);
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    rc = lh_sha256_file(path, f->sha256, &f->bytes, reterr);
    if (rc == 0)
        rc = lh_sync_path(path, reterr);
    if (rc < 0)
        return rc;
    m->bytes += f->bytes;
    m->n_files++;
    return 0;
}

static int collect(struct lh_manifest *m, const char *dir, const char *below, unsigned depth,
                   struct lh_err *reterr);

static int collect_entry(struct lh_manifest *m, const char *dir, const char *name, unsigned depth,
                         struct lh_err *reterr)
{
    char path[4096];
    struct stat st;

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "'%s/%s'", dir, name);
    if (lstat(path, &st) < 0)
        return lh_err_set(reterr, -errno, "stat '%s'", path);
    if (S_ISDIR(st.st_mode)) {
        int rc = collect(m, dir, name, depth + 1, reterr);

        return rc < 0 ? rc : lh_sync_path(path, reterr);
    }
    if (!S_ISREG(st.st_mode))
        return lh_err_set(reterr, LH_EINPUT, "'%s' is neither a file nor a directory: remove it",
                          path);
    return strcmp(name, LH_MANIFEST_NAME) == 0 ? 0 : add_file(m, dir, name, reterr);
}

/* below: path relative to dir, "" at the top. */
static int collect(struct lh_manifest *m, const char *dir, const char *below, unsigned depth,
                   struct lh_err *reterr)
{
    char path[4096], name[sizeof(m->files->name) + 1];
    struct dirent *entry;
    int rc = 0;
    DIR *d;

    if (depth > DEPTH_MAX)
        return lh_err_set(reterr, LH_EINPUT, "'%s/%s' is nested deeper than %d folders", dir, below,
                          DEPTH_MAX);
    if (snprintf(path, sizeof(path), "%s/%s", dir, below) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "'%s/%s'", dir, below);
    d = opendir(path);
    if (!d)
        return lh_err_set(reterr, -errno, "open directory '%s'", path);
    while (rc == 0 && (errno = 0, entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (snprintf(name, sizeof(name), "%s%s%s", below, below[0] ? "/" : "", entry->d_name) >=
            (int)sizeof(name))
            rc = lh_err_set(reterr, -ENAMETOOLONG, "'%s/%s'", path, entry->d_name);
        else
            rc = collect_entry(m, dir, name, depth, reterr);
    }
    if (rc == 0 && errno != 0)
        rc = lh_err_set(reterr, -errno, "read directory '%s'", path);
    (void)closedir(d);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    const struct lh_manifest_file *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static json_t *manifest_json(const struct lh_manifest *m)
{
    json_t *files = json_array();

    for (unsigned i = 0; files && i < m->n_files; i++) {
        const struct lh_manifest_file *f = &m->files[i];

        (void)json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "name", f->name, "bytes",
                                                     (json_int_t)f->bytes, "sha256", f->sha256));
    }
    return json_pack("{s:i, s:s, s:O, s:I, s:o}", "version", 1, "kind", m->kind, "about", m->about,
                     "bytes", (json_int_t)m->bytes, "files", files);
}

int lh_manifest_write(const char *dir, const char *kind, json_t *about,
                      struct lh_manifest *ret_manifest, struct lh_err *reterr)
{
    struct lh_manifest m = {.about = about ? json_incref(about) : json_object()};
    LH_CLEANUP(lh_json_decrefp) json_t *json = NULL;
    char path[4096];
    int rc;

    assert(strlen(kind) < sizeof(m.kind));
    (void)snprintf(m.kind, sizeof(m.kind), "%s", kind);
    rc = collect(&m, dir, "", 0, reterr);
    if (rc == 0 && snprintf(path, sizeof(path), "%s/" LH_MANIFEST_NAME, dir) >= (int)sizeof(path))
        rc = lh_err_set(reterr, -ENAMETOOLONG, "'%s'", dir);
    if (rc == 0) {
        if (m.n_files > 1)
            qsort(m.files, m.n_files, sizeof(*m.files), by_name);
        json = manifest_json(&m);
        if (!json)
            rc = lh_err_set(reterr, -ENOMEM, "manifest of '%s'", dir);
    }
    lh_fault("manifest.before_write");
    if (rc == 0)
        rc = lh_json_save(path, json, reterr);
    if (rc == 0)
        rc = lh_sha256_file(path, m.sha256, NULL, reterr);
    if (rc == 0 && ret_manifest)
        *ret_manifest = m;
    else
        lh_manifest_release(&m);
    return rc;
}

/* ---- reading ---- */

static bool name_is_safe(const char *name)
{
    const char *part = name;

    if (name[0] == '\0' || strlen(name) >= sizeof(((struct lh_manifest_file *)0)->name))
        return false;
    if (strcmp(name, LH_MANIFEST_NAME) == 0)
        return false;
    for (const char *p = name;; p++) {
        if ((unsigned char)*p < 0x20 && *p != '\0')
            return false;
        if (*p != '/' && *p != '\0')
            continue;
        if (p == part || (p == part + 1 && part[0] == '.') ||
            (p == part + 2 && part[0] == '.' && part[1] == '.'))
            return false; /* empty, "." or ".." */
        if (*p == '\0')
            return true;
        part = p + 1;
    }
}

static bool is_sha256(const char *s)
{
    return s && strlen(s) == LH_SHA256_HEX - 1 &&
           strspn(s, "0123456789abcdef") == LH_SHA256_HEX - 1;
}

static int parse_file(const json_t *entry, struct lh_manifest *m, unsigned i, const char *where,
                      struct lh_err *reterr)
{
    const char *name = lh_json_str(entry, "name", ""), *sha256 = lh_json_str(entry, "sha256", "");
    int64_t bytes = lh_json_i64(entry, "bytes", -1);
    struct lh_manifest_file *f = &m->files[i];

    if (!name_is_safe(name))
        return lh_err_set(reterr, LH_EINPUT,
                          "%s: file %u has the name '%.80s', which is not a relative path", where,
                          i, name);
    if (bytes < 0 || m->bytes > (uint64_t)INT64_MAX - (uint64_t)bytes)
        return lh_err_set(reterr, LH_EINPUT, "%s: file '%s' has no usable size in bytes", where,
                          name);
    if (!is_sha256(sha256))
        return lh_err_set(reterr, LH_EINPUT, "%s: file '%s' has no SHA-256 of 64 lower-case digits",
                          where, name);
    if (i > 0 && strcmp(m->files[i - 1].name, name) >= 0)
        return lh_err_set(reterr, LH_EINPUT, "%s: file '%s' stands twice or out of order", where,
                          name);
    (void)snprintf(f->name, sizeof(f->name), "%s", name);
    (void)snprintf(f->sha256, sizeof(f->sha256), "%s", sha256);
    f->bytes = (uint64_t)bytes;
    m->bytes += f->bytes;
    m->n_files++;
    return 0;
}

static int parse_members(const json_t *json, struct lh_manifest *m, const char *where,
                         struct lh_err *reterr)
{
    const json_t *files = json_object_get(json, "files");
    const char *kind = lh_json_str(json, "kind", "");
    json_t *about = json_object_get(json, "about");
    size_t n = json_array_size(files);

    if (lh_json_i64(json, "version", 0) != 1)
        return lh_err_set(reterr, LH_EINPUT,
                          "%s: member version is not 1: it was written by another release", where);
    if (kind[0] == '\0' || strlen(kind) >= sizeof(m->kind))
        return lh_err_set(reterr, LH_EINPUT, "%s: member kind is missing or too long", where);
    if (!json_is_object(about) || !json_is_array(files))
        return lh_err_set(reterr, LH_EINPUT,
                          "%s: members about (object) and files (array) are needed", where);
    if (n > LH_MANIFEST_FILES_MAX)
        return lh_err_set(reterr, LH_EINPUT, "%s: %zu files, at most %d are allowed", where, n,
                          LH_MANIFEST_FILES_MAX);
    m->files = calloc(LH_MAX(n, (size_t)1), sizeof(*m->files));
    if (!m->files)
        return lh_err_set(reterr, -ENOMEM, "%s", where);
    m->about = json_incref(about);
    (void)snprintf(m->kind, sizeof(m->kind), "%s", kind);
    for (unsigned i = 0; i < n; i++) {
        int rc = parse_file(json_array_get(files, i), m, i, where, reterr);

        if (rc < 0)
            return rc;
    }
    if (lh_json_i64(json, "bytes", -1) != (int64_t)m->bytes)
        return lh_err_set(reterr, LH_EINPUT, "%s: member bytes is not the sum of the files' sizes",
                          where);
    return 0;
}

int lh_manifest_parse(const char *text, size_t len, const char *where,
                      struct lh_manifest *ret_manifest, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *json = NULL;
    struct lh_manifest m = {.about = NULL};
    int rc = len > TEXT_MAX_BYTES
                 ? lh_err_set(reterr, LH_EINPUT, "more than %zu bytes", TEXT_MAX_BYTES)
                 : lh_json_parse(text, len, 64, &json, reterr);

    if (rc < 0)
        return lh_err_prefix(reterr, rc, "%s", where);
    rc = parse_members(json, &m, where, reterr);
    if (rc < 0) {
        lh_manifest_release(&m);
        return rc;
    }
    lh_sha256_hex(text, len, m.sha256);
    *ret_manifest = m;
    return 0;
}

int lh_manifest_read(const char *dir, struct lh_manifest *ret_manifest, struct lh_err *reterr)
{
    char path[4096], *text;
    size_t len;
    int rc;

    if (snprintf(path, sizeof(path), "%s/" LH_MANIFEST_NAME, dir) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "'%s'", dir);
    rc = lh_read_file(path, TEXT_MAX_BYTES, &text, &len, reterr);
    if (rc < 0)
        return rc;
    rc = lh_manifest_parse(text, len, path, ret_manifest, reterr);
    free(text);
    return rc;
}

/* ---- verifying ---- */

static int verify_file(const char *dir, const struct lh_manifest_file *f, struct lh_err *reterr)
{
    char path[4096], sha256[LH_SHA256_HEX];
    uint64_t bytes;
    int64_t size;
    int rc;

    if (snprintf(path, sizeof(path), "%s/%s", dir, f->name) >= (int)sizeof(path))
        return lh_err_set(reterr, -ENAMETOOLONG, "'%s/%s'", dir, f->name);
    size = lh_file_size(path);
    if (size == -ENOENT)
        return lh_err_set(reterr, LH_EINPUT, "'%s' is missing, though the manifest names it", path);
    if (size >= 0 && (uint64_t)size != f->bytes)
        return lh_err_set(reterr, LH_EINPUT, "'%s' has %lld bytes, the manifest says %llu", path,
                          (long long)size, (unsigned long long)f->bytes);
    rc = lh_sha256_file(path, sha256, &bytes, reterr);
    if (rc < 0)
        return rc;
    if (strcmp(sha256, f->sha256) != 0)
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s' has other bytes than the manifest says (SHA-256 %.16s... "
                          "instead of %.16s...)",
                          path, sha256, f->sha256);
    return 0;
}

int lh_manifest_verify(const char *dir, struct lh_err *reterr)
{
    struct lh_manifest m;
    int rc = lh_manifest_read(dir, &m, reterr);

    if (rc < 0)
        return rc;
    for (unsigned i = 0; rc == 0 && i < m.n_files; i++)
        rc = verify_file(dir, &m.files[i], reterr);
    lh_manifest_release(&m);
    return rc;
}

void lh_manifest_release(struct lh_manifest *m)
{
    json_decref(m->about);
    free(m->files);
    *m = (struct lh_manifest){.about = NULL};
}
