/* fuzz_safetensors.c - any bytes as a safetensors file: refused, or every byte of every tensor can
 * be read and belongs to one. */
#include "tests/fuzz/fuzz_file.h"
#include "worker/formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_file *f;
    uint64_t bytes = 0;
    volatile uint8_t sum = 0;

    if (st_open(fuzz_file("x.safetensors", data, size), &f, NULL) < 0)
        return 0;
    for (unsigned i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        uint64_t n = st_dtype_bytes(t->dtype);

        for (int d = 0; d < t->n_dims; d++)
            n *= (uint64_t)t->shape[d];
        FUZZ_ASSERT(n == t->bytes);
        FUZZ_ASSERT(st_find(f, t->name) == t);
        for (uint64_t k = 0; k < t->bytes; k++)
            sum = (uint8_t)(sum + ((const uint8_t *)t->data)[k]);
        bytes += t->bytes;
    }
    FUZZ_ASSERT(bytes <= size - 8);
    st_close(f);
    return 0;
}
