/* fuzz_lines.c - any bytes as a .jsonl file of texts: tokenised to the same documents whatever the
 * units it is read in, or refused by name.
 */
#include "tests/fuzz/fuzz_file.h"
#include "worker/data/shards.h"
#include "worker/data/tokenize.h"

#define TOKENIZER LH_SOURCE_DIR "/tests/fixtures/sentencepiece/tokenizer.gguf"
#define FILE_BYTES_MAX ((size_t)16 << 20) /* an id a byte, a separator a line */

static int prepare(const struct tokenizer *t, char *path, size_t unit_bytes, char **ret_tokens,
                   size_t *ret_n, struct lh_err *err)
{
    struct input_list inputs = {.paths = &path, .n = 1};
    struct tokenize_job job = {
        .inputs = &inputs, .tokenizer = t, .field = "text", .threads = 1, .unit_bytes = unit_bytes};
    struct shard_writer w;
    char dir[128], name[192];
    int rc;

    (void)snprintf(dir, sizeof(dir), "%s/shards", fuzz_folder());
    FUZZ_ASSERT(lh_remove_tree(dir, NULL) == 0 && lh_mkdir_p(dir, NULL) == 0);
    FUZZ_ASSERT(shard_writer_open(&w, dir, SHARD_TOKENS, false, NULL) == 0);
    rc = tokenize_inputs(&job, &w, err);
    if (rc < 0) {
        shard_writer_abort(&w);
        return rc;
    }
    FUZZ_ASSERT(shard_writer_finish(&w, NULL) == 0);
    *ret_tokens = NULL;
    *ret_n = 0;
    if (w.n_tokens > 0) {
        (void)snprintf(name, sizeof(name), "%s/" SHARDS_TOKENS_NAME, dir, 0u);
        FUZZ_ASSERT(lh_read_file(name, FILE_BYTES_MAX, ret_tokens, ret_n, NULL) == 0);
        FUZZ_ASSERT(*ret_n == w.n_tokens * sizeof(int32_t));
    }
    FUZZ_ASSERT(w.max_id < tokenizer_vocab(t) && w.n_documents <= w.n_tokens);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t; /* kept for the process */
    struct lh_err err = {0}, again = {0};
    char *whole = NULL, *parts = NULL, path[128];
    size_t n = 0, m = 0;
    int rc;

    if (!t)
        FUZZ_ASSERT(tokenizer_open(TOKENIZER, &t, NULL) == 0);
    (void)snprintf(path, sizeof(path), "%s", fuzz_file("in.jsonl", data, size));
    rc = prepare(t, path, size + 1, &whole, &n, &err);
    FUZZ_ASSERT(prepare(t, path, 1 + size / 5, &parts, &m, &again) == rc);
    if (rc < 0)
        FUZZ_ASSERT(strstr(err.text, "in.jsonl") && strcmp(err.text, again.text) == 0);
    FUZZ_ASSERT(n == m && (n == 0 || memcmp(whole, parts, n) == 0));
    free(whole);
    free(parts);
    return 0;
}
