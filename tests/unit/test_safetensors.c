/* test_safetensors.c - reading and writing safetensors; headers that lie. */
#include "tests/unit/hostile.h"
#include "worker/formats/safetensors.h"

static void put_st(const char *path, const char *header, const void *data, size_t bytes)
{
    struct bytes b = {0};
    char *text = strdup(header);

    for (char *c = text; *c; c++)
        if (*c == '\'')
            *c = '"';
    put_u64(&b, strlen(text));
    bytes_put(&b, text, strlen(text));
    bytes_put(&b, data, bytes);
    put_bytes(path, b.at, b.n);
    free(text);
    free(b.at);
}

static void tensors_written_are_read_back_with_names_shapes_and_bytes(void **state)
{
    const struct st_entry entries[] = {{"b", ST_F32, 2, {2, 3}},
                                       {"a", ST_I64, 1, {2}},
                                       {"scalar", ST_U8, 0, {0}},
                                       {"none", ST_F16, 1, {0}}};
    const float b[6] = {1, 2, 3, 4, 5, 6};
    const int64_t a[2] = {-7, 1ll << 40};
    char *dir = scratch_new();
    const char *path = in_dir(dir, "x.safetensors");
    json_t *meta = json_of("{'format':'pt'}");
    struct st_writer *w;
    struct st_file *f;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(st_create(path, entries, 4, meta, &w, &err), 0);
    assert_int_equal(st_write(w, b, 8, &err), 0); /* in pieces that are no tensors */
    assert_int_equal(st_write(w, b + 2, 16, &err), 0);
    assert_int_equal(st_write(w, a, 16, &err), 0);
    assert_int_equal(st_write(w, "\x2a", 1, &err), 0);
    assert_int_equal(st_finish(w, &err), 0);
    assert_int_equal(st_open(path, &f, &err), 0);
    assert_int_equal(st_count(f), 4);
    assert_string_equal(st_at(f, 0)->name, "b");
    assert_null(st_at(f, 4));
    assert_int_equal(st_find(f, "b")->shape[1], 3);
    assert_memory_equal(st_find(f, "b")->data, b, sizeof(b));
    assert_memory_equal(st_find(f, "a")->data, a, sizeof(a));
    assert_int_equal(st_find(f, "scalar")->n, 1);
    assert_int_equal(st_find(f, "none")->bytes, 0);
    assert_null(st_find(f, "c"));
    assert_string_equal(st_metadata(f, "format"), "pt");
    assert_null(st_metadata(f, "other"));
    st_close(f);
    json_decref(meta);
    scratch_free(dir);
}

static void a_writer_refuses_too_many_and_too_few_bytes(void **state)
{
    const struct st_entry entry = {"x", ST_F32, 1, {2}};
    char *dir = scratch_new();
    struct st_writer *w;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(st_create(in_dir(dir, "x"), &entry, 1, NULL, &w, &err), 0);
    assert_int_equal(st_write(w, "123456789", 9, &err), LH_EINTERNAL);
    assert_int_equal(st_write(w, "1234", 4, &err), 0);
    assert_int_equal(st_finish(w, &err), LH_EINTERNAL);
    assert_int_equal(st_create(in_dir(dir, "y"), &entry, 1, NULL, &w, &err), 0);
    st_abort(w);
    assert_false(lh_path_exists(in_dir(dir, "y")));
    scratch_free(dir);
}

static void headers_that_lie_are_refused_with_the_tensor_named(void **state)
{
    static const struct {
        const char *header, *says;
    } cases[] = {
        {"{'x':{'dtype':'F32','shape':[2],'data_offsets':[0,4]}}", "8"},
        {"{'x':{'dtype':'F32','shape':[1],'data_offsets':[0,4]}}", "12 bytes at the end"},
        {"{'x':{'dtype':'F32','shape':[3],'data_offsets':[4,16]}}", "hole"},
        {"{'x':{'dtype':'F32','shape':[8],'data_offsets':[0,32]}}", "[0, 32)"},
        {"{'x':{'dtype':'F32','shape':[4],'data_offsets':[0,16]},'y':{'dtype':'F32','shape':[4],'"
         "data_offsets':[0,16]}}",
         "overlaps"},
        {"{'x':{'dtype':'F32','shape':[4],'data_offsets':[16,0]}}", "[16, 0)"},
        {"{'x':{'dtype':'F32','shape':[-4],'data_offsets':[0,16]}}", "dimension 0"},
        {"{'x':{'dtype':'F32','shape':[4.0],'data_offsets':[0,16]}}", "dimension 0"},
        {"{'x':{'dtype':'F32','shape':[4294967296,4294967296],'data_offsets':[0,16]}}",
         "overflows"},
        {"{'x':{'dtype':'F32','shape':[4611686018427387904],'data_offsets':[0,16]}}", "overflows"},
        {"{'x':{'dtype':'F8_E4M3','shape':[16],'data_offsets':[0,16]}}", "F8_E4M3"},
        {"{'x':{'dtype':'F32','shape':[1,1,1,1,1,1,1,1,4],'data_offsets':[0,16]}}", "at most 8"},
        {"{'x':{'dtype':'F32','shape':[4],'data_offsets':[0]}}", "data_offsets"},
        {"{'x':{'dtype':'F32','shape':[4],'data_offsets':[0,16],'z':1}}", "'x'"},
        {"{'x':{'shape':[4],'data_offsets':[0,16]}}", "'x'"},
        {"{'x':[4]}", "'x'"},
        {"{'x':{'dtype':'F32','shape':[4],'data_offsets':[0,16]},'x':1}", "duplicate"},
        {"{'__metadata__':{'a':1},'x':{'dtype':'F32','shape':[4],'data_offsets':[0,16]}}", "'a'"},
        {"{'x':{'dtype':'F32','shape':[[[[[4]]]]],'data_offsets':[0,16]}}", "nested"},
        {"[]", "cut short or no"},
        {"", "no header"},
    };
    const float data[4] = {0};
    char *dir = scratch_new();
    const char *path = in_dir(dir, "bad.safetensors");

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        struct st_file *f = NULL;
        struct lh_err err = {0};

        put_st(path, cases[i].header, data, sizeof(data));
        assert_refused(st_open(path, &f, &err), &err, path);
        assert_int_equal(err.code, LH_EINPUT);
        if (!strstr(err.text, cases[i].says))
            fail_msg("case %u: %s", i, err.text);
    }
    scratch_free(dir);
}

static void a_header_length_beyond_the_file_is_refused(void **state)
{
    static const uint64_t lengths[] = {9, 101u << 20, UINT64_MAX, UINT64_MAX - 7,
                                       (uint64_t)INT64_MAX};
    char *dir = scratch_new();
    const char *path = in_dir(dir, "bad.safetensors");

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(lengths); i++) {
        struct bytes b = {0};
        struct st_file *f = NULL;
        struct lh_err err = {0};

        put_u64(&b, lengths[i]);
        bytes_put(&b, "{}      ", 8);
        put_bytes(path, b.at, b.n);
        assert_refused(st_open(path, &f, &err), &err, path);
        free(b.at);
    }
    assert_true(st_open(in_dir(dir, "absent"), &(struct st_file *){NULL}, NULL) < 0);
    assert_int_equal(st_open(dir, &(struct st_file *){NULL}, NULL), LH_EINPUT);
    scratch_free(dir);
}

static void use(const char *path, void *arg)
{
    volatile uint8_t sum = 0;
    struct st_file *f;
    struct lh_err err = {0};
    int rc = st_open(path, &f, &err);

    (void)arg;
    if (rc < 0) {
        assert_refused(rc, &err, path);
        return;
    }
    for (unsigned i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);

        assert_ptr_equal(st_find(f, t->name), t);
        for (uint64_t k = 0; k < t->bytes; k++)
            sum = (uint8_t)(sum + ((const uint8_t *)t->data)[k]);
    }
    st_close(f);
}

static void damaged_files_never_crash_the_reader(void **state)
{
    const struct st_entry entries[] = {{"model.a", ST_F32, 2, {2, 3}},
                                       {"model.b", ST_BF16, 3, {1, 5, 1}}};
    const uint8_t data[34] = {1, 2, 3};
    char *dir = scratch_new(), *bytes;
    const char *path = in_dir(dir, "x.safetensors");
    json_t *meta = json_of("{'format':'pt'}");
    struct st_writer *w;
    size_t n;

    (void)state;
    assert_int_equal(st_create(path, entries, 2, meta, &w, NULL), 0);
    assert_int_equal(st_write(w, data, sizeof(data), NULL), 0);
    assert_int_equal(st_finish(w, NULL), 0);
    assert_int_equal(lh_read_file(path, 1 << 20, &bytes, &n, NULL), 0);
    hostile_each(path, bytes, n, n, 4000, use, NULL);
    free(bytes);
    json_decref(meta);
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(tensors_written_are_read_back_with_names_shapes_and_bytes),
        TEST(a_writer_refuses_too_many_and_too_few_bytes),
        TEST(headers_that_lie_are_refused_with_the_tensor_named),
        TEST(a_header_length_beyond_the_file_is_refused),
        TEST(damaged_files_never_crash_the_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
