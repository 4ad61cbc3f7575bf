/* job_names.c - the words that members of a job may be, in the order of the enums of job.h.
 *
 * job_table.c names these lists for its members; the parser, the echoed spec, the JSON Schema and
 * the lh_*_name functions of job.c read them. A word that is known but not built is refused with
 * what is (names_text).
 */
#include "proto/base/attr.h"
#include "proto/job_table.h"

#define NAMES(list)                                                                                \
    {                                                                                              \
        .at = (list), .n = LH_ARRAY_LEN(list)                                                      \
    }

static const struct field_name kinds[] = {
    [LH_KIND_PREPARE] = {"prepare", true}, [LH_KIND_TRAIN] = {"train", true},
    [LH_KIND_EVAL] = {"eval", true},       [LH_KIND_EXPORT] = {"export", true},
    [LH_KIND_CHECK] = {"check", true},     [LH_KIND_GENERATE] = {"generate", true},
};
static const struct field_name precisions[] = {
    [LH_FP32] = {"fp32", true}, [LH_BF16] = {"bf16", true}};
static const struct field_name attentions[] = {
    [LH_ATTENTION_S2] = {"s2", true},
    [LH_ATTENTION_DENSE] = {"dense", true},
    [LH_ATTENTION_FOT] = {"fot", false},
};
static const struct field_name ropes[] = {
    [LH_ROPE_DEFAULT] = {"default", true},   [LH_ROPE_LINEAR] = {"linear", true},
    [LH_ROPE_DYNAMIC] = {"dynamic", true},   [LH_ROPE_NTK] = {"ntk", true},
    [LH_ROPE_YARN] = {"yarn", true},         [LH_ROPE_LLAMA3] = {"llama3", true},
    [LH_ROPE_LONGROPE] = {"longrope", true},
};
static const struct field_name formats[] = {
    [LH_DATA_TEXT] = {"text", true},
    [LH_DATA_SFT] = {"sft", true},
    [LH_DATA_TOKENS] = {"tokens", true},
};
static const struct field_name schedules[] = {
    [LH_SCHEDULE_CONSTANT] = {"constant", true},
    [LH_SCHEDULE_LINEAR] = {"linear", true},
    [LH_SCHEDULE_COSINE] = {"cosine", true},
};
static const struct field_name devices[] = {
    [LH_DEVICE_CPU] = {"cpu", true},
    [LH_DEVICE_CUDA] = {"cuda", false},
    [LH_DEVICE_CUDA_EMU] = {"cuda-emu", false},
};
static const struct field_name targets[] = {{"q", true},   {"k", true},    {"v", true},
                                            {"o", true},   {"gate", true}, {"up", true},
                                            {"down", true}};
static const struct field_name whens[] = {[LH_WHEN_OK] = {"ok", true},
                                          [LH_WHEN_NOT_OK] = {"not_ok", true},
                                          [LH_WHEN_ANY] = {"any", true}};
static const struct field_name nonfinites[] = {
    [LH_NONFINITE_STOP] = {"stop", true}, [LH_NONFINITE_SKIP] = {"skip", true}};
static const struct field_name eval_modes[] = {
    [LH_EVAL_PREFIXES] = {"prefixes", true},
    [LH_EVAL_STRIDE] = {"stride", true},
    [LH_EVAL_COMPATIBLE] = {"compatible", true},
    [LH_EVAL_SLIDING] = {"sliding", true},
};
static const struct field_name eval_attentions[] = {{"full", true}, {"train", true}};
static const struct field_name export_formats[] = {{"hf", true}, {"gguf", true}, {"adapter", true}};
static const struct field_name export_dtypes[] = {
    {"f32", true}, {"f16", true}, {"bf16", true}, {"q8_0", true}};

const struct field_names kind_names = NAMES(kinds), precision_names = NAMES(precisions),
                         attention_names = NAMES(attentions), rope_names = NAMES(ropes),
                         format_names = NAMES(formats), schedule_names = NAMES(schedules),
                         device_names = NAMES(devices), target_names = NAMES(targets),
                         when_names = NAMES(whens), nonfinite_names = NAMES(nonfinites),
                         eval_mode_names = NAMES(eval_modes),
                         eval_attention_names = NAMES(eval_attentions),
                         export_format_names = NAMES(export_formats),
                         export_dtype_names = NAMES(export_dtypes);
