/* test_job_spec.c - proto/spec/job-spec.md and the JSON Schema say what the table of members says.
 */
#include "proto/job_parse.h"
#include "tests/unit/unit.h"

/* Fields of a row "| `name` | value | default | kinds | meaning |"; false for any other line. */
static bool row(char *line, char *cells[static 5])
{
    char *at = line + 2;

    if (strncmp(line, "| `", 3) != 0)
        return false;
    for (int i = 0; i < 5; i++) {
        char *end = strstr(at, " |");

        if (!end)
            return false;
        *end = '\0';
        cells[i] = at;
        at = end + 3;
    }
    return true;
}

static const struct field *field_of(const char *cell)
{
    char path[80] = "/";
    size_t n = 1;

    for (const char *c = cell + 1; *c != '`' && n < sizeof(path) - 1; c++)
        path[n++] = *c == '.' ? '/' : *c;
    path[n] = '\0';
    return field_find(path);
}

static void kinds_text(unsigned kinds, char *buf, size_t cap)
{
    unsigned built = 0;

    buf[0] = '\0';
    for (unsigned i = 0; i < kind_names.n; i++)
        built |= kind_names.at[i].built ? 1u << i : 0;
    if ((kinds & built) == built) {
        (void)snprintf(buf, cap, "all");
        return;
    }
    for (unsigned i = 0; i < kind_names.n; i++)
        if (kinds & 1u << i && (built & 1u << i || !(kinds & built)))
            (void)snprintf(buf + strlen(buf), cap - strlen(buf), "%s%s", buf[0] ? " " : "",
                           kind_names.at[i].name);
}

static void default_text(const struct field *f, char *buf, size_t cap)
{
    json_t *value = field_default(f);
    char *text = value ? lh_json_text(value, 0) : NULL;

    if (text)
        (void)snprintf(buf, cap, "`%s`", text);
    else
        (void)snprintf(buf, cap, "%s", f->required ? "required" : f->derive ? "derived" : "-");
    free(text);
    json_decref(value);
}

/* Each name of an enum must stand in the value cell, with a * exactly when it is not built. */
static void names_stand_in(const struct field *f, const char *cell)
{
    for (unsigned i = 0; f->names && i < f->names->n; i++) {
        char want[40];
        const char *at;

        (void)snprintf(want, sizeof(want), "`%s`", f->names->at[i].name);
        at = strstr(cell, want);
        if (!at || (at[strlen(want)] == '*') == f->names->at[i].built)
            fail_msg("%s: %s in '%s'", f->path, want, cell);
    }
}

static void bounds_stand_in(const struct field *f, const char *cell)
{
    char number[40];

    if (f->type != FIELD_INT && f->type != FIELD_NUMBER)
        return;
    (void)snprintf(number, sizeof(number), " %.15g", f->min);
    if (!strstr(cell, number))
        fail_msg("%s: no %s in '%s'", f->path, number, cell);
    (void)snprintf(number, sizeof(number), " %.15g", f->max);
    if (f->max < JOB_WHOLE_MAX && !strstr(cell, number))
        fail_msg("%s: no %s in '%s'", f->path, number, cell);
    assert_int_equal(strstr(cell, "above") != NULL, (f->flags & FIELD_ABOVE) != 0);
    assert_int_equal(strstr(cell, "below") != NULL, (f->flags & FIELD_BELOW) != 0);
}

static void the_page_has_a_true_row_for_every_member(void **state)
{
    char *page = get_file(LH_SOURCE_DIR, "proto/spec/job-spec.md"), *save = NULL;
    bool *seen = calloc(job_n_fields, sizeof(*seen));

    (void)state;
    for (char *line = strtok_r(page, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *cells[5], want[120];
        const struct field *f;

        if (!row(line, cells))
            continue;
        f = field_of(cells[0]);
        if (!f)
            fail_msg("the page has %s, the table has not", cells[0]);
        if (seen[f - job_fields])
            fail_msg("%s stands twice", f->path);
        seen[f - job_fields] = true;
        default_text(f, want, sizeof(want));
        if (strcmp(cells[2], want) != 0)
            fail_msg("default of %s: page '%s', table '%s'", f->path, cells[2], want);
        kinds_text(f->kinds, want, sizeof(want));
        if (strcmp(cells[3], want) != 0)
            fail_msg("kinds of %s: page '%s', table '%s'", f->path, cells[3], want);
        if (f->about && strcmp(cells[4], f->about) != 0)
            fail_msg("meaning of %s: page '%s', table '%s'", f->path, cells[4], f->about);
        if (f->flags & (FIELD_NOT_BUILT | FIELD_DEFAULT_ONLY))
            assert_int_equal(cells[1][strlen(cells[1]) - 1], '*');
        names_stand_in(f, cells[1]);
        bounds_stand_in(f, cells[1]);
    }
    for (unsigned i = 0; i < job_n_fields; i++)
        if (!seen[i])
            fail_msg("the page lacks %s", job_fields[i].path);
    free(seen);
    free(page);
}

/* Parsing relies on it: a section stands above its members, a default is of the right range. */
static void the_table_is_sound(void **state)
{
    (void)state;
    for (unsigned i = 0; i < job_n_fields; i++) {
        const struct field *f = &job_fields[i];
        char section[64];
        double v = f->otherwise.number;

        assert_ptr_equal(field_find(f->path), f);
        (void)snprintf(section, sizeof(section), "%.*s", (int)(strrchr(f->path, '/') - f->path),
                       f->path);
        if (section[0]) {
            assert_non_null(field_find(section));
            assert_true(field_find(section) < f);
            assert_int_equal(field_find(section)->type, FIELD_OBJECT);
        }
        if (f->flags & FIELD_NOT_BUILT)
            continue;
        assert_non_null(f->about);
        assert_int_equal(f->type == FIELD_CUSTOM, f->take != NULL);
        assert_int_equal(f->type == FIELD_CUSTOM, f->schema != NULL);
        assert_int_equal(f->type == FIELD_ENUM || f->type == FIELD_CHOICE, f->names != NULL);
        assert_int_equal(f->required & ~f->kinds, 0);
        if (f->flags & FIELD_HAS_DEFAULT && (f->type == FIELD_INT || f->type == FIELD_NUMBER))
            assert_true(v >= f->min && v <= f->max);
        if (f->flags & FIELD_DEFAULT_ONLY)
            assert_true(f->flags & FIELD_HAS_DEFAULT);
    }
}

static const json_t *property(const json_t *schema, const char *path)
{
    char name[64];

    while (*path) {
        size_t n = strcspn(++path, "/");

        (void)snprintf(name, sizeof(name), "%.*s", (int)n, path);
        schema = json_object_get(json_object_get(schema, "properties"), name);
        path += n;
    }
    return schema;
}

static void the_schema_has_every_member_that_is_built(void **state)
{
    json_t *schema = lh_job_schema();

    (void)state;
    for (unsigned i = 0; i < job_n_fields; i++) {
        const struct field *f = &job_fields[i];
        const json_t *p = property(schema, f->path), *otherwise;
        json_t *want = field_default(f);

        if (f->flags & FIELD_NOT_BUILT) {
            assert_null(p);
            continue;
        }
        if (!p)
            fail_msg("the schema lacks %s", f->path);
        assert_string_equal(lh_json_str(p, "description", ""), f->about);
        otherwise = json_object_get(p, "default");
        assert_int_equal(want != NULL, otherwise != NULL);
        if (want)
            assert_true(json_equal(want, otherwise));
        json_decref(want);
    }
    assert_null(property(schema, "/queue"));
    assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
    assert_true(
        json_is_false(json_object_get(property(schema, "/context/rope"), "additionalProperties")));
    json_decref(schema);
}

static void the_schema_requires_what_a_kind_needs(void **state)
{
    json_t *schema = lh_job_schema(), *rule, *want;
    size_t i;
    bool found = false;

    (void)state;
    want = json_of("{'properties':{'model':{'required':['base']},'context':{'required':['length']},"
                   "'data':{'required':['train']}},'required':['model','context','data']}");
    json_array_foreach(json_object_get(schema, "allOf"), i, rule)
    {
        const json_t *kind =
            json_object_get(property(json_object_get(rule, "if"), "/kind"), "const");

        if (strcmp(json_string_value(kind), "train") != 0)
            continue;
        found = true;
        if (!json_equal(json_object_get(rule, "then"), want))
            fail_msg("%s", lh_json_text(rule, 1));
    }
    assert_true(found);
    json_decref(want);
    json_decref(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_page_has_a_true_row_for_every_member),
        TEST(the_table_is_sound),
        TEST(the_schema_has_every_member_that_is_built),
        TEST(the_schema_requires_what_a_kind_needs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
