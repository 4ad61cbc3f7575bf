/* fuzz_model_config.c - any bytes as config.json and as adapter_config.json. */
#include "proto/base/json.h"
#include "tests/fuzz/fuzz_file.h"
#include "worker/formats/hf_config.h"
#include "worker/formats/peft.h"

static void use_config(const uint8_t *data, size_t size)
{
    struct model_config c;
    json_t *raw;

    if (lh_json_parse((const char *)data, size, 64, &raw, NULL) < 0)
        return;
    if (hf_config_parse(raw, "fuzz", &c, NULL) == 0) {
        FUZZ_ASSERT(c.n_layers > 0 && c.hidden > 0 && c.vocab > 0 && c.head_dim % 2 == 0);
        FUZZ_ASSERT(c.heads % c.kv_heads == 0);
        FUZZ_ASSERT(c.rope.theta > 0 && c.rope.factor >= 1 && c.norm_eps > 0);
        FUZZ_ASSERT(c.rope.n_factors <= MODEL_ROPE_FACTORS_MAX);
        FUZZ_ASSERT(c.eos_id < c.vocab && c.bos_id < c.vocab);
        json_decref(c.raw);
    }
    json_decref(raw);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t weights[10] = {2, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    struct lh_job job;
    struct peft_adapter a;

    use_config(data, size);
    (void)fuzz_file("adapter_config.json", data, size);
    (void)fuzz_file("adapter_model.safetensors", weights, sizeof(weights));
    if (peft_open(fuzz_folder(), &a, NULL) < 0)
        return 0;
    memset(&job, 0, sizeof(job));
    FUZZ_ASSERT(peft_check(&a, &job, NULL) < 0); /* rank 0 */
    peft_close(&a);
    return 0;
}
