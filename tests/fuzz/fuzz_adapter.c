/* fuzz_adapter.c - any bytes as a PEFT directory: adapter_config.json up to the first zero byte,
 * adapter_model.safetensors behind it. Refused, or every tensor can be asked for and read.
 */
#include "proto/base/arena.h"
#include "tests/fuzz/fuzz_file.h"
#include "worker/formats/peft.h"
#include "worker/model/params.h"

#define ARENA_MAX ((size_t)1 << 20)

static void use_tensors(const struct peft_adapter *a)
{
    for (unsigned i = 0; i < st_count(a->weights); i++) {
        const struct st_tensor *t = st_at(a->weights, i), *found = NULL;
        int64_t rows = t->n_dims > 0 ? t->shape[0] : 1, cols = t->n_dims > 1 ? t->shape[1] : 0;
        float *values;

        if (peft_find(a, t->name, rows, cols, &found, NULL) < 0)
            continue;
        FUZZ_ASSERT(found == t && t->n <= (int64_t)t->bytes);
        values = malloc((size_t)t->n * sizeof(*values) + 1);
        FUZZ_ASSERT(values);
        peft_values(t, 0, t->n, KN_F32, values);
        peft_values(t, t->n / 2, t->n - t->n / 2, KN_BF16, values);
        free(values);
        FUZZ_ASSERT(peft_find(a, t->name, rows + 1, cols, &found, NULL) < 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    struct params_spec spec;
    struct peft_adapter a;
    struct lh_arena arena;

    (void)fuzz_file("adapter_config.json", data, n);
    (void)fuzz_file("adapter_model.safetensors", zero ? zero + 1 : data, zero ? size - n - 1 : 0);
    if (peft_open(fuzz_folder(), &a, NULL) < 0)
        return 0;
    use_tensors(&a);
    lh_arena_init(&arena, ARENA_MAX);
    if (params_spec_adapter(&a, KN_BF16, &arena, &spec, NULL) == 0) {
        FUZZ_ASSERT(spec.rank >= 1 && spec.alpha == spec.alpha);
        FUZZ_ASSERT(params_rank(&spec, "model.layers.0.self_attn.q_proj") >= 1);
    }
    lh_arena_release(&arena);
    peft_close(&a);
    return 0;
}
