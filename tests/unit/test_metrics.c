/* test_metrics.c - the registry's text form. */
#include "daemon/coordinator/metrics/metrics.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *text_of(struct metrics *m)
{
    struct lh_buf b;

    lh_buf_init(&b, 1 << 20);
    assert_int_equal(metrics_write(m, &b), 0);
    return b.data ? lh_buf_take(&b) : strdup("");
}

static void counters_add_up_by_label(void **state)
{
    struct metrics *m = metrics_new();
    struct metrics_family *f = metrics_family(m, METRICS_COUNTER, "x_total", "Xs.");
    char *text;

    (void)state;
    metrics_add(f, "code=\"200\"", 1);
    metrics_add(f, "code=\"404\"", 1);
    metrics_add(f, "code=\"200\"", 2);
    assert_ptr_equal(metrics_family(m, METRICS_COUNTER, "x_total", "again"), f);
    text = text_of(m);
    assert_string_equal(text, "# HELP x_total Xs.\n# TYPE x_total counter\n"
                              "x_total{code=\"200\"} 3\nx_total{code=\"404\"} 1\n");
    free(text);
    metrics_free(m);
}

static void a_family_without_samples_is_not_written(void **state)
{
    struct metrics *m = metrics_new();
    char *text;

    (void)state;
    (void)metrics_family(m, METRICS_GAUGE, "empty", "Nothing.");
    text = text_of(m);
    assert_string_equal(text, "");
    free(text);
    metrics_free(m);
}

static void histogram_buckets_are_cumulative(void **state)
{
    struct metrics *m = metrics_new();
    struct metrics_family *f = metrics_family(m, METRICS_HISTOGRAM, "t_seconds", "Times.");
    char *text;

    (void)state;
    metrics_buckets(f, (const double[]){0.1, 1}, 2);
    metrics_observe(f, "", 0.1);
    metrics_observe(f, "", 0.5);
    metrics_observe(f, "", 7);
    text = text_of(m);
    assert_string_equal(text,
                        "# HELP t_seconds Times.\n# TYPE t_seconds histogram\n"
                        "t_seconds_bucket{le=\"0.1\"} 1\nt_seconds_bucket{le=\"1\"} 2\n"
                        "t_seconds_bucket{le=\"+Inf\"} 3\nt_seconds_sum 7.6\nt_seconds_count 3\n");
    free(text);
    metrics_free(m);
}

static void label_values_are_escaped_and_cut_to_whole_pairs(void **state)
{
    char buf[64];

    (void)state;
    assert_string_equal(metrics_labels(buf, sizeof(buf), 2, (const char *[]){"a", "b"},
                                       (const char *[]){"q\"\\\n", "v"}),
                        "a=\"q\\\"\\\\\\n\",b=\"v\"");
    assert_string_equal(metrics_labels(buf, 12, 2, (const char *[]){"a", "b"},
                                       (const char *[]){"123", "456789012"}),
                        "a=\"123\"");
}

static void a_full_registry_drops_and_counts(void **state)
{
    struct metrics *m = metrics_new();
    struct metrics_family *f = metrics_family(m, METRICS_GAUGE, "g", "G.");
    char labels[32];
    char *text;

    (void)state;
    for (int i = 0; i < METRICS_SERIES_MAX + 5; i++) {
        (void)snprintf(labels, sizeof(labels), "i=\"%d\"", i);
        metrics_set(f, labels, i);
    }
    text = text_of(m);
    assert_non_null(strstr(text, "longhaul_metrics_dropped_total 5\n"));
    assert_null(strstr(text, "i=\"4096\""));
    free(text);
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counters_add_up_by_label),
        cmocka_unit_test(a_family_without_samples_is_not_written),
        cmocka_unit_test(histogram_buckets_are_cumulative),
        cmocka_unit_test(label_values_are_escaped_and_cut_to_whole_pairs),
        cmocka_unit_test(a_full_registry_drops_and_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
