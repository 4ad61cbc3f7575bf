/* upload.c - see upload.h. */
#include "daemon/node/upload.h"
#include "daemon/node/store.h"
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/manifest.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_CAP 2048

/* A state that cannot be saved costs a repetition after a restart, nothing else. */
static void save(void *arg)
{
    const struct upload *u = arg;

    (void)!lh_json_save(u->state_path, u->state, NULL);
}

static json_t *member(json_t *state, const char *name)
{
    if (!json_object_get(state, name))
        (void)json_object_set_new(state, name, json_object());
    return json_object_get(state, name);
}

static int put_files(struct upload *u, struct store *store, const struct lh_manifest *m,
                     struct lh_err *reterr)
{
    struct store_progress progress = {.parts = member(u->state, "parts"), .save = save, .arg = u};
    json_t *files = member(u->state, "files");
    char path[PATH_CAP];
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < m->n_files; i++) {
        const struct lh_manifest_file *f = &m->files[i];

        if (strcmp(lh_json_str(files, f->name, ""), f->sha256) == 0)
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", u->dir, f->name);
        rc = store_put(store, f->name, path, f->bytes, f->sha256, &progress, reterr);
        if (rc < 0)
            break;
        (void)json_object_set_new(files, f->name, json_string(f->sha256));
        save(u);
        lh_fault("node.upload.file");
    }
    return rc;
}

int upload_run(struct upload *u, struct lh_err *reterr)
{
    LH_CLEANUP(store_closep) struct store *store = NULL;
    struct lh_manifest m = {0};
    char path[PATH_CAP], *text = NULL;
    size_t len = 0;
    int rc = lh_manifest_read(u->dir, &m, reterr);

    if (rc < 0)
        return rc;
    rc = store_open(u->uri, u->s3_config, u->cancel, &store, reterr);
    if (rc == 0)
        rc = put_files(u, store, &m, reterr);
    (void)snprintf(path, sizeof(path), "%s/%s", u->dir, LH_MANIFEST_NAME);
    if (rc == 0)
        rc = lh_read_file(path, STORE_SMALL_MAX, &text, &len, reterr);
    if (rc == 0)
        rc = store_create(store, LH_MANIFEST_NAME, text, len, reterr);
    free(text);
    lh_manifest_release(&m);
    return rc;
}
