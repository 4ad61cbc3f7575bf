/* unit.h - what unit tests of proto share: cmocka, a directory of their own, small JSON helpers. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST(name) cmocka_unit_test(name)

/* A new empty directory; freed and removed by scratch_free. */
static inline LH_UNUSED char *scratch_new(void)
{
    const char *base = getenv("TMPDIR");
    char *dir = NULL;

    assert_true(asprintf(&dir, "%s/longhaul-unit-XXXXXX", base ? base : "/tmp") > 0);
    assert_non_null(mkdtemp(dir));
    return dir;
}

static inline LH_UNUSED void scratch_free(char *dir)
{
    assert_int_equal(lh_remove_tree(dir, NULL), 0);
    free(dir);
}

/* "DIR/NAME" in one of four buffers that take turns. */
static inline LH_UNUSED const char *in_dir(const char *dir, const char *name)
{
    static char paths[4][1024];
    static unsigned turn;
    char *path = paths[turn++ % 4];

    (void)snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
    return path;
}

static inline LH_UNUSED void put_file(const char *dir, const char *name, const char *text)
{
    FILE *f = fopen(in_dir(dir, name), "we");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

/* The file's text; free it. */
static inline LH_UNUSED char *get_file(const char *dir, const char *name)
{
    char *text = NULL;
    size_t len;

    assert_int_equal(lh_read_file(in_dir(dir, name), 1 << 24, &text, &len, NULL), 0);
    return text;
}

/* JSON from text with ' for ". */
static inline LH_UNUSED json_t *json_of(const char *text)
{
    char *copy = strdup(text);
    struct lh_err err = {0};
    json_t *value = NULL;

    for (char *c = copy; *c; c++)
        if (*c == '\'')
            *c = '"';
    if (lh_json_parse(copy, strlen(copy), 64, &value, &err) < 0)
        fail_msg("%s in %s", err.text, copy);
    free(copy);
    return value;
}
