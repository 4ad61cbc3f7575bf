/* job_table.c - every member of a job, in the order in which it is read, checked and echoed.
 *
 * proto/spec/job-spec.md is this table for people; tests/unit/test_job_spec.c compares the two. A
 * member whose default follows from others (derive) stands below them.
 */
#include "proto/base/attr.h"
#include "proto/job_parse.h"
#include <string.h>

#define AT(member) .offset = offsetof(struct lh_job, member)
#define HAS(member) .has_offset = offsetof(struct lh_job, member)
#define RANGE(lo, hi) .min = (lo), .max = (hi)
#define NUMBER_IS(v) .flags = FIELD_HAS_DEFAULT, .otherwise = {.number = (v)}
#define TEXT_IS(v) .flags = FIELD_HAS_DEFAULT, .otherwise = {.text = (v)}
#define LARGE JOB_WHOLE_MAX
#define SECONDS_MAX 315360000.0 /* ten years */

#define P (1u << LH_KIND_PREPARE)
#define T (1u << LH_KIND_TRAIN)
#define E (1u << LH_KIND_EVAL)
#define X (1u << LH_KIND_EXPORT)
#define C (1u << LH_KIND_CHECK)
#define G (1u << LH_KIND_GENERATE)
#define ALL (P | T | E | X | C | G)

/* A quarter of the context, as in the paper. Odd or too small: none, and job_check says what to do.
 */
static bool derive_group(const struct lh_job *job, double *ret_value)
{
    if (job->context.attention.type != LH_ATTENTION_S2 || job->context.length < 8 ||
        job->context.length % 8 != 0)
        return false;
    *ret_value = (double)(job->context.length / 4);
    return true;
}

/* Without a rate nothing is updated: a second step would compute the first one again. */
static bool derive_steps(const struct lh_job *job, double *ret_value)
{
    *ret_value = 1;
    return !job->optim.has_lr;
}

/* The paper's 20 steps, but never more than a tenth of a short run, whose rate would else hardly
 * rise. */
static bool derive_warmup(const struct lh_job *job, double *ret_value)
{
    int64_t tenth = job->optim.steps / 10;

    *ret_value = (double)LH_MIN(tenth, (int64_t)20);
    return true;
}

/* That of the paper, and a smaller one for windows that it would pass over. */
static bool derive_stride(const struct lh_job *job, double *ret_value)
{
    int64_t shortest = eval_shortest(job);

    *ret_value = shortest > 1 ? (double)LH_MIN((int64_t)256, shortest / 2) : 256;
    return job->eval.mode != LH_EVAL_PREFIXES;
}

#define LENGTHS_SCHEMA                                                                             \
    "{\"type\":\"array\",\"minItems\":1,\"maxItems\":64,\"uniqueItems\":true,"                     \
    "\"items\":{\"type\":\"integer\",\"minimum\":2,\"maximum\":16777216}}"

#define PATTERN_SCHEMA(entry)                                                                      \
    "{\"type\":\"object\",\"additionalProperties\":" entry ",\"maxProperties\":8192}"

#define TEMPLATE_NAMES "{\"enum\":[\"llama2\",\"llama3\",\"chatml\",\"alpaca\",\"plain\"]}"
#define TEMPLATE_TEXT                                                                              \
    "\"type\":\"string\",\"maxLength\":8000,"                                                      \
    "\"pattern\":\"^[^\\\\u0000-\\\\u0008\\\\u000b\\\\u000c\\\\u000e-\\\\u001f\\\\u007f]*$\""
#define TEMPLATE_CONTENT "{" TEMPLATE_TEXT ",\"allOf\":[{\"pattern\":\"[{]content[}]\"}]}"
#define TEMPLATE_PLAIN "{" TEMPLATE_TEXT "}"
#define TEMPLATE_SCHEMA                                                                            \
    "{\"oneOf\":[" TEMPLATE_NAMES ",{\"type\":\"object\",\"additionalProperties\":false,"          \
    "\"anyOf\":[{\"required\":[\"like\"]},{\"required\":[\"user\",\"answer\"]}],\"properties\":{"  \
    "\"like\":" TEMPLATE_NAMES ",\"trim\":{\"type\":\"boolean\"},\"begin\":" TEMPLATE_PLAIN        \
    ",\"system\":" TEMPLATE_CONTENT ",\"user\":" TEMPLATE_CONTENT                                  \
    ",\"user_with_input\":" TEMPLATE_CONTENT ",\"assistant\":" TEMPLATE_PLAIN                      \
    ",\"answer\":" TEMPLATE_CONTENT ",\"after\":" TEMPLATE_PLAIN                                   \
    ",\"default_system\":" TEMPLATE_PLAIN "}}]}"

/* clang-format off */
const struct field job_fields[] = {
    {"/name", FIELD_STRING, AT(name), TEXT_IS(""), RANGE(0, 120), .kinds = ALL,
     .about = "what people call the job; other jobs may name it in after"},
    {"/kind", FIELD_ENUM, AT(kind), .names = &kind_names, .kinds = ALL, .required = ALL,
     .about = "what to do"},
    {"/precision", FIELD_ENUM, AT(precision), NUMBER_IS(LH_BF16), .names = &precision_names,
     .kinds = T | E | G, .about = "of weights and activations; sums are fp32 either way"},

    {"/model", FIELD_OBJECT, .kinds = P | T | E | X | G, .about = "where to start from"},
    {"/model/base", FIELD_URI, AT(model.base), .kinds = P | T | E | X | G, .required = P | T | E | X | G,
     .about = "a Hugging Face directory or a .gguf file of a Llama model"},
    {"/model/adapter", FIELD_URI, AT(model.adapter), .flags = FIELD_NULL_OK, .kinds = T | E | X | G,
     .about = "a PEFT directory or a checkpoint to start from, to evaluate or to export"},

    {"/context", FIELD_OBJECT, .kinds = P | T | E | X | G, .about = "how long, and how positions and attention work"},
    {"/context/length", FIELD_INT, AT(context.length), RANGE(2, 16777216), .kinds = P | T | E | X | G,
     .required = T | E, .about = "tokens of a window; left out of export and generate: the checkpoint's"},
    {"/context/rope", FIELD_OBJECT, .kinds = T | E | X | G, .about = "rotary positions"},
    {"/context/rope/type", FIELD_ENUM, AT(context.rope.type), HAS(context.rope.has_type),
     .names = &rope_names, .kinds = T | E | X | G,
     .about = "scaling of positions; left out: the base's own, and linear on a base without"},
    {"/context/rope/factor", FIELD_NUMBER, AT(context.rope.factor), RANGE(1, 1e6), .kinds = T | E | X | G,
     .about = "multiplies the base's factor; left out: what the length needs"},
    {"/context/rope/skip_check", FIELD_BOOL, AT(context.rope.skip_check), NUMBER_IS(0), .kinds = T | E,
     .about = "train even when the scaling already breaks short text"},
    {"/context/attention", FIELD_OBJECT, .kinds = T | E, .about = "attention while training"},
    {"/context/attention/type", FIELD_ENUM, AT(context.attention.type), NUMBER_IS(LH_ATTENTION_S2),
     .names = &attention_names, .kinds = T | E, .about = "s2: shifted sparse attention of LongLoRA"},
    {"/context/attention/group", FIELD_INT, AT(context.attention.group), RANGE(2, 16777216),
     .kinds = T | E, .derive = derive_group,
     .about = "tokens of an S2 group, an even number; left out: a quarter of context.length"},
    {"/context/attention/wrap", FIELD_BOOL, AT(context.attention.wrap),
     .flags = FIELD_HAS_DEFAULT, .kinds = T | E,
     .about = "the published variant of s2 whose last group leaks into the first, for comparisons"},
    {"/context/attention/memory_layers", FIELD_CUSTOM, .flags = FIELD_NOT_BUILT, .kinds = T | E},
    {"/context/attention/cross_batch_range", FIELD_CUSTOM, .flags = FIELD_NOT_BUILT, .kinds = T | E},
    {"/context/attention/rows_per_document", FIELD_CUSTOM, .flags = FIELD_NOT_BUILT, .kinds = T | E},
    {"/context/attention/stepping", FIELD_CUSTOM, .flags = FIELD_NOT_BUILT, .kinds = T | E},
    {"/context/attention/last_context", FIELD_CUSTOM, .flags = FIELD_NOT_BUILT, .kinds = T | E},

    {"/data", FIELD_OBJECT, .kinds = P | T, .about = "what to train on"},
    {"/data/train", FIELD_URIS, AT(data.train), RANGE(1, 4096), .kinds = P | T, .required = P | T,
     .about = "files; a name may hold * ? [ ]"},
    {"/data/format", FIELD_ENUM, AT(data.format), NUMBER_IS(LH_DATA_TEXT), .names = &format_names,
     .kinds = P | T,
     .about = "text: plain or .jsonl; sft: records in .jsonl or .json; tokens: a safetensors file"},
    {"/data/pack", FIELD_CUSTOM, AT(data.pack), TEXT_IS("true"), .kinds = P | T, .take = take_pack,
     .schema = "{\"enum\":[true,false,\"join\"]}",
     .about = "true: documents share windows and do not see each other; false: one a window; join: they do"},
    {"/data/field", FIELD_STRING, AT(data.field), TEXT_IS("text"), RANGE(1, 120), .kinds = P | T,
     .about = "member of a .jsonl line that holds the text"},
    {"/data/template", FIELD_CUSTOM, AT(data.template_), .kinds = P | T, .take = take_template,
     .schema = TEMPLATE_SCHEMA, .about = "sft: how the turns of a dialogue are written"},

    {"/adapter", FIELD_OBJECT, .flags = FIELD_NULL_OK, .kinds = T,
     .about = "what trains; null: every parameter (full fine-tuning)"},
    {"/adapter/rank", FIELD_INT, AT(adapter.rank), NUMBER_IS(8), RANGE(1, 4096), .kinds = T,
     .about = "columns of a LoRA factor"},
    {"/adapter/alpha", FIELD_NUMBER, AT(adapter.alpha), .flags = FIELD_HAS_DEFAULT | FIELD_ABOVE,
     .otherwise = {.number = 16}, RANGE(0, 1e6), .kinds = T, .about = "scale: alpha / rank"},
    {"/adapter/dropout", FIELD_NUMBER, AT(adapter.dropout), .flags = FIELD_HAS_DEFAULT | FIELD_BELOW,
     RANGE(0, 1), .kinds = T,
     .about = "share of inputs of the LoRA factors set to zero"},
    {"/adapter/targets", FIELD_CUSTOM, AT(adapter.targets), TEXT_IS("[\"q\",\"k\",\"v\",\"o\"]"),
     .kinds = T, .take = take_targets,
     .schema = "{\"type\":\"array\",\"minItems\":1,\"uniqueItems\":true,"
               "\"items\":{\"enum\":[\"q\",\"k\",\"v\",\"o\",\"gate\",\"up\",\"down\"]}}",
     .about = "linear layers that get an adapter"},
    {"/adapter/embeddings", FIELD_BOOL, AT(adapter.embeddings), NUMBER_IS(1), .kinds = T,
     .about = "train the embedding whole"},
    {"/adapter/norms", FIELD_BOOL, AT(adapter.norms), NUMBER_IS(1), .kinds = T,
     .about = "train the norms whole"},
    {"/adapter/use_rslora", FIELD_BOOL, AT(adapter.use_rslora), NUMBER_IS(0), .kinds = T,
     .about = "scale by alpha / sqrt(rank)"},
    {"/adapter/rank_pattern", FIELD_CUSTOM, AT(adapter.rank_pattern), TEXT_IS("{}"), RANGE(1, 4096),
     .kinds = T, .take = take_patterns,
     .schema = PATTERN_SCHEMA("{\"type\":\"integer\",\"minimum\":1,\"maximum\":4096}"),
     .about = "rank of single modules, by the end of their path"},
    {"/adapter/alpha_pattern", FIELD_CUSTOM, AT(adapter.alpha_pattern), TEXT_IS("{}"), RANGE(0, 1e6),
     .kinds = T, .take = take_patterns,
     .schema = PATTERN_SCHEMA("{\"type\":\"number\",\"exclusiveMinimum\":0,\"maximum\":1e6}"),
     .about = "alpha of single modules, by the end of their path"},

    {"/optim", FIELD_OBJECT, .kinds = T, .about = "AdamW and its schedule"},
    {"/optim/lr", FIELD_NUMBER, AT(optim.lr), HAS(optim.has_lr), RANGE(0, 10), .kinds = T,
     .about = "learning rate; left out: one forward and backward pass and no update"},
    {"/optim/schedule", FIELD_ENUM, AT(optim.schedule), NUMBER_IS(LH_SCHEDULE_CONSTANT),
     .names = &schedule_names, .kinds = T, .about = "of the rate after the warm-up"},
    {"/optim/betas", FIELD_CUSTOM, AT(optim.beta1), TEXT_IS("[0.9,0.95]"), .kinds = T, .take = take_betas,
     .schema = "{\"type\":\"array\",\"minItems\":2,\"maxItems\":2,"
               "\"items\":{\"type\":\"number\",\"minimum\":0,\"exclusiveMaximum\":1}}",
     .about = "of the two running means of AdamW"},
    {"/optim/eps", FIELD_NUMBER, AT(optim.eps), .flags = FIELD_HAS_DEFAULT | FIELD_ABOVE,
     .otherwise = {.number = 1e-8}, RANGE(0, 1), .kinds = T, .about = "added to the root in AdamW"},
    {"/optim/weight_decay", FIELD_NUMBER, AT(optim.weight_decay), NUMBER_IS(0), RANGE(0, 10), .kinds = T,
     .about = "on linears, LoRA factors and embeddings, never on norms"},
    {"/optim/clip", FIELD_NUMBER, AT(optim.clip), NUMBER_IS(1), RANGE(0, 1e9), .kinds = T,
     .about = "largest norm of all gradients together; 0: no limit"},
    {"/optim/lora_plus_ratio", FIELD_NUMBER, AT(optim.lora_plus_ratio),
     .flags = FIELD_HAS_DEFAULT | FIELD_ABOVE, .otherwise = {.number = 1}, RANGE(0, 1e4), .kinds = T,
     .about = "rate of LoRA B over that of A"},
    {"/optim/batch_sequences", FIELD_INT, AT(optim.batch_sequences), NUMBER_IS(1), RANGE(1, 65536),
     .kinds = T, .about = "windows of a step, over all ranks"},
    {"/optim/steps", FIELD_INT, AT(optim.steps), RANGE(1, 1e9), .kinds = T, .derive = derive_steps,
     .about = "updates to make; left out without a rate: 1"},
    {"/optim/warmup_steps", FIELD_INT, AT(optim.warmup_steps), RANGE(0, 1e9), .kinds = T,
     .derive = derive_warmup,
     .about = "steps in which the rate rises from 0; left out: 20, or a tenth of the steps if that is less"},
    {"/optim/minutes", FIELD_INT, AT(optim.minutes), NUMBER_IS(0), RANGE(0, 525600), .kinds = T,
     .about = "stop after that long even when steps are left; 0: no limit"},
    {"/optim/seed", FIELD_INT, AT(optim.seed), NUMBER_IS(0), RANGE(0, LARGE), .kinds = T,
     .about = "of the order of the data and of new LoRA factors"},

    {"/on_nonfinite", FIELD_OBJECT, .kinds = T, .about = "what to do when a loss or gradient is not finite"},
    {"/on_nonfinite/action", FIELD_ENUM, AT(on_nonfinite.action), NUMBER_IS(LH_NONFINITE_STOP),
     .names = &nonfinite_names, .kinds = T, .about = "stop the job, or skip the step"},
    {"/on_nonfinite/budget", FIELD_INT, AT(on_nonfinite.budget), NUMBER_IS(3), RANGE(0, 1e6), .kinds = T,
     .about = "steps that skip may skip in all"},

    {"/eval", FIELD_OBJECT, .kinds = T | E, .about = "perplexity on held-out text, and retrieval"},
    {"/eval/perplexity", FIELD_URIS, AT(eval.perplexity), RANGE(1, 256), .kinds = T | E,
     .about = "held-out texts"},
    {"/eval/every_steps", FIELD_INT, AT(eval.every_steps), .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION,
     RANGE(0, 1e9), .kinds = T, .about = "evaluate while training; 0: only at the end"},
    {"/eval/mode", FIELD_ENUM, AT(eval.mode), .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION,
     .otherwise = {.number = LH_EVAL_PREFIXES}, .names = &eval_mode_names, .kinds = T | E,
     .about = "which windows of the texts are taken, and what counts of them"},
    {"/eval/join", FIELD_BOOL, AT(eval.join), .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION, .kinds = T | E,
     .about = "true: all texts are one, end to end; false: a window holds one text"},
    {"/eval/lengths", FIELD_CUSTOM, AT(eval.lengths), .kinds = T | E, .take = take_lengths,
     RANGE(2, 16777216), .schema = LENGTHS_SCHEMA,
     .about = "lengths of context to report; left out: powers of two from 2048, and context.length"},
    {"/eval/stride", FIELD_INT, AT(eval.stride), RANGE(1, 16777216), .kinds = T | E,
     .derive = derive_stride, .about = "tokens from one window's start to the next; left out: 256, or half of the shortest length"},
    {"/eval/windows", FIELD_INT, AT(eval.windows), .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION,
     RANGE(0, 1e9), .kinds = T | E, .about = "at most so many windows over all texts; 0: all"},
    {"/eval/bands", FIELD_INT, AT(eval.bands), .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION,
     .otherwise = {.number = 8}, RANGE(1, 256), .kinds = T | E,
     .about = "parts of the longest window whose losses are reported apart"},
    {"/eval/batch_windows", FIELD_INT, AT(eval.batch_windows), .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION,
     .otherwise = {.number = 1}, RANGE(1, 65536), .kinds = T | E,
     .about = "mode compatible: windows of a batch, over whose means the mean is taken"},
    {"/eval/attention", FIELD_CHOICE, AT(eval.attention), .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION,
     .otherwise = {.text = "full"}, .names = &eval_attention_names, .kinds = T | E,
     .about = "full: causal over the whole window; train: that of context.attention"},
    {"/eval/ropes", FIELD_CUSTOM, AT(eval.ropes), .kinds = E, .take = take_ropes,
     .schema = "{\"type\":\"array\",\"minItems\":1,\"maxItems\":16,\"items\":{\"oneOf\":[{\"const\":\"shipped\"},"
               "{\"type\":\"object\",\"additionalProperties\":false,\"minProperties\":1,\"properties\":{"
               "\"type\":{\"enum\":[\"default\",\"linear\",\"dynamic\",\"ntk\",\"yarn\",\"llama3\",\"longrope\"]},"
               "\"factor\":{\"type\":\"number\",\"minimum\":1,\"maximum\":1e6}}}]}}",
     .about = "scalings of positions to compare; left out: context.rope"},
    {"/eval/passkey", FIELD_OBJECT, HAS(eval.has_passkey), .flags = FIELD_SWITCH, .kinds = T | E,
     .about = "retrieval of a hidden number by length and depth; true: with the defaults below"},
    {"/eval/passkey/lengths", FIELD_CUSTOM, AT(eval.passkey.lengths), .kinds = T | E, .take = take_lengths,
     RANGE(2, 16777216), .schema = LENGTHS_SCHEMA,
     .about = "tokens of a prompt with its answer, at most; left out: powers of two from 2048, and context.length"},
    {"/eval/passkey/depths", FIELD_CUSTOM, AT(eval.passkey.depths),
     .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION, .otherwise = {.text = "[0,0.25,0.5,0.75,1]"},
     RANGE(0, 1), .kinds = T | E, .take = take_depths,
     .schema = "{\"type\":\"array\",\"minItems\":1,\"maxItems\":64,\"uniqueItems\":true,"
               "\"items\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1}}",
     .about = "share of the filler that stands before the number"},
    {"/eval/passkey/trials", FIELD_INT, AT(eval.passkey.trials), .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION,
     .otherwise = {.number = 2}, RANGE(1, 10000), .kinds = T | E,
     .about = "numbers to retrieve at each length and depth"},
    {"/eval/passkey/seed", FIELD_INT, AT(eval.passkey.seed), .flags = FIELD_HAS_DEFAULT | FIELD_IF_SECTION,
     RANGE(0, LARGE), .kinds = T | E, .about = "of the numbers"},

    {"/generate", FIELD_OBJECT, .kinds = G, .about = "prompts and sampling"},
    {"/generate/prompts", FIELD_CUSTOM, AT(generate.prompts), RANGE(1, 256), .kinds = G, .required = G,
     .take = take_prompts,
     .schema = "{\"type\":\"array\",\"minItems\":1,\"maxItems\":256,"
               "\"items\":{\"type\":\"string\",\"minLength\":1,"
               "\"pattern\":\"^[^\\\\u0000-\\\\u0008\\\\u000b\\\\u000c\\\\u000e-\\\\u001f\\\\u007f]*$\"}}",
     .about = "texts to go on with; special tokens are recognised in them"},
    {"/generate/max_tokens", FIELD_INT, AT(generate.max_tokens), NUMBER_IS(128), RANGE(1, 1048576),
     .kinds = G, .about = "at most so many new tokens for each prompt"},
    {"/generate/temperature", FIELD_NUMBER, AT(generate.temperature), NUMBER_IS(0), RANGE(0, 100),
     .kinds = G, .about = "0: always the likeliest token; 1: as the model says"},
    {"/generate/top_p", FIELD_NUMBER, AT(generate.top_p), .flags = FIELD_HAS_DEFAULT | FIELD_ABOVE,
     .otherwise = {.number = 1}, RANGE(0, 1), .kinds = G,
     .about = "draw from the likeliest tokens that together have this share; 1: from all"},
    {"/generate/seed", FIELD_INT, AT(generate.seed), NUMBER_IS(0), RANGE(0, LARGE), .kinds = G,
     .about = "of the draws; the same seed gives the same texts"},

    {"/export", FIELD_OBJECT, .kinds = X, .about = "what to write"},
    {"/export/format", FIELD_CHOICE, AT(export.format), TEXT_IS("hf"), .names = &export_format_names,
     .kinds = X, .about = "hf: a merged Hugging Face directory; gguf: a merged GGUF file; adapter: a PEFT directory"},
    {"/export/dtype", FIELD_CHOICE, AT(export.dtype), .names = &export_dtype_names, .kinds = X,
     .about = "of the weights; left out: bf16, and f32 for an adapter"},
    {"/export/shard_bytes", FIELD_INT, AT(export.shard_bytes), NUMBER_IS(5e9), RANGE(1024, LARGE),
     .kinds = X, .about = "of one safetensors file at most; a model that is larger is cut into several"},

    {"/checkpoint", FIELD_OBJECT, .kinds = T, .about = "when to save, what to keep, where to"},
    {"/checkpoint/every_steps", FIELD_INT, AT(checkpoint.every_steps), NUMBER_IS(0), RANGE(0, 1e9),
     .kinds = T, .about = "0: none by steps"},
    {"/checkpoint/every_s", FIELD_INT, AT(checkpoint.every_s), NUMBER_IS(0), RANGE(0, SECONDS_MAX),
     .kinds = T, .about = "0: none by time; the last step is always saved"},
    {"/checkpoint/keep", FIELD_INT, AT(checkpoint.keep), NUMBER_IS(3), RANGE(1, 10000), .kinds = T,
     .about = "newest checkpoints that stay"},
    {"/checkpoint/upload", FIELD_URI, AT(checkpoint.upload), .flags = FIELD_NULL_OK, .kinds = T,
     .about = "file:// or s3:// prefix; left out: the store of the coordinator"},

    {"/check", FIELD_OBJECT, .kinds = C, .about = "how a gang tests itself"},
    {"/check/seconds", FIELD_NUMBER, AT(check.seconds), NUMBER_IS(5), RANGE(0, 86400), .kinds = C,
     .about = "how long; 0: one round"},
    {"/check/allreduce_mib", FIELD_INT, AT(check.allreduce_mib), NUMBER_IS(16), RANGE(1, 4096), .kinds = C,
     .about = "size of a sum over the ranks"},
    {"/check/matrix", FIELD_INT, AT(check.matrix), NUMBER_IS(512), RANGE(16, 16384), .kinds = C,
     .about = "rows and columns of a product"},

    {"/resources", FIELD_OBJECT, .kinds = ALL, .about = "what the job runs on"},
    {"/resources/slots", FIELD_INT, AT(resources.slots), NUMBER_IS(1), RANGE(1, 4096), .kinds = ALL,
     .about = "ranks: GPUs or CPU slots, all or nothing"},
    {"/resources/device", FIELD_ENUM, AT(resources.device), NUMBER_IS(LH_DEVICE_CPU),
     .names = &device_names, .kinds = ALL, .about = "what a slot is"},
    {"/resources/sequence_parallel", FIELD_INT, AT(resources.sequence_parallel),
     .flags = FIELD_HAS_DEFAULT | FIELD_DEFAULT_ONLY, .otherwise = {.number = 1}, RANGE(1, 4096),
     .kinds = T | E, .about = "ranks that share one window"},
    {"/resources/threads", FIELD_INT, AT(resources.threads), NUMBER_IS(0), RANGE(0, 1024), .kinds = ALL,
     .about = "of a rank; 0: cores of the node / its slots"},
    {"/resources/micro_batches", FIELD_CUSTOM, AT(resources.micro_batches), TEXT_IS("1"),
     RANGE(1, 65536), .kinds = T, .take = take_micro_batches,
     .schema = "{\"oneOf\":[{\"type\":\"integer\",\"minimum\":1,\"maximum\":65536},{\"type\":\"array\","
               "\"minItems\":1,\"items\":{\"type\":\"array\",\"minItems\":1,"
               "\"items\":{\"type\":\"integer\",\"minimum\":0}}}]}",
     .about = "rows of a micro-batch over all ranks (at least one a rank), or a list of lists of rows"},
    {"/resources/constraints", FIELD_STRINGS, AT(resources.constraints),
     .flags = FIELD_HAS_DEFAULT | FIELD_DEFAULT_ONLY, .otherwise = {.text = "[]"}, RANGE(0, 16),
     .kinds = ALL, .about = "what nodes must offer"},

    {"/limits", FIELD_OBJECT, .kinds = ALL, .about = "when to give up"},
    {"/limits/wall_s", FIELD_INT, AT(limits.wall_s), NUMBER_IS(0), RANGE(0, SECONDS_MAX), .kinds = ALL,
     .about = "seconds that one attempt may run; 0: no limit"},
    {"/limits/lease_s", FIELD_INT, AT(limits.lease_s), NUMBER_IS(0), RANGE(0, SECONDS_MAX), .kinds = ALL,
     .about = "seconds to work on while the coordinator is silent; 0: its own setting"},
    {"/limits/memory_bytes", FIELD_INT, AT(limits.memory_bytes), NUMBER_IS(0), RANGE(0, LARGE),
     .kinds = ALL, .about = "of a rank; 0: half of what is free, shared by its ranks"},
    {"/retry", FIELD_OBJECT, .kinds = ALL, .about = "attempts after failures, by their cause"},
    {"/retry/infra", FIELD_INT, AT(retry.infra), NUMBER_IS(10), RANGE(0, 1000), .kinds = ALL,
     .about = "lost nodes, launches, links, storage"},
    {"/retry/app", FIELD_INT, AT(retry.app), NUMBER_IS(2), RANGE(0, 1000), .kinds = ALL,
     .about = "the program itself failed"},
    {"/priority", FIELD_INT, AT(priority), NUMBER_IS(0), RANGE(-1000000, 1000000), .kinds = ALL,
     .about = "higher goes first"},
    {"/hold", FIELD_BOOL, AT(hold), NUMBER_IS(0), .kinds = ALL, .about = "wait for a release"},
    {"/queue", FIELD_CUSTOM, .flags = FIELD_NOT_BUILT, .kinds = ALL},
    {"/account", FIELD_CUSTOM, .flags = FIELD_NOT_BUILT, .kinds = ALL},
    {"/begin", FIELD_CUSTOM, .flags = FIELD_NOT_BUILT, .kinds = ALL},
    {"/array", FIELD_CUSTOM, .flags = FIELD_NOT_BUILT, .kinds = ALL},
    {"/labels", FIELD_CUSTOM, AT(labels), TEXT_IS("{}"), .kinds = ALL, .take = take_labels,
     .schema = "{\"type\":\"object\",\"maxProperties\":64,"
               "\"propertyNames\":{\"pattern\":\"^[A-Za-z0-9._/-]{1,63}$\"},"
               "\"additionalProperties\":{\"type\":\"string\",\"maxLength\":255}}",
     .about = "the user's own words, to find jobs by"},
    {"/after", FIELD_CUSTOM, AT(after), TEXT_IS("[]"), .kinds = ALL, .take = take_after,
     .schema = "{\"type\":\"array\",\"maxItems\":64,\"items\":{\"type\":\"object\","
               "\"additionalProperties\":false,\"required\":[\"job\"],\"properties\":{"
               "\"job\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":120},"
               "\"when\":{\"enum\":[\"ok\",\"not_ok\",\"any\"],\"default\":\"ok\"}}}}",
     .about = "jobs that must have ended first"},
};
/* clang-format on */

const unsigned job_n_fields = LH_ARRAY_LEN(job_fields);

const struct field *field_find(const char *path)
{
    for (unsigned i = 0; i < job_n_fields; i++)
        if (strcmp(job_fields[i].path, path) == 0)
            return &job_fields[i];
    return NULL;
}
