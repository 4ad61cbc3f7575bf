/* job_unknown.c - members of a job that nobody knows: each is refused, with what was perhaps meant.
 *
 * Called by the walk (job_parse.c) for sections of the table, and for objects that are values by
 * those who take them (job_value.c, job_eval.c, job_template.c). Nothing unknown is ever passed
 * over: a misspelt member would else leave its default at work.
 */
#include "proto/base/str.h"
#include "proto/job_parse.h"
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NAMES_MAX 128 /* members of one section, with room */

void refuse_unknown(struct job_parser *p, const char *pointer, const json_t *value,
                    const char *const *names, unsigned n)
{
    const char *key;
    json_t *member;

    json_object_foreach((json_t *)(uintptr_t)value, key, member)
    {
        char at[POINTER_MAX], name[DOTTED_MAX];
        const char *nearest;
        unsigned i = 0;

        while (i < n && strcmp(names[i], key) != 0)
            i++;
        if (i < n)
            continue;
        (void)snprintf(at, sizeof(at), "%s", pointer);
        pointer_append(at, sizeof(at), key);
        nearest = lh_nearest(key, names, n);
        lh_problem_add(p->problems, at, "unknown_member", "unknown member %s%s%s%s",
                       dotted_name(at, name), nearest ? "; did you mean " : "",
                       nearest ? nearest : "", nearest ? "?" : "");
    }
}

/* The last name of a path. */
static const char *leaf(const char *path)
{
    return strrchr(path, '/') + 1;
}

/* The paths of the members of a section, "" for the job itself. */
static unsigned members_of(const char *section, const char *ret_paths[static NAMES_MAX])
{
    size_t len = strlen(section);
    unsigned n = 0;

    for (unsigned i = 0; i < job_n_fields; i++) {
        const char *path = job_fields[i].path;

        if (strncmp(path, section, len) != 0 || path[len] != '/' || strchr(path + len + 1, '/'))
            continue;
        assert(n < NAMES_MAX);
        ret_paths[n++] = path;
    }
    return n;
}

/* The way out: a member of the same section with a name like it, else one of that very name
 * elsewhere, else all that the section has. */
static void suggest(const char *section, const char *key, char *buf, size_t cap)
{
    const char *leaves[NAMES_MAX], *paths[NAMES_MAX], *nearest, *meant = NULL;
    unsigned n = members_of(section, paths);
    char name[DOTTED_MAX];
    size_t used = 0;

    for (unsigned i = 0; i < n; i++)
        leaves[i] = leaf(paths[i]);
    nearest = lh_nearest(key, leaves, n);
    for (unsigned i = 0; nearest && !meant && i < n; i++)
        if (leaves[i] == nearest)
            meant = paths[i];
    for (unsigned i = 0; !meant && i < job_n_fields; i++)
        if (strcmp(leaf(job_fields[i].path), key) == 0)
            meant = job_fields[i].path;
    if (meant) {
        (void)snprintf(buf, cap, "did you mean %s?", dotted_name(meant, name));
        return;
    }
    for (unsigned i = 0; i < n && used < cap; i++)
        used +=
            (size_t)snprintf(buf + used, cap - used, "%s%s", i ? ", " : "known here: ", leaves[i]);
}

/* Sections nest as deep as the table does, so the recursion is bounded by it. */
void refuse_unknown_below(struct job_parser *p, const char *section, const json_t *object)
{
    const char *key;
    json_t *member;

    json_object_foreach((json_t *)(uintptr_t)object, key, member)
    {
        char at[POINTER_MAX], name[DOTTED_MAX], hint[256];
        const struct field *f;

        (void)snprintf(at, sizeof(at), "%s", section);
        pointer_append(at, sizeof(at), key);
        f = strlen(key) < 64 ? field_find(at) : NULL;
        if (f && f->type == FIELD_OBJECT && json_is_object(member))
            refuse_unknown_below(p, at, member);
        if (f)
            continue;
        suggest(section, key, hint, sizeof(hint));
        lh_problem_add(p->problems, at, "unknown_member", "unknown member %s; %s",
                       dotted_name(at, name), hint);
    }
}
