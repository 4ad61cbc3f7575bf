/* inputs.c - see inputs.h. */
#include "worker/data/inputs.h"
#include "proto/base/fs.h"
#include "proto/base/str.h"
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void input_list_release(struct input_list *l)
{
    for (unsigned i = 0; i < l->n; i++)
        free(l->paths[i]);
    free(l->paths);
    *l = (struct input_list){NULL, 0};
}

static int add(struct input_list *l, const char *path, struct lh_err *reterr)
{
    struct stat st;

    if (lh_is_dir(path))
        return lh_err_set(reterr, LH_EINPUT,
                          "'%s' is a directory; name its files, for example '%s/*.txt'", path,
                          path);
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
        return lh_err_set(reterr, LH_EINPUT, "'%s' is not a regular file that can be read", path);
    if (l->n == INPUT_FILES_MAX)
        return lh_err_set(reterr, LH_EINPUT, "more than %u input files", INPUT_FILES_MAX);
    if ((l->n & (l->n - 1)) == 0) { /* full at each power of two */
        char **more = realloc(l->paths, (l->n ? 2 * (size_t)l->n : 1) * sizeof(*more));

        if (!more)
            return lh_err_set(reterr, -ENOMEM, "input '%s'", path);
        l->paths = more;
    }
    l->paths[l->n] = strdup(path);
    if (!l->paths[l->n])
        return lh_err_set(reterr, -ENOMEM, "input '%s'", path);
    l->n++;
    return 0;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_glob(struct input_list *l, const char *pattern, struct lh_err *reterr)
{
    glob_t g = {0};
    int rc = glob(pattern, GLOB_NOSORT | GLOB_ERR, NULL, &g);

    if (rc == GLOB_NOMATCH) {
        rc = lh_err_set(reterr, LH_EINPUT, "no file matches '%s'", pattern);
    } else if (rc != 0) {
        rc = lh_err_set(reterr, rc == GLOB_NOSPACE ? -ENOMEM : LH_EINPUT,
                        "'%s' cannot be expanded: a directory cannot be read", pattern);
    } else {
        /* The locale of the user must not decide the order of the data. */
        qsort(g.gl_pathv, g.gl_pathc, sizeof(*g.gl_pathv), by_bytes);
        for (size_t i = 0; i < g.gl_pathc && rc == 0; i++)
            rc = add(l, g.gl_pathv[i], reterr);
    }
    globfree(&g);
    return rc;
}

int input_list_expand(const struct lh_strings *uris, struct input_list *ret_list,
                      struct lh_err *reterr)
{
    struct input_list l = {NULL, 0};
    int rc = 0;

    for (unsigned i = 0; i < uris->n && rc == 0; i++) {
        struct lh_uri uri;

        rc = lh_uri_parse(uris->at[i], &uri, reterr);
        if (rc < 0)
            break;
        if (uri.scheme != LH_URI_FILE)
            rc = lh_err_set(reterr, LH_EINPUT,
                            "'%s' is not a local file; it must be fetched before the worker "
                            "starts",
                            uris->at[i]);
        else if (lh_path_exists(uri.path))
            rc = add(&l, uri.path, reterr);
        else if (strpbrk(uri.path, "*?["))
            rc = add_glob(&l, uri.path, reterr);
        else
            rc = lh_err_set(reterr, LH_EINPUT, "there is no file '%s'", uri.path);
    }
    if (rc == 0 && l.n == 0)
        rc = lh_err_set(reterr, LH_EINPUT, "no input files are named");
    if (rc < 0) {
        input_list_release(&l);
        return rc;
    }
    *ret_list = l;
    return 0;
}
