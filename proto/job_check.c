/* job_check.c - what the members of a job mean together; the second half of lh_job_parse.
 *
 * Runs after every member has been read. A check looks away when a member that it needs is already
 * refused. Only arithmetic: whether files exist and fit is decided by `longhaul-worker --plan`.
 */
#include "proto/base/attr.h"
#include "proto/base/str.h"
#include "proto/job_table.h"
#include <stdio.h>
#include <string.h>

#define PROBLEM(pointer, code, ...) lh_problem_add(p->problems, pointer, code, __VA_ARGS__)

static long long ll(int64_t v)
{
    return (long long)v;
}

/* Not something else than an object, and no problem recorded at this very member. */
static bool sound(const struct job_parser *p, const char *pointer)
{
    for (unsigned i = 0; i < p->problems->n; i++)
        if (strcmp(p->problems->at[i].pointer, pointer) == 0)
            return false;
    return true;
}

static void check_group(struct job_parser *p)
{
    const struct lh_job *j = p->job;
    int64_t group = j->context.attention.group, length = j->context.length;
    bool given = input_get(p, "/context/attention/group") != NULL;
    bool used =
        j->kind == LH_KIND_TRAIN || (j->eval.attention && strcmp(j->eval.attention, "train") == 0);

    if (j->context.attention.type != LH_ATTENTION_S2 || has_problem(p, "/context/attention") ||
        has_problem(p, "/context/length") || length == 0)
        return;
    if (!given && used && group == 0) {
        int64_t near = LH_MAX(length / 8 * 8, (int64_t)8);

        PROBLEM("/context/attention/group", "missing",
                "context.attention.group is a quarter of context.length unless given, but a "
                "quarter of %lld is "
                "no even number; give a group, or a length that is a multiple of 8 (try %lld)",
                ll(length), ll(near));
    }
    if (!given)
        return;
    if (group % 2 != 0)
        PROBLEM("/context/attention/group", "bad_value",
                "context.attention.group %lld is odd; S2 attention cuts half a group apart, so it "
                "must be even "
                "(try %lld)",
                ll(group), ll(LH_MAX(group - 1, (int64_t)2)));
    else if (group > length)
        PROBLEM("/context/attention/group", "out_of_range",
                "context.attention.group %lld is longer than context.length %lld; give at most the "
                "length, or "
                "use context.attention.type \"dense\"",
                ll(group), ll(length));
}

static void check_wrap(struct job_parser *p)
{
    const struct lh_job *j = p->job;
    int64_t group = j->context.attention.group, length = j->context.length;

    if (!j->context.attention.wrap || has_problem(p, "/context/attention") ||
        has_problem(p, "/context/length"))
        return;
    if (j->context.attention.type != LH_ATTENTION_S2)
        PROBLEM(
            "/context/attention/wrap", "conflict",
            "context.attention.wrap is a form of S2; use context.attention.type \"s2\", or leave "
            "it out");
    else if (group > 0 && length % group != 0)
        PROBLEM("/context/attention/wrap", "conflict",
                "a window that wraps is whole groups: context.length %lld is no multiple of "
                "context.attention.group %lld; give another group, or leave out wrap",
                ll(length), ll(group));
    else if (j->eval.attention && strcmp(j->eval.attention, "train") == 0)
        PROBLEM("/eval/attention", "conflict",
                "evaluation with attention \"train\" never wraps; use \"full\", or leave out "
                "context.attention.wrap");
}

static void check_rope(struct job_parser *p)
{
    const struct lh_job *j = p->job;

    if (!has_problem(p, "/context/rope") && j->context.rope.has_type &&
        j->context.rope.type == LH_ROPE_DEFAULT && j->context.rope.factor > 1)
        PROBLEM("/context/rope/factor", "conflict",
                "context.rope.factor %g has no meaning with context.rope.type \"default\", which "
                "does not scale "
                "positions; use \"linear\" or \"yarn\"",
                j->context.rope.factor);
}

static void check_steps(struct job_parser *p)
{
    const struct lh_job *j = p->job;

    if (!sound(p, "/optim") || !sound(p, "/optim/steps") || !sound(p, "/optim/lr"))
        return;
    if (j->optim.has_lr && j->optim.steps == 0) {
        PROBLEM("/optim/steps", "missing",
                "optim.steps is missing; a job with a learning rate needs it: %s",
                j->optim.minutes > 0 ? "at most so many updates are made within optim.minutes"
                                     : "the number of updates to make");
        return;
    }
    if (!j->optim.has_lr && j->optim.steps > 1)
        PROBLEM("/optim/steps", "conflict",
                "optim.steps is %lld but there is no optim.lr, so nothing would be learned; give a "
                "rate "
                "(for LoRA about 2e-5 to 1e-3), or leave steps out for one pass without an update",
                ll(j->optim.steps));
    if (sound(p, "/optim/warmup_steps") && j->optim.warmup_steps > j->optim.steps)
        PROBLEM("/optim/warmup_steps", "conflict",
                "optim.warmup_steps %lld is more than optim.steps %lld, so the rate would never be "
                "reached; "
                "give fewer (0: none)",
                ll(j->optim.warmup_steps), ll(j->optim.steps));
}

static void check_batch(struct job_parser *p)
{
    const struct lh_job *j = p->job;
    int64_t batch = j->optim.batch_sequences, slots = j->resources.slots;

    if (!sound(p, "/optim") || !sound(p, "/optim/batch_sequences") || !sound(p, "/resources"))
        return;
    if (sound(p, "/resources/slots") && sound(p, "/resources/sequence_parallel") && batch < slots)
        PROBLEM("/optim/batch_sequences", "conflict",
                "optim.batch_sequences %lld is less than resources.slots %lld, but each rank "
                "trains at least "
                "one sequence a step; ask for at least %lld sequences or at most %lld slots",
                ll(batch), ll(slots), ll(slots), ll(batch));
    if (!has_problem(p, "/resources/micro_batches") && j->resources.n_micro_batches == 0 &&
        j->resources.micro_batch_rows > batch)
        PROBLEM("/resources/micro_batches", "out_of_range",
                "resources.micro_batches asks for %lld rows at a time, but a step has "
                "optim.batch_sequences %lld",
                ll(j->resources.micro_batch_rows), ll(batch));
}

/* The listed rows must be those of a step, each once. */
static void check_micro_batches(struct job_parser *p)
{
    const struct lh_job *j = p->job;
    int64_t batch = j->optim.batch_sequences;
    unsigned char *seen;

    if (j->resources.n_micro_batches == 0 || has_problem(p, "/resources/micro_batches") ||
        !sound(p, "/optim") || !sound(p, "/optim/batch_sequences"))
        return;
    seen = parser_alloc(p, (size_t)batch);
    if (!seen)
        return;
    for (unsigned i = 0; i < j->resources.n_micro_batches; i++) {
        for (unsigned k = 0; k < j->resources.micro_batches[i].n; k++) {
            int64_t row = j->resources.micro_batches[i].rows[k];

            if (row >= batch || seen[row]++) {
                PROBLEM("/resources/micro_batches", "bad_value",
                        "resources.micro_batches %s row %lld; each row from 0 to "
                        "optim.batch_sequences - 1 = %lld "
                        "must stand there once",
                        row >= batch ? "names" : "repeats", ll(row), ll(batch - 1));
                return;
            }
        }
    }
    for (int64_t row = 0; row < batch; row++) {
        if (!seen[row]) {
            PROBLEM("/resources/micro_batches", "bad_value",
                    "resources.micro_batches lacks row %lld; each row from 0 to "
                    "optim.batch_sequences - 1 = %lld "
                    "must stand there once",
                    ll(row), ll(batch - 1));
            return;
        }
    }
}

static void check_data(struct job_parser *p)
{
    const struct lh_job *j = p->job;

    if (!sound(p, "/data") || !sound(p, "/data/format") || has_problem(p, "/data/template"))
        return;
    if (j->data.format == LH_DATA_SFT && !j->data.template_ &&
        (j->kind == LH_KIND_TRAIN || j->kind == LH_KIND_PREPARE))
        PROBLEM(
            "/data/template", "missing",
            "data.template is missing; data.format \"sft\" needs it: the form of dialogues that "
            "the model knows (\"llama2\", \"llama3\", \"chatml\", \"alpaca\"), \"plain\" for a "
            "base model, or an object");
    if (j->data.format != LH_DATA_SFT && j->data.template_)
        PROBLEM("/data/template", "conflict",
                "data.template is how records of data.format \"sft\" are written, but data.format "
                "is another; set it to \"sft\" or leave the template out");
}

/* Which members of eval go with its mode. */
static void check_eval_mode(struct job_parser *p)
{
    const struct lh_job *j = p->job;
    int64_t shortest = eval_shortest(j);

    if (j->eval.mode == LH_EVAL_PREFIXES && input_get(p, "/eval/stride"))
        PROBLEM("/eval/stride", "conflict",
                "eval.stride has no meaning with eval.mode \"prefixes\", whose windows lie side by "
                "side; set eval.mode to \"stride\" or \"sliding\", or leave it out");
    if (j->eval.mode == LH_EVAL_SLIDING && shortest > 0 && j->eval.stride >= shortest)
        PROBLEM("/eval/stride", "out_of_range",
                "eval.stride %lld is not below the shortest length %lld, so tokens would be passed "
                "over; give a smaller stride or longer eval.lengths",
                ll(j->eval.stride), ll(shortest));
    if (j->eval.mode == LH_EVAL_COMPATIBLE && !j->eval.join)
        PROBLEM("/eval/join", "conflict",
                "eval.mode \"compatible\" reads all texts as one; set eval.join to true, or take "
                "eval.mode \"stride\"");
}

static void check_ropes(struct job_parser *p)
{
    const struct lh_job *j = p->job;
    char at[64];

    if (j->eval.n_ropes > 0 &&
        (input_get(p, "/context/rope/type") || input_get(p, "/context/rope/factor")))
        PROBLEM("/eval/ropes", "conflict",
                "eval.ropes lists the scalings to compare, so context.rope would not be used; move "
                "it into the list");
    for (unsigned i = 0; i < j->eval.n_ropes; i++) {
        const struct lh_rope_wish *wish = &j->eval.ropes[i];

        (void)snprintf(at, sizeof(at), "/eval/ropes/%u/factor", i);
        if (wish->has_type && wish->type == LH_ROPE_DEFAULT && wish->factor > 1)
            PROBLEM(at, "conflict",
                    "eval.ropes[%u].factor %g has no meaning with type \"default\", which does not "
                    "scale positions",
                    i, wish->factor);
    }
}

static void check_eval(struct job_parser *p)
{
    const struct lh_job *j = p->job;
    bool nothing = j->eval.perplexity.n == 0 && !j->eval.has_passkey;

    if (has_problem(p, "/eval") || has_problem(p, "/context/length"))
        return;
    if (j->kind == LH_KIND_EVAL && p->kind_bit && nothing)
        PROBLEM("/eval/perplexity", "missing",
                "eval.perplexity is missing; a job of kind eval needs it: held-out texts (or "
                "eval.passkey)");
    if (j->kind == LH_KIND_TRAIN && j->eval.every_steps > 0 && nothing)
        PROBLEM("/eval/perplexity", "missing",
                "eval.perplexity is missing; eval.every_steps %lld needs held-out texts to "
                "evaluate on (or eval.passkey)",
                ll(j->eval.every_steps));
    for (unsigned i = 0; i < j->eval.lengths.n; i++) {
        if (j->context.length > 0 && j->eval.lengths.at[i] > j->context.length) {
            PROBLEM("/eval/lengths", "out_of_range",
                    "eval.lengths holds %lld, but a window has context.length %lld; raise that or "
                    "drop this length",
                    ll(j->eval.lengths.at[i]), ll(j->context.length));
            return;
        }
    }
    check_eval_mode(p);
    if (j->kind == LH_KIND_EVAL)
        check_ropes(p);
}

static void check_adapter(struct job_parser *p)
{
    const struct lh_job *j = p->job;

    if (j->kind == LH_KIND_TRAIN && j->full_finetune && j->model.adapter)
        PROBLEM("/model/adapter", "conflict",
                "model.adapter cannot be continued when adapter is null (every parameter trains); "
                "leave one of "
                "the two out");
}

static void check_export(struct job_parser *p)
{
    const struct lh_job *j = p->job;
    const char *dtype = j->export.dtype ? j->export.dtype : "";

    if (j->kind != LH_KIND_EXPORT || !p->kind_bit || has_problem(p, "/export"))
        return;
    if (strcmp(dtype, "q8_0") == 0 && strcmp(j->export.format, "gguf") != 0)
        PROBLEM("/export/dtype", "conflict",
                "export.dtype \"q8_0\" is of GGUF files only; use \"bf16\", \"f16\" or \"f32\", or "
                "export.format \"gguf\"");
    if (strcmp(j->export.format, "adapter") == 0 && !j->model.adapter &&
        !has_problem(p, "/model/adapter"))
        PROBLEM("/model/adapter", "missing",
                "model.adapter is missing; export.format \"adapter\" needs the adapter or "
                "checkpoint to write");
}

static void check_upload(struct job_parser *p)
{
    struct lh_uri uri;

    if (p->job->checkpoint.upload && !has_problem(p, "/checkpoint/upload") &&
        lh_uri_parse(p->job->checkpoint.upload, &uri, NULL) == 0 && uri.scheme == LH_URI_JOB)
        PROBLEM("/checkpoint/upload", "bad_value",
                "checkpoint.upload \"%.100s\" names another job's output; give a file:///PATH or "
                "an s3://BUCKET/PREFIX",
                p->job->checkpoint.upload);
}

void job_check(struct job_parser *p)
{
    check_group(p);
    check_wrap(p);
    check_rope(p);
    if (p->job->kind == LH_KIND_TRAIN && p->kind_bit) {
        check_steps(p);
        check_batch(p);
        check_micro_batches(p);
    }
    if (p->kind_bit & (1u << LH_KIND_TRAIN | 1u << LH_KIND_PREPARE))
        check_data(p);
    check_eval(p);
    check_adapter(p);
    check_export(p);
    check_upload(p);
}
