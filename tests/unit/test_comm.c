/* test_comm.c - sums, maxima and broadcasts over ranks; run alone and under mpirun with 2 and 4
 * ranks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/parallel/comm.h"

static struct comm *comm;

/* What rank r holds at i: magnitudes differ by 2^24, so that another order of adding gives other
 * bits. */
static double value(int r, int64_t i)
{
    uint64_t h = ((uint64_t)i * 2654435761u + (uint64_t)r * 40503u + 1) * 0x9e3779b97f4a7c15u;

    return ldexp((double)(h >> 40) / 16777216.0 - 0.5, (int)(h >> 8 & 31) - 16);
}

static void sums_of_floats_have_the_bits_of_adding_in_rank_order(void **state)
{
    static const int64_t sizes[] = {0, 1, 2, 3, 5, 17, 4099, 1 << 20, 5000003};
    struct lh_err err = {0};

    (void)state;
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        int64_t n = sizes[k];
        float *x = malloc(((size_t)n + 1) * sizeof(*x));

        assert_non_null(x);
        for (int64_t i = 0; i < n; i++)
            x[i] = (float)value(comm->rank, i);
        x[n] = 42.0f;
        assert_int_equal(comm->ops->sum_f32(comm, x, n, &err), 0);
        for (int64_t i = 0; i < n; i++) {
            float want = (float)value(0, i);

            for (int r = 1; r < comm->size; r++)
                want += (float)value(r, i);
            if (memcmp(&want, &x[i], sizeof(want)) != 0)
                fail_msg("n %lld, element %lld: %a, want %a", (long long)n, (long long)i,
                         (double)x[i], (double)want);
        }
        assert_true(x[n] == 42.0f);
        free(x);
    }
}

static void a_rank_that_sums_its_part_leaves_the_others_as_they_were(void **state)
{
    static const int64_t sizes[] = {0, 1, 17, 64, 4099, 5000003};
    struct lh_err err = {0};

    (void)state;
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        int64_t n = sizes[k];
        struct comm_part own = comm_part(n, comm->size, comm->rank);
        float *x = malloc(((size_t)n + 1) * sizeof(*x));

        assert_non_null(x);
        for (int64_t i = 0; i < n; i++)
            x[i] = (float)value(comm->rank, i);
        assert_int_equal(comm->ops->sum_part_f32(comm, x, n, &err), 0);
        for (int64_t i = 0; i < n; i++) {
            bool mine = i >= own.first && i < own.first + own.n;
            float want = (float)value(mine ? 0 : comm->rank, i);

            for (int r = 1; mine && r < comm->size; r++)
                want += (float)value(r, i);
            if (memcmp(&want, &x[i], sizeof(want)) != 0)
                fail_msg("n %lld, element %lld: %a, want %a", (long long)n, (long long)i,
                         (double)x[i], (double)want);
        }
        free(x);
    }
}

static void parts_cover_a_vector_and_are_gathered_on_every_rank(void **state)
{
    static const int64_t sizes[] = {0, 1, 15, 16, 33, 100, 4099, 600001};
    struct lh_err err = {0};

    (void)state;
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        int64_t n = sizes[k], next = 0;
        uint16_t *x = calloc((size_t)n + 1, sizeof(*x));

        assert_non_null(x);
        for (int r = 0; r < comm->size; r++) {
            struct comm_part part = comm_part(n, comm->size, r);

            assert_int_equal(part.first, next);
            assert_true(part.n == 0 || part.first % COMM_PART_ALIGN == 0);
            next += part.n;
            for (int64_t i = part.first; r == comm->rank && i < next; i++)
                x[i] = (uint16_t)(i * 7 + r + 1);
        }
        assert_int_equal(next, n);
        assert_int_equal(comm->ops->gather_parts(comm, x, n, sizeof(*x), &err), 0);
        for (int r = 0; r < comm->size; r++) {
            struct comm_part part = comm_part(n, comm->size, r);

            for (int64_t i = part.first; i < part.first + part.n; i++)
                assert_int_equal(x[i], (uint16_t)(i * 7 + r + 1));
        }
        assert_int_equal(x[n], 0);
        free(x);
    }
}

static void sums_of_doubles_have_the_bits_of_adding_in_rank_order(void **state)
{
    static const int64_t sizes[] = {0, 1, 3, 1001, 600001};
    struct lh_err err = {0};

    (void)state;
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        int64_t n = sizes[k];
        double *x = malloc(((size_t)n + 1) * sizeof(*x));

        assert_non_null(x);
        for (int64_t i = 0; i < n; i++)
            x[i] = value(comm->rank, i) / 3.0;
        assert_int_equal(comm->ops->sum_f64(comm, x, n, &err), 0);
        for (int64_t i = 0; i < n; i++) {
            double want = value(0, i) / 3.0;

            for (int r = 1; r < comm->size; r++)
                want += value(r, i) / 3.0;
            assert_memory_equal(&want, &x[i], sizeof(want));
        }
        free(x);
    }
}

static void maxima_and_broadcasts_reach_every_rank(void **state)
{
    int64_t x[3] = {comm->rank, -comm->rank, INT64_MIN + comm->rank};
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(comm->ops->max_i64(comm, x, 3, &err), 0);
    assert_true(x[0] == comm->size - 1);
    assert_true(x[1] == 0);
    assert_true(x[2] == INT64_MIN + comm->size - 1);
    for (int root = 0; root < comm->size; root++) {
        char text[24] = ".....";

        if (comm->rank == root)
            (void)snprintf(text, sizeof(text), "from %d", root);
        assert_int_equal(comm->ops->broadcast(comm, text, sizeof(text), root, &err), 0);
        assert_int_equal(atoi(text + 5), root);
    }
    assert_int_equal(comm->ops->barrier(comm, &err), 0);
}

static void every_rank_knows_its_place(void **state)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");

    (void)state;
    assert_int_equal(comm->size, size ? atoi(size) : 1);
    assert_in_range(comm->rank, 0, comm->size - 1);
    assert_int_equal(comm->local_size, comm->size); /* one machine here */
    assert_int_equal(comm->local_rank, comm->rank);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_of_floats_have_the_bits_of_adding_in_rank_order),
        cmocka_unit_test(a_rank_that_sums_its_part_leaves_the_others_as_they_were),
        cmocka_unit_test(parts_cover_a_vector_and_are_gathered_on_every_rank),
        cmocka_unit_test(sums_of_doubles_have_the_bits_of_adding_in_rank_order),
        cmocka_unit_test(maxima_and_broadcasts_reach_every_rank),
        cmocka_unit_test(every_rank_knows_its_place),
    };
    struct lh_err err = {0};
    int failed;

    if (comm_mpi_new(&argc, &argv, &comm, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm->ops->free(comm);
    return failed;
}
