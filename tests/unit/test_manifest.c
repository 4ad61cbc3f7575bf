/* test_manifest.c - writing, reading and verifying manifests; hostile ones. */
#include "proto/manifest.h"
#include "tests/unit/unit.h"
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIGEST "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* of "abc" */

static char *checkpoint(void)
{
    char *dir = scratch_new();

    put_file(dir, "state.json", "abc");
    put_file(dir, "adapter_config.json", "{}");
    assert_int_equal(lh_mkdir_p(in_dir(dir, "tokenizer"), NULL), 0);
    put_file(dir, "tokenizer/vocab", "");
    return dir;
}

/* CKPT-1, CKPT-5, CKPT-6 */
static void a_manifest_names_every_file_with_size_and_digest(void **state)
{
    json_t *about = json_of("{'step':50}");
    char *dir = checkpoint(), hex[LH_SHA256_HEX];
    struct lh_manifest m, back;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(lh_manifest_write(dir, "checkpoint", about, &m, &err), 0);
    assert_int_equal(m.n_files, 3);
    assert_string_equal(m.files[0].name, "adapter_config.json");
    assert_string_equal(m.files[1].name, "state.json");
    assert_string_equal(m.files[2].name, "tokenizer/vocab");
    assert_string_equal(m.files[1].sha256, DIGEST);
    assert_int_equal(m.bytes, 5);
    assert_int_equal(lh_manifest_read(dir, &back, &err), 0);
    assert_string_equal(back.kind, "checkpoint");
    assert_int_equal(lh_json_i64(back.about, "step", 0), 50);
    assert_int_equal(back.n_files, 3);
    assert_int_equal(back.bytes, 5);
    assert_string_equal(back.sha256, m.sha256);
    assert_int_equal(lh_sha256_file(in_dir(dir, LH_MANIFEST_NAME), hex, NULL, NULL), 0);
    assert_string_equal(hex, m.sha256);
    lh_manifest_release(&m);
    lh_manifest_release(&back);
    assert_int_equal(lh_manifest_write(dir, "checkpoint", about, NULL, &err),
                     0); /* again: not of itself */
    assert_int_equal(lh_manifest_verify(dir, &err), 0);
    json_decref(about);
    scratch_free(dir);
}

static void an_empty_directory_has_a_manifest_without_files(void **state)
{
    char *dir = scratch_new();
    struct lh_manifest m;

    (void)state;
    assert_int_equal(lh_manifest_write(dir, "export", NULL, NULL, NULL), 0);
    assert_int_equal(lh_manifest_read(dir, &m, NULL), 0);
    assert_int_equal(m.n_files, 0);
    lh_manifest_release(&m);
    scratch_free(dir);
}

/* CKPT-2 */
static void a_directory_without_a_manifest_is_not_there(void **state)
{
    char *dir = checkpoint();
    struct lh_manifest m;

    (void)state;
    assert_int_equal(lh_manifest_read(dir, &m, NULL), -ENOENT);
    assert_int_equal(lh_manifest_verify(dir, NULL), -ENOENT);
    scratch_free(dir);
}

/* CKPT-2, CKPT-10: this program again, as `test_manifest --write DIR`, killed between the files and
 * the manifest. */
static void a_death_before_the_manifest_leaves_no_manifest(void **state)
{
    static const char *const points[] = {"manifest.before_write", "fs.before_sync",
                                         "fs.before_rename"};
    char *dir = checkpoint();
    struct lh_manifest m;

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(points); i++) {
        pid_t pid = fork();
        int status = 0;

        assert_true(pid >= 0);
        if (pid == 0) {
            setenv("LONGHAUL_FAULT", points[i], 1);
            execl("/proc/self/exe", "test_manifest", "--write", dir, (char *)NULL);
            _exit(127);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(lh_manifest_read(dir, &m, NULL), -ENOENT);
    }
    scratch_free(dir);
}

/* CKPT-4 */
static void what_differs_is_named(void **state)
{
    char *dir = checkpoint();
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(lh_manifest_write(dir, "checkpoint", NULL, NULL, NULL), 0);
    put_file(dir, "state.json", "abd");
    assert_int_equal(lh_manifest_verify(dir, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "state.json"));
    assert_non_null(strstr(err.text, "SHA-256"));
    put_file(dir, "state.json", "abcd");
    assert_int_equal(lh_manifest_verify(dir, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "4 bytes"));
    assert_int_equal(unlink(in_dir(dir, "state.json")), 0);
    assert_int_equal(lh_manifest_verify(dir, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "missing"));
    scratch_free(dir);
}

static void links_and_pipes_are_not_taken_for_files(void **state)
{
    char *dir = checkpoint();
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(symlink("/etc/passwd", in_dir(dir, "link")), 0);
    assert_int_equal(lh_manifest_write(dir, "checkpoint", NULL, NULL, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "link"));
    assert_false(lh_path_exists(in_dir(dir, LH_MANIFEST_NAME)));
    scratch_free(dir);
}

#define HEAD "{'version':1,'kind':'checkpoint','about':{},"
#define ENTRY(name) "{'name':'" name "','bytes':3,'sha256':'" DIGEST "'}"

/* CKPT-3 */
static void hostile_manifests_are_refused_with_the_reason(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{", "JSON"},
        {"[]", "version"},
        {"{'version':2,'kind':'x','about':{},'bytes':0,'files':[]}", "version"},
        {"{'version':1,'about':{},'bytes':0,'files':[]}", "kind"},
        {"{'version':1,'kind':'012345678901234567890123456789012','about':{},'bytes':0,'files':[]}",
         "kind"},
        {"{'version':1,'kind':'x','bytes':0,'files':[]}", "about"},
        {HEAD "'bytes':0,'files':{}}", "files"},
        {HEAD "'bytes':3,'files':[" ENTRY("../up") "]}", "../up"},
        {HEAD "'bytes':3,'files':[" ENTRY("/etc/passwd") "]}", "/etc/passwd"},
        {HEAD "'bytes':3,'files':[" ENTRY("a/../../b") "]}", "a/../../b"},
        {HEAD "'bytes':3,'files':[" ENTRY("a//b") "]}", "a//b"},
        {HEAD "'bytes':3,'files':[" ENTRY("a/") "]}", "a/"},
        {HEAD "'bytes':3,'files':[" ENTRY("./a") "]}", "./a"},
        {HEAD "'bytes':3,'files':[" ENTRY("..") "]}", ".."},
        {HEAD "'bytes':3,'files':[" ENTRY("") "]}", "relative path"},
        {HEAD "'bytes':3,'files':[" ENTRY("a\\u0007") "]}", "relative path"},
        {HEAD "'bytes':3,'files':[" ENTRY("manifest.json") "]}", "manifest.json"},
        {HEAD "'bytes':6,'files':[" ENTRY("a") "," ENTRY("a") "]}", "twice"},
        {HEAD "'bytes':6,'files':[" ENTRY("b") "," ENTRY("a") "]}", "order"},
        {HEAD "'bytes':4,'files':[" ENTRY("a") "]}", "sum"},
        {HEAD "'bytes':3,'files':[{'name':'a','bytes':-3,'sha256':'" DIGEST "'}]}", "size"},
        {HEAD "'bytes':3,'files':[{'name':'a','bytes':3.0,'sha256':'" DIGEST "'}]}", "size"},
        {HEAD "'bytes':3,'files':[{'name':'a','bytes':3,'sha256':'ABC'}]}", "SHA-256"},
        {HEAD "'bytes':3,'files':[{'name':'a','bytes':3}]}", "SHA-256"},
        {HEAD "'bytes':3,'files':[7]}", "relative path"},
        {HEAD "'bytes':1,'files':[{'name':'a','bytes':9223372036854775807,'sha256':'" DIGEST
              "'},{'name':'b','bytes':2,'sha256':'" DIGEST "'}]}",
         "size"},
    };

    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(cases); i++) {
        struct lh_err err = {0};
        struct lh_manifest m;
        char *text = strdup(cases[i].text);

        for (char *c = text; *c; c++)
            if (*c == '\'')
                *c = '"';
        if (lh_manifest_parse(text, strlen(text), "from afar", &m, &err) != LH_EINPUT)
            fail_msg("case %zu was taken: %s", i, text);
        if (!strstr(err.text, cases[i].says) || !strstr(err.text, "from afar"))
            fail_msg("case %zu says: %s", i, err.text);
        free(text);
    }
}

static void too_many_files_are_refused(void **state)
{
    json_t *json = json_of(HEAD "'bytes':0,'files':[]}"), *files = json_object_get(json, "files");
    struct lh_manifest m;
    char *text;

    (void)state;
    for (int i = 0; i <= LH_MANIFEST_FILES_MAX; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "f%05d", i);
        json_array_append_new(
            files, json_pack("{s:s, s:i, s:s}", "name", name, "bytes", 0, "sha256", DIGEST));
    }
    text = lh_json_text(json, 0);
    assert_int_equal(lh_manifest_parse(text, strlen(text), "x", &m, NULL), LH_EINPUT);
    free(text);
    json_array_remove(files, 0);
    text = lh_json_text(json, 0);
    assert_int_equal(lh_manifest_parse(text, strlen(text), "x", &m, NULL), 0);
    assert_int_equal(m.n_files, LH_MANIFEST_FILES_MAX);
    lh_manifest_release(&m);
    free(text);
    json_decref(json);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_manifest_names_every_file_with_size_and_digest),
        TEST(an_empty_directory_has_a_manifest_without_files),
        TEST(a_directory_without_a_manifest_is_not_there),
        TEST(a_death_before_the_manifest_leaves_no_manifest),
        TEST(what_differs_is_named),
        TEST(links_and_pipes_are_not_taken_for_files),
        TEST(hostile_manifests_are_refused_with_the_reason),
        TEST(too_many_files_are_refused),
    };

    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return lh_manifest_write(argv[2], "checkpoint", NULL, NULL, NULL) == 0 ? 0 : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
