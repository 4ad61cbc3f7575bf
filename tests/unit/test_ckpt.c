/* test_ckpt.c - checkpoints: what is saved comes back, whole or not at all, and only for the job it
 * belongs to.
 *
 * Started as `test_ckpt save OUT STEP` it saves one checkpoint and exits: that is the process which
 * the tests kill.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/fs.h"
#include "worker/ckpt/ckpt.h"

#define VOCAB 12
#define HIDDEN 8
#define RANK 4
#define N_PARAMS 4
#define FLOATS_MAX (VOCAB * HIDDEN)

/* A model of four parameters, three of which train. */
struct fixture {
    struct lh_job *job;
    struct comm *comm;
    struct kn_stream *stream;
    struct run run;
    struct params params;
    struct param at[N_PARAMS];
    float master[N_PARAMS][FLOATS_MAX], m[N_PARAMS][FLOATS_MAX], v[N_PARAMS][FLOATS_MAX];
    struct model_config config;
    struct rope_config rope;
};

static char root[] = "/tmp/test-ckpt-XXXXXX", program[1024];

static void parameter(struct fixture *f, unsigned i, enum param_role role, const char *key,
                      int64_t rows, int64_t cols)
{
    struct param *p = &f->at[i];

    *p = (struct param){.role = role,
                        .of = role,
                        .rows = rows,
                        .cols = cols,
                        .n = rows * (cols ? cols : 1),
                        .trains = true};
    (void)snprintf(p->key, sizeof(p->key), "%s", key);
    (void)snprintf(p->name, sizeof(p->name), "%s", key);
    p->master = f->master[i];
    p->m = f->m[i];
    p->v = f->v[i];
    p->w = kn_mat(p->master, KN_F32, cols ? rows : 1, cols ? cols : rows);
}

static float value(int64_t step, unsigned i, int which, int64_t k)
{
    return (float)(step * 1000 + i * 100 + (unsigned)which * 10) + (float)k / 3.0f;
}

static void set_values(struct fixture *f, int64_t step)
{
    for (unsigned i = 0; i < N_PARAMS; i++)
        for (int64_t k = 0; k < FLOATS_MAX; k++) {
            f->master[i][k] = value(step, i, 0, k);
            f->m[i][k] = value(step, i, 1, k);
            f->v[i][k] = value(step, i, 2, k);
        }
}

static struct lh_job *make_job(int64_t length, int64_t keep)
{
    json_t *spec =
        json_pack("{s:s, s:{s:s}, s:{s:I}, s:{s:[s]}, s:{s:f, s:i, s:i}, s:{s:I}}", "kind", "train",
                  "model", "base", "/models/tiny", "context", "length", (json_int_t)length, "data",
                  "train", "/data/a.txt", "optim", "lr", 1e-3, "steps", 10, "batch_sequences", 2,
                  "checkpoint", "keep", (json_int_t)keep);
    struct lh_job *job = NULL;
    struct lh_err err = {0};

    if (lh_job_parse(spec, &job, NULL, &err) < 0)
        (void)fprintf(stderr, "%s: %s\n", err.pointer, err.text);
    json_decref(spec);
    return job;
}

static struct fixture *fixture_new(const char *out, int64_t keep)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct lh_err err = {0};

    f->job = make_job(64, keep);
    if (!f->job || comm_self_new(&f->comm, &err) < 0 ||
        kn_reference_ops.stream_new(1, &f->stream, &err) < 0)
        abort();
    f->run = (struct run){.job = f->job,
                          .comm = f->comm,
                          .ops = &kn_reference_ops,
                          .stream = f->stream,
                          .out_dir = out,
                          .threads = 1};
    (void)snprintf(f->run.model_digest, sizeof(f->run.model_digest), "%064d", 7);
    (void)snprintf(f->run.data_digest, sizeof(f->run.data_digest), "%064d", 8);
    parameter(f, 0, PARAM_EMBED, "base_model.model.model.embed_tokens.weight", VOCAB, HIDDEN);
    parameter(f, 1, PARAM_NORM_FINAL, "base_model.model.model.norm.weight", HIDDEN, 0);
    parameter(f, 2, PARAM_LORA_A, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
              RANK, HIDDEN);
    parameter(f, 3, PARAM_Q, "model.layers.0.self_attn.q_proj.weight", HIDDEN, HIDDEN);
    f->at[3].trains = false;
    f->params = (struct params){.at = f->at, .n = N_PARAMS};
    f->config = (struct model_config){
        .n_layers = 1, .hidden = HIDDEN, .vocab = VOCAB, .max_positions = 64, .tied = true};
    f->rope = (struct rope_config){.type = LH_ROPE_LINEAR, .theta = 10000, .factor = 2};
    return f;
}

static void fixture_free(struct fixture *f)
{
    kn_reference_ops.stream_free(f->stream);
    f->comm->ops->free(f->comm);
    lh_job_free(f->job);
    free(f);
}

static int save(struct fixture *f, int64_t step, char path[static 1024], struct lh_err *err)
{
    struct train_state state = {
        .step = step, .tokens = step * 128, .train_seconds = 0.1 * (double)step, .last_loss = 2.5};

    set_values(f, step);
    return ckpt_save(&f->run, &f->params, &f->config, &f->rope, &state, path, NULL, err);
}

static int save_in_this_process(const char *out, int64_t step)
{
    struct fixture *f = fixture_new(out, 3);
    struct lh_err err = {0};
    char path[1024];
    int rc;

    if (getenv("TEST_FILE_LIMIT")) { /* writes beyond it fail, as on a full disk */
        struct rlimit limit = {(rlim_t)atoi(getenv("TEST_FILE_LIMIT")),
                               (rlim_t)atoi(getenv("TEST_FILE_LIMIT"))};

        (void)signal(SIGXFSZ, SIG_IGN);
        (void)setrlimit(RLIMIT_FSIZE, &limit);
    }
    rc = save(f, step, path, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    fixture_free(f);
    return rc < 0 ? 1 : 0;
}

/* Saves in a process of its own, with one more setting in its environment; returns its wait status.
 */
static int save_in_child(const char *out, int64_t step, const char *name, const char *setting)
{
    char number[24];
    pid_t pid = fork();
    int status = -1;

    if (pid == 0) {
        (void)snprintf(number, sizeof(number), "%lld", (long long)step);
        if (name)
            (void)setenv(name, setting, 1);
        (void)execl(program, program, "save", out, number, (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static const char *fresh(const char *name, char out[static 1024])
{
    (void)snprintf(out, 1024, "%s/%.100s", root, name);
    assert_int_equal(lh_mkdir_p(out, NULL), 0);
    return out;
}

static int64_t newest(const char *out, char path[static 1024])
{
    char dir[1100];

    (void)snprintf(dir, sizeof(dir), "%s/checkpoints", out);
    if (ckpt_newest(dir, path, NULL) < 0)
        return -1;
    return atoll(strrchr(path, '-') + 1);
}

static void loads(const char *out, const char *path, int64_t step)
{
    struct fixture *f = fixture_new(out, 3);
    struct train_state state = {0};
    struct lh_err err = {0};

    if (ckpt_load(&f->run, path, &f->params, &state, &err) < 0)
        fail_msg("%s: %s", path, err.text);
    assert_int_equal(state.step, step);
    assert_int_equal(state.tokens, step * 128);
    assert_true(state.train_seconds == 0.1 * (double)step);
    assert_true(state.last_loss == 2.5);
    for (unsigned i = 0; i < N_PARAMS; i++)
        for (int64_t k = 0; k < f->at[i].n; k++) {
            bool trains = f->at[i].trains;

            assert_true(f->master[i][k] == (trains ? value(step, i, 0, k) : 0));
            assert_true(f->m[i][k] == (trains ? value(step, i, 1, k) : 0));
            assert_true(f->v[i][k] == (trains ? value(step, i, 2, k) : 0));
        }
    fixture_free(f);
}

static int refusal(const char *path, const char *out, int64_t length, struct lh_err *err)
{
    struct fixture *f = fixture_new(out, 3);
    struct train_state state = {0};
    int rc;

    lh_job_free(f->job);
    f->job = make_job(length, 3);
    f->run.job = f->job;
    rc = ckpt_load(&f->run, path, &f->params, &state, err);
    assert_int_equal(state.step, 0);
    fixture_free(f);
    return rc;
}

static void what_was_saved_comes_back_bit_for_bit(void **unused)
{
    char out[1024], path[1024];

    (void)unused;
    fresh("roundtrip", out);
    assert_int_equal(save_in_child(out, 5, NULL, NULL), 0);
    assert_int_equal(newest(out, path), 5);
    loads(out, path, 5);
}

static void a_kill_at_any_point_leaves_the_newest_whole_one(void **unused)
{
    static const struct {
        const char *point;
        int64_t newest;
    } cases[] = {
        {"ckpt.after_adapter", 1}, {"ckpt.before_manifest", 1},    {"ckpt.before_rename", 1},
        {"ckpt.after_rename", 2},  {"ckpt.before_parent_sync", 2},
    };
    char out[1024], path[1024], dir[1100], name[64];
    struct dirent *entry;
    DIR *d;

    (void)unused;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int status;

        (void)snprintf(name, sizeof(name), "kill-%zu", i);
        fresh(name, out);
        assert_int_equal(save_in_child(out, 1, NULL, NULL), 0);
        status = save_in_child(out, 2, "LONGHAUL_FAULT", cases[i].point);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(newest(out, path), cases[i].newest);
        loads(out, path, cases[i].newest);
        /* The next save takes what was left away. */
        assert_int_equal(save_in_child(out, 3, NULL, NULL), 0);
        assert_int_equal(newest(out, path), 3);
        loads(out, path, 3);
        (void)snprintf(dir, sizeof(dir), "%s/checkpoints", out);
        d = opendir(dir);
        assert_non_null(d);
        while ((entry = readdir(d)))
            assert_null(strstr(entry->d_name, ".tmp"));
        (void)closedir(d);
    }
}

static void a_write_that_fails_leaves_the_older_one_and_no_remains(void **unused)
{
    char out[1024], path[1024], tmp[1100];
    int status;

    (void)unused;
    fresh("full", out);
    assert_int_equal(save_in_child(out, 1, NULL, NULL), 0);
    status = save_in_child(out, 2, "TEST_FILE_LIMIT", "600");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    assert_int_equal(newest(out, path), 1);
    loads(out, path, 1);
    (void)snprintf(tmp, sizeof(tmp), "%s/checkpoints/step-00000002.tmp", out);
    assert_false(lh_path_exists(tmp));
}

static void flip_a_byte(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    off_t at = lseek(fd, 0, SEEK_END) - 3;
    char byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte = (char)(byte ^ 1);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    assert_int_equal(close(fd), 0);
}

/* CKPT-18. */
static void a_file_that_was_changed_is_refused_by_name(void **unused)
{
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors",
                                        "optimizer.safetensors", "state.json"};
    char out[1024], path[1024], file[1200];

    (void)unused;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct lh_err err = {0};

        (void)snprintf(file, sizeof(file), "tampered-%zu", i);
        fresh(file, out);
        assert_int_equal(save_in_child(out, 4, NULL, NULL), 0);
        assert_int_equal(newest(out, path), 4);
        (void)snprintf(file, sizeof(file), "%s/%s", path, files[i]);
        flip_a_byte(file);
        assert_int_equal(refusal(path, out, 64, &err), LH_EINPUT);
        assert_non_null(strstr(err.text, files[i]));
        assert_int_equal(unlink(file), 0);
        assert_int_equal(refusal(path, out, 64, &err), LH_EINPUT);
        assert_non_null(strstr(err.text, files[i]));
    }
    (void)snprintf(file, sizeof(file), "%s/manifest.json", path);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(newest(out, path), -1);
}

static void a_checkpoint_of_another_job_is_refused_with_member_and_values(void **unused)
{
    char out[1024], path[1024];
    struct lh_err err = {0};
    struct fixture *f;
    struct train_state state;

    (void)unused;
    fresh("other", out);
    assert_int_equal(save_in_child(out, 4, NULL, NULL), 0);
    assert_int_equal(newest(out, path), 4);
    assert_int_equal(refusal(path, out, 128, &err), LH_EINPUT);
    assert_string_equal(err.pointer, "/context/length");
    assert_non_null(strstr(err.text, "64"));
    assert_non_null(strstr(err.text, "128"));

    f = fixture_new(out, 3);
    f->run.model_digest[0] = 'a';
    assert_int_equal(ckpt_load(&f->run, path, &f->params, &state, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "base model"));
    f->run.model_digest[0] = '0';
    f->run.data_digest[0] = 'a';
    assert_int_equal(ckpt_load(&f->run, path, &f->params, &state, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "training data"));
    f->run.data_digest[0] = '0';
    f->at[2].rows = RANK - 1; /* a LoRA rank that the file has not */
    f->at[2].n = (RANK - 1) * HIDDEN;
    assert_int_equal(ckpt_load(&f->run, path, &f->params, &state, &err), LH_EINPUT);
    assert_non_null(strstr(err.text, "q_proj.lora_A.weight"));
    fixture_free(f);
}

static void the_oldest_beyond_keep_are_removed(void **unused)
{
    char out[1024], path[1024], file[1100];
    struct lh_err err = {0};
    struct fixture *f;

    (void)unused;
    fresh("keep", out);
    f = fixture_new(out, 2);
    for (int64_t step = 1; step <= 4; step++)
        assert_int_equal(save(f, step, path, &err), 0);
    for (int64_t step = 1; step <= 4; step++) {
        (void)snprintf(file, sizeof(file), "%s/checkpoints/step-%08lld", out, (long long)step);
        assert_int_equal(lh_is_dir(file), step > 2);
    }
    fixture_free(f);
}

static void put_empty(const char *path)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
}

static void a_step_that_is_saved_again_replaces_the_first(void **unused)
{
    char out[1024], path[1024], extra[1100];

    (void)unused;
    fresh("again", out);
    assert_int_equal(save_in_child(out, 6, NULL, NULL), 0);
    assert_int_equal(newest(out, path), 6);
    (void)snprintf(extra, sizeof(extra), "%s/of-the-first", path);
    put_empty(extra);
    assert_int_equal(save_in_child(out, 6, NULL, NULL), 0);
    assert_false(lh_path_exists(extra));
    loads(out, path, 6);
}

static void what_a_killed_save_of_the_same_step_left_is_no_part_of_the_next(void **unused)
{
    char out[1024], path[1024], left[1100];
    int status;

    (void)unused;
    fresh("stale", out);
    status = save_in_child(out, 2, "LONGHAUL_FAULT", "ckpt.before_manifest");
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    (void)snprintf(left, sizeof(left), "%s/checkpoints/step-00000002.tmp/of-the-killed", out);
    put_empty(left);
    assert_int_equal(save_in_child(out, 2, NULL, NULL), 0);
    assert_int_equal(newest(out, path), 2);
    (void)snprintf(left, sizeof(left), "%s/of-the-killed", path);
    assert_false(lh_path_exists(left));
    loads(out, path, 2);
}

static int clean(void **unused)
{
    (void)unused;
    return lh_remove_tree(root, NULL);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_saved_comes_back_bit_for_bit),
        cmocka_unit_test(a_kill_at_any_point_leaves_the_newest_whole_one),
        cmocka_unit_test(a_write_that_fails_leaves_the_older_one_and_no_remains),
        cmocka_unit_test(a_file_that_was_changed_is_refused_by_name),
        cmocka_unit_test(a_checkpoint_of_another_job_is_refused_with_member_and_values),
        cmocka_unit_test(the_oldest_beyond_keep_are_removed),
        cmocka_unit_test(a_step_that_is_saved_again_replaces_the_first),
        cmocka_unit_test(what_a_killed_save_of_the_same_step_left_is_no_part_of_the_next),
    };

    if (argc == 4 && strcmp(argv[1], "save") == 0)
        return save_in_this_process(argv[2], atoll(argv[3]));
    if (!realpath("/proc/self/exe", program) || !mkdtemp(root))
        return 1;
    return cmocka_run_group_tests(tests, NULL, clean);
}
