/* test_config.c - longhauld.yaml as it is shipped says the truth: every key is in it, with its
 * default. */
#include "tests/unit/unit.h"

#include "daemon/coordinator/config_yaml.c" /* for its tables of keys */
#include "proto/base/buf.h"

/* The file as it is installed. */
static char *shipped(void)
{
    static const char directory[] = "@LH_CONFDIR@", installed[] = "/etc/longhaul";
    char *text = NULL;
    struct lh_buf b;
    size_t len;

    assert_int_equal(lh_read_file(LH_SOURCE_DIR "/deploy/config/longhauld.yaml.in", CONFIG_FILE_MAX,
                                  &text, &len, NULL),
                     0);
    lh_buf_init(&b, CONFIG_FILE_MAX);
    for (const char *from = text; *from;) {
        const char *at = strstr(from, directory);
        size_t n = at ? (size_t)(at - from) : strlen(from);

        assert_int_equal(lh_buf_printf(&b, "%.*s%s", (int)n, from, at ? installed : ""), 0);
        from += n + (at ? strlen(directory) : 0);
    }
    free(text);
    return b.data;
}

/* Whether a line begins with "KEY:", or with "#KEY:" for one that has no default, after so many
 * spaces. */
static bool listed(const char *text, const char *indent, const char *key)
{
    char line[2][80];

    (void)snprintf(line[0], sizeof(line[0]), "\n%s%s:", indent, key);
    (void)snprintf(line[1], sizeof(line[1]), "\n%s#%s:", indent, key);
    return strstr(text, line[0]) || strstr(text, line[1]);
}

static void expect_listed(const char *text, const char *indent, const cyaml_schema_field_t *fields)
{
    for (const cyaml_schema_field_t *f = fields; f->key; f++)
        if (!listed(text, indent, f->key))
            fail_msg("deploy/config/longhauld.yaml.in does not list %s%s", indent, f->key);
}

static void every_key_is_listed(void **state)
{
    char *text = shipped();

    (void)state;
    for (const cyaml_schema_field_t *f = config_fields; f->key; f++)
        if (f->value.type == CYAML_MAPPING)
            expect_listed(text, "  ", f->value.mapping.fields);
    expect_listed(text, "", config_fields);
    free(text);
}

static void the_file_gives_the_defaults(void **state)
{
    struct config defaults, c;
    char *text = shipped();
    struct lh_err err;

    (void)state;
    config_init(&defaults);
    config_init(&c);
    defaults.state = strdup("/var/lib/longhaul");
    c.state = strdup("/var/lib/longhaul");
    if (config_yaml(&c, text, strlen(text), "longhauld.yaml", &err) < 0 ||
        config_finish(&c, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(config_finish(&defaults, NULL), 0);

    assert_int_equal(c.auth, HTTP_AUTH_TOKEN); /* what the service begins with */
    assert_string_equal(c.token_file, "/etc/longhaul/tokens");

    assert_string_equal(c.listen, defaults.listen);
    assert_string_equal(c.ports, defaults.ports);
    assert_string_equal(c.store, defaults.store);
    assert_null(c.tls_cert);
    assert_int_equal(c.standalone, defaults.standalone);
    assert_int_equal(c.insecure, defaults.insecure);
    assert_int_equal(c.realtime, defaults.realtime);
    assert_int_equal(c.slots, defaults.slots);
    assert_int_equal(c.heartbeat_ms, defaults.heartbeat_ms);
    assert_int_equal(c.tick_ms, defaults.tick_ms);
    assert_int_equal(c.reserve_bytes, defaults.reserve_bytes);
    assert_int_equal(c.body_max_bytes, defaults.body_max_bytes);
    assert_int_equal(c.connections_max, defaults.connections_max);
    assert_int_equal(c.request_ms, defaults.request_ms);
    assert_int_equal(c.idle_ms, defaults.idle_ms);
    c.core.store = defaults.core.store = NULL;
    c.core.ports = defaults.core.ports = NULL;
    assert_memory_equal(&c.core, &defaults.core, sizeof(c.core));
    config_release(&c);
    config_release(&defaults);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_key_is_listed),
        TEST(the_file_gives_the_defaults),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
