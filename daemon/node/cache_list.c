/* cache_list.c - inputs that a listing names: a model's directory in a bucket, or a pattern.
 *
 *   s3://BUCKET/DIR           DIR/files/KEY/          everything below DIR
 *   s3://BUCKET/DIR/a*.jsonl  DIR/files/KEY/a*.jsonl  what matches, below the last '/' before the
 *                                                     first * ? [
 *
 * KEY is made of the names, sizes and ETags, so a directory that has changed is another entry.
 */
#include "daemon/node/cache_parts.h"
#include "proto/base/fs.h"
#include "proto/base/sha256.h"
#include "proto/base/str.h"
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OBJECTS_MAX 20000u

struct object {
    char *name;
    struct store_stat st;
};
struct listed {
    const char *uri, *pattern; /* "": everything */
    struct object *at;
    unsigned n, cap;
};

static void listed_release(struct listed *l)
{
    for (unsigned i = 0; i < l->n; i++)
        free(l->at[i].name);
    free(l->at);
}

/* A name that stays below the directory when it becomes a path. */
static bool is_safe(const char *name)
{
    for (const char *part = name;; part++) {
        size_t n = strcspn(part, "/");

        if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && strncmp(part, "..", 2) == 0))
            return false;
        part += n;
        if (!*part)
            return true;
    }
}

static int on_object(void *arg, const char *name, uint64_t bytes, const char *etag,
                     struct lh_err *reterr)
{
    struct listed *l = arg;
    struct object *o;

    if (!*name || lh_ends_with(name, "/")) /* the mark of a directory */
        return 0;
    if (l->pattern[0] && fnmatch(l->pattern, name, FNM_PATHNAME | FNM_PERIOD) != 0)
        return 0;
    if (!is_safe(name))
        return lh_err_set(reterr, LH_EINPUT, "'%s': the object '%.300s' has no name for a file",
                          l->uri, name);
    if (l->n == OBJECTS_MAX)
        return lh_err_set(reterr, LH_EINPUT, "'%s' stands for more than %u objects", l->uri,
                          OBJECTS_MAX);
    if (l->n == l->cap) {
        unsigned cap = l->cap ? 2 * l->cap : 32;
        struct object *at = realloc(l->at, cap * sizeof(*at));

        if (!at)
            return lh_err_set(reterr, -ENOMEM, "list '%s'", l->uri);
        l->at = at;
        l->cap = cap;
    }
    o = &l->at[l->n];
    memset(o, 0, sizeof(*o));
    o->name = strdup(name);
    if (!o->name)
        return lh_err_set(reterr, -ENOMEM, "list '%s'", l->uri);
    o->st.bytes = bytes;
    (void)snprintf(o->st.etag, sizeof(o->st.etag), "%s", etag);
    l->n++;
    return 0;
}

static int make_key(const struct listed *l, char key[static LH_SHA256_HEX], struct lh_err *reterr)
{
    struct lh_sha256 all;
    int rc = lh_sha256_init(&all);

    if (rc < 0)
        return lh_err_set(reterr, rc, "list '%s'", l->uri);
    lh_sha256_update(&all, l->uri, strlen(l->uri) + 1);
    for (unsigned i = 0; i < l->n; i++) {
        lh_sha256_update(&all, l->at[i].name, strlen(l->at[i].name) + 1);
        lh_sha256_update(&all, &l->at[i].st.bytes, sizeof(l->at[i].st.bytes));
        lh_sha256_update(&all, l->at[i].st.etag, strlen(l->at[i].st.etag) + 1);
    }
    lh_sha256_final(&all, key);
    return 0;
}

static int get_all(const struct cache_request *q, struct store *store, const struct listed *l,
                   const char *tmp, struct lh_err *reterr)
{
    char path[LONG_CAP], *slash;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < l->n; i++) {
        struct store_stat st;

        if (snprintf(path, sizeof(path), "%s/%s", tmp, l->at[i].name) >= (int)sizeof(path))
            return lh_err_set(reterr, -ENAMETOOLONG, "'%s'", l->at[i].name);
        slash = strrchr(path, '/');
        *slash = '\0';
        rc = lh_mkdir_p(path, reterr);
        *slash = '/';
        if (rc == 0) /* for the checksum; and it must still be what was listed */
            rc = store_stat(store, l->at[i].name, &st, reterr);
        if (rc == -ENOENT || (rc == 0 && (st.bytes != l->at[i].st.bytes)))
            return lh_err_set(reterr, LH_ETRYAGAIN, "'%s' changes while it is fetched", q->uri);
        if (rc == 0)
            rc = cache_get(store, l->at[i].name, &st, path, q->uri, reterr);
    }
    return rc;
}

/* The directory of a pattern and the pattern below it; without one, the directory itself. */
static void split(const char *uri, char directory[static PATH_CAP], const char **ret_pattern)
{
    size_t n = strcspn(uri, "*?[");

    *ret_pattern = "";
    if (uri[n]) {
        while (n > 0 && uri[n - 1] != '/')
            n--;
        *ret_pattern = uri + n;
    }
    while (n > 0 && uri[n - 1] == '/')
        n--;
    (void)snprintf(directory, PATH_CAP, "%.*s", (int)n, uri);
}

static int fetch(const struct cache_request *q, struct store *store, const struct listed *l,
                 char *ret_path, struct lh_err *reterr)
{
    char dir[PATH_CAP], tmp[PATH_CAP], key[LH_SHA256_HEX];
    int rc = make_key(l, key, reterr);

    if (rc < 0)
        return rc;
    (void)snprintf(dir, sizeof(dir), "%.800s/files/%s", q->dir, key);
    if (!cache_find(q, dir)) {
        rc = cache_make_tmp(q, tmp, reterr);
        if (rc == 0)
            rc = get_all(q, store, l, tmp, reterr);
        if (rc == 0)
            rc = cache_move_in(tmp, dir, reterr);
        else
            (void)!lh_remove_tree(tmp, NULL);
    }
    if (rc == 0 && snprintf(ret_path, PATH_CAP, "%s%s%s", dir, l->pattern[0] ? "/" : "",
                            l->pattern) >= PATH_CAP)
        rc = lh_err_set(reterr, -ENAMETOOLONG, "'%s'", q->uri);
    return rc;
}

int cache_fetch_list(const struct cache_request *q, char *ret_path, struct lh_err *reterr)
{
    LH_CLEANUP(store_closep) struct store *store = NULL;
    struct listed l = {.uri = q->uri};
    char directory[PATH_CAP];
    int rc;

    split(q->uri, directory, &l.pattern);
    rc = store_open(directory, q->s3_config, q->cancel, &store, reterr);
    if (rc == 0)
        rc = store_list(store, on_object, &l, reterr);
    if (rc == 0 && l.n == 0)
        rc = l.pattern[0]
                 ? lh_err_set(reterr, LH_EINPUT, "no object matches '%s'", q->uri)
                 : lh_err_set(reterr, LH_EINPUT,
                              "'%s' is neither an object nor a directory with objects", q->uri);
    if (rc == 0)
        rc = fetch(q, store, &l, ret_path, reterr);
    listed_release(&l);
    return rc;
}
