/* test_job.c - jobs: what is taken, what is refused and with which words, what is echoed. */
#include "proto/base/str.h"
#include "proto/job.h"
#include "tests/unit/unit.h"
#include <errno.h>
#include <glob.h>

#define TRAIN_HEAD "'kind':'train','model':{'base':'m'},'data':{'train':['d']},"
#define TRAIN "{" TRAIN_HEAD "'context':{'length':64},'optim':{'lr':0.001,'steps':100}"
#define EXPORT "{'kind':'export','model':{'base':'m'},'export':{"
#define GENERATE "{'kind':'generate','model':{'base':'m'},'generate':{"
#define EVAL "{'kind':'eval','model':{'base':'m'},'context':{'length':64},"

static struct lh_job *parse(json_t *spec, struct lh_problems *problems)
{
    struct lh_job *job = NULL;
    struct lh_err err = {0};
    int rc = lh_job_parse(spec, &job, problems, &err);

    json_decref(spec);
    if (rc < 0) {
        assert_int_equal(rc, LH_EJOB);
        assert_null(job);
        assert_true(problems->n > 0);
        assert_string_equal(err.pointer, problems->at[0].pointer);
    } else {
        assert_int_equal(problems->n, 0);
    }
    return job;
}

/* The job of a spec that must be good. */
static struct lh_job *good(const char *text)
{
    struct lh_problems problems;
    struct lh_job *job = parse(json_of(text), &problems);

    if (!job)
        fail_msg("%s: %s", problems.at[0].pointer, problems.at[0].detail);
    return job;
}

static const json_t *echoed(const struct lh_job *job, const char *path)
{
    const json_t *at = job->spec;
    char name[64];

    while (at && *path) {
        size_t n = strcspn(path, ".");

        (void)snprintf(name, sizeof(name), "%.*s", (int)n, path);
        at = json_object_get(at, name);
        path += n + (path[n] == '.');
    }
    return at;
}

static void is_echoed(const struct lh_job *job, const char *path, const char *want)
{
    const json_t *value = echoed(job, path);
    char *text = lh_json_text(value, 0);

    if (!text || strcmp(text, want) != 0)
        fail_msg("%s is echoed as %s, not %s", path, text ? text : "nothing", want);
    free(text);
}

/* ---- what is taken ---- */

#define SFT                                                                                        \
    "{'kind':'train','model':{'base':'m'},'context':{'length':64},'optim':{'lr':0.001,'steps':9}," \
    "'"                                                                                            \
    "data':{'train':['d'],'format':'sft','template':"

/* JOB-29 */
static void templates_are_names_or_objects_and_may_hold_newlines(void **state)
{
    struct lh_job *j = good(SFT "'chatml'}}");

    (void)state;
    assert_int_equal(j->data.format, LH_DATA_SFT);
    assert_string_equal(j->data.template_, "chatml");
    is_echoed(j, "data.template", "\"chatml\"");
    lh_job_free(j);
    j = good(SFT "{'user':'U\\n{content}','answer':'{content}{eos}','trim':true}}}");
    assert_string_equal(j->data.template_,
                        "{\"user\":\"U\\n{content}\",\"answer\":\"{content}{eos}\",\"trim\":true}");
    lh_job_free(j);
    lh_job_free(good(SFT "{'like':'llama2','default_system':''}}}"));
    j = good("{'kind':'prepare','model':{'base':'m'},'context':{'length':64},'data':{'train':['d'],"
             "'format':'sft','template':'plain','pack':false}}");
    assert_int_equal(j->context.length, 64);
    assert_null(echoed(j, "context.attention"));
    lh_job_free(j);
}

static void a_train_job_gets_every_default(void **state)
{
    struct lh_job *j = good(TRAIN "}");

    (void)state;
    assert_int_equal(j->kind, LH_KIND_TRAIN);
    assert_int_equal(j->precision, LH_BF16);
    assert_string_equal(j->name, "");
    assert_string_equal(j->model.base, "m");
    assert_null(j->model.adapter);
    assert_int_equal(j->context.length, 64);
    assert_false(j->context.rope.has_type);
    assert_true(j->context.rope.factor == 0);
    assert_int_equal(j->context.attention.type, LH_ATTENTION_S2);
    assert_int_equal(j->context.attention.group, 16);
    assert_int_equal(j->data.train.n, 1);
    assert_string_equal(j->data.train.at[0], "d");
    assert_int_equal(j->data.format, LH_DATA_TEXT);
    assert_int_equal(j->data.pack, LH_PACK_MASKED);
    assert_string_equal(j->data.field, "text");
    assert_false(j->full_finetune);
    assert_int_equal(j->adapter.rank, 8);
    assert_true(j->adapter.alpha == 16);
    assert_int_equal(j->adapter.targets, LH_TARGET_Q | LH_TARGET_K | LH_TARGET_V | LH_TARGET_O);
    assert_true(j->adapter.embeddings && j->adapter.norms && !j->adapter.use_rslora);
    assert_true(j->optim.has_lr && j->optim.lr == 0.001);
    assert_true(j->optim.beta1 == 0.9 && j->optim.beta2 == 0.95 && j->optim.eps == 1e-8);
    assert_true(j->optim.weight_decay == 0 && j->optim.clip == 1 && j->optim.lora_plus_ratio == 1);
    assert_int_equal(j->optim.schedule, LH_SCHEDULE_CONSTANT);
    assert_int_equal(j->optim.steps, 100);
    assert_int_equal(j->optim.warmup_steps, 10);
    assert_int_equal(j->optim.batch_sequences, 1);
    assert_int_equal(j->optim.seed, 0);
    assert_int_equal(j->checkpoint.keep, 3);
    assert_null(j->checkpoint.upload);
    assert_int_equal(j->resources.slots, 1);
    assert_int_equal(j->resources.device, LH_DEVICE_CPU);
    assert_int_equal(j->resources.sequence_parallel, 1);
    assert_int_equal(j->resources.micro_batch_rows, 1);
    assert_int_equal(j->resources.n_micro_batches, 0);
    assert_int_equal(j->retry.infra, 10);
    assert_int_equal(j->retry.app, 2);
    assert_int_equal(j->on_nonfinite.action, LH_NONFINITE_STOP);
    assert_string_equal(j->eval.attention, "full");
    is_echoed(j, "context.attention.group", "16");
    is_echoed(j, "optim.warmup_steps", "10");
    is_echoed(j, "optim.betas", "[0.9,0.95]");
    is_echoed(j, "adapter.targets", "[\"q\",\"k\",\"v\",\"o\"]");
    is_echoed(j, "resources.micro_batches", "1");
    assert_null(echoed(j, "eval"));
    assert_null(echoed(j, "check"));
    lh_job_free(j);
}

static void every_member_of_a_full_job_arrives(void **state)
{
    struct lh_job *j =
        good("{'name':'n','kind':'train','precision':'fp32','model':{'base':'s3://b/"
             "m','adapter':'job:j1/checkpoint'},"
             "'context':{'length':70,'rope':{'type':'yarn','factor':2.5,'skip_check':true},'"
             "attention':{'type':'s2','group':16}},"
             "'data':{'train':['a','b*'],'format':'tokens','pack':'join','field':'body'},"
             "'adapter':{'rank':4,'alpha':6.5,'dropout':0,'targets':['down','q'],'embeddings':"
             "false,'norms':false,"
             "'use_rslora':true,'rank_pattern':{'layers.1.mlp.down_proj':7},'alpha_pattern':{'q_"
             "proj':0.5}},"
             "'optim':{'lr':1,'schedule':'cosine','betas':[0,0.5],'eps':1e-6,'weight_decay':0.1,'"
             "clip':0,'lora_plus_ratio':1,"
             "'batch_sequences':4,'steps':9,'warmup_steps':9,'minutes':3,'seed':9007199254740991},"
             "'on_nonfinite':{'action':'skip','budget':5},"
             "'eval':{'perplexity':['p'],'every_steps':2,'lengths':[8,70],'windows':3,'attention':'"
             "train','passkey':false},"
             "'checkpoint':{'every_steps':5,'every_s':6,'keep':7,'upload':'s3://b/u/'},"
             "'resources':{'slots':2,'device':'cpu','sequence_parallel':1,'threads':3,'micro_"
             "batches':[[3,0],[1],[2]],'constraints':[]},"
             "'limits':{'wall_s':1,'lease_s':2,'memory_bytes':3},'retry':{'infra':0,'app':1},'"
             "priority':-5,'hold':true,"
             "'labels':{'team/"
             "x':'\xc3\xa4','b':''},'after':[{'job':'first','when':'any'},{'job':'j2'}]}");

    (void)state;
    assert_int_equal(j->precision, LH_FP32);
    assert_string_equal(j->model.adapter, "job:j1/checkpoint");
    assert_true(j->context.rope.has_type && j->context.rope.type == LH_ROPE_YARN);
    assert_true(j->context.rope.factor == 2.5 && j->context.rope.skip_check);
    assert_int_equal(j->data.pack, LH_PACK_JOIN);
    assert_int_equal(j->data.format, LH_DATA_TOKENS);
    assert_string_equal(j->data.train.at[1], "b*");
    assert_int_equal(j->adapter.targets, LH_TARGET_DOWN | LH_TARGET_Q);
    assert_int_equal(j->adapter.n_rank_pattern, 1);
    assert_string_equal(j->adapter.rank_pattern[0].module, "layers.1.mlp.down_proj");
    assert_true(j->adapter.rank_pattern[0].value == 7);
    assert_true(j->adapter.n_alpha_pattern == 1 && j->adapter.alpha_pattern[0].value == 0.5);
    assert_true(j->optim.seed == 9007199254740991u);
    assert_true(j->optim.beta1 == 0 && j->optim.beta2 == 0.5);
    assert_int_equal(j->optim.minutes, 3);
    assert_int_equal(j->on_nonfinite.budget, 5);
    assert_int_equal(j->eval.lengths.n, 2);
    assert_int_equal(j->eval.lengths.at[1], 70);
    assert_string_equal(j->eval.attention, "train");
    assert_int_equal(j->resources.n_micro_batches, 3);
    assert_int_equal(j->resources.micro_batches[0].n, 2);
    assert_int_equal(j->resources.micro_batches[0].rows[0], 3);
    assert_int_equal(j->limits.memory_bytes, 3);
    assert_int_equal(j->priority, -5);
    assert_true(j->hold);
    assert_int_equal(j->n_labels, 2);
    assert_string_equal(j->labels[0].key, "team/x");
    assert_string_equal(j->labels[0].value, "\xc3\xa4");
    assert_int_equal(j->n_after, 2);
    assert_int_equal(j->after[0].when, LH_WHEN_ANY);
    assert_int_equal(j->after[1].when, LH_WHEN_OK);
    lh_job_free(j);
}

static void exports_and_prompts_arrive(void **state)
{
    struct lh_job *j = good(EXPORT "'shard_bytes':4096}}");

    (void)state;
    assert_int_equal(j->kind, LH_KIND_EXPORT);
    assert_string_equal(j->export.format, "hf");
    assert_null(j->export.dtype);
    assert_int_equal(j->export.shard_bytes, 4096);
    assert_int_equal(j->context.length, 0);
    lh_job_free(j);
    j = good(EXPORT "'format':'gguf','dtype':'q8_0'}}");
    assert_string_equal(j->export.dtype, "q8_0");
    is_echoed(j, "export", "{\"format\":\"gguf\",\"dtype\":\"q8_0\",\"shard_bytes\":5000000000}");
    lh_job_free(j);
    j = good(GENERATE "'prompts':['one\\n\\ttwo','b'],'temperature':0.5,'seed':3}}");
    assert_int_equal(j->generate.prompts.n, 2);
    assert_string_equal(j->generate.prompts.at[0], "one\n\ttwo"); /* JOB-5 */
    assert_int_equal(j->generate.max_tokens, 128);
    assert_true(j->generate.temperature == 0.5 && j->generate.top_p == 1);
    assert_int_equal(j->generate.seed, 3);
    lh_job_free(j);
}

/* JOB-6: parse(print(job)) is a fixed point, member by member and byte by byte. */
static void what_is_echoed_parses_to_the_same_text(const char *text)
{
    struct lh_job *first = good(text), *second;
    struct lh_problems problems;
    char *a = lh_json_text(first->spec, 0), *b;
    json_t *again = NULL;

    assert_int_equal(lh_json_parse(a, strlen(a), LH_JOB_DEPTH_MAX, &again, NULL), 0);
    second = parse(again, &problems);
    if (!second)
        fail_msg("the echo of %s is refused: %s", text, problems.at[0].detail);
    b = lh_json_text(second->spec, 0);
    assert_string_equal(a, b);
    free(a);
    free(b);
    lh_job_free(first);
    lh_job_free(second);
}

/* JOB-47 */
static void a_section_may_be_switched_on_and_off(void **state)
{
    struct lh_job *on = good(EVAL "'eval':{'passkey':true,'perplexity':['t']}}");
    struct lh_job *off = good(EVAL "'eval':{'passkey':false,'perplexity':['t']}}");
    json_t *want = json_of("{'depths':[0,0.25,0.5,0.75,1],'trials':2,'seed':0}");

    (void)state;
    assert_true(on->eval.has_passkey);
    assert_int_equal(on->eval.passkey.n_depths, 5);
    assert_true(on->eval.passkey.depths[3] == 0.75);
    assert_int_equal(on->eval.passkey.trials, 2);
    assert_true(json_equal(json_object_get(json_object_get(on->spec, "eval"), "passkey"), want));
    assert_false(off->eval.has_passkey);
    assert_null(json_object_get(json_object_get(off->spec, "eval"), "passkey"));
    json_decref(want);
    lh_job_free(on);
    lh_job_free(off);
}

static void scalings_to_compare_are_read_in_order(void **state)
{
    struct lh_job *j = good(EVAL "'eval':{'perplexity':['t'],'ropes':['shipped',{'type':'yarn',"
                                 "'factor':4},{'type':'default'},{'factor':2}]}}");
    const struct lh_rope_wish *w = j->eval.ropes;

    (void)state;
    assert_int_equal(j->eval.n_ropes, 4);
    assert_true(!w[0].has_type && w[0].factor == 1);
    assert_true(w[1].has_type && w[1].type == LH_ROPE_YARN && w[1].factor == 4);
    assert_true(w[2].has_type && w[2].type == LH_ROPE_DEFAULT && w[2].factor == 0);
    assert_true(!w[3].has_type && w[3].factor == 2);
    lh_job_free(j);
}

static const char *const good_jobs[] = {
    "{'kind':'check'}",
    "{'check':{'seconds':0.5},'kind':'check','resources':{'slots':4},'labels':{'z':'1','a':'2'}}",
    "{'kind':'prepare','model':{'base':'m'},'data':{'train':['x']}}",
    "{'kind':'eval','model':{'base':'m'},'context':{'length':100},'eval':{'perplexity':['t']}}",
    "{'kind':'eval','model':{'base':'m','adapter':null},'context':{'length':512,'attention':{'type'"
    ":'dense'}},"
    "'eval':{'perplexity':['t'],'attention':'train','lengths':[2,512]}}",
    TRAIN "}",
    TRAIN ",'adapter':null}",
    TRAIN ",'eval':{}}",
    EVAL "'eval':{'passkey':true}}",
    EVAL "'eval':{'passkey':{'lengths':[4096,128],'depths':[1],'trials':9,'seed':3}}}",
    EVAL "'eval':{'perplexity':['t'],'passkey':false,'mode':'stride','join':true}}",
    EVAL "'eval':{'perplexity':['t'],'mode':'compatible','join':true,'batch_windows':32}}",
    EVAL "'eval':{'perplexity':['t'],'mode':'sliding','stride':8,'lengths':[9,64]}}",
    EVAL "'eval':{'perplexity':['t'],'ropes':['shipped',{'type':'yarn'},{'factor':3.5}]}}",
    TRAIN ",'checkpoint':{'upload':null}}",
    TRAIN ",'priority':3,'check':{'matrix':32}}",
    "{" TRAIN_HEAD "'context':{'length':64},'optim':{'lr':0.00002,'steps':3,'warmup_steps':0,'clip'"
    ":0.3333333333333333}}",
    "{" TRAIN_HEAD "'context':{'length':100,'attention':{'group':24}}}",
    "{" TRAIN_HEAD "'context':{'length':100,'attention':{'type':'dense'}},'optim':{'steps':1}}",
    "{" TRAIN_HEAD
    "'context':{'length':64,'rope':{'type':'default','factor':1}},'optim':{'batch_sequences':3},"
    "'resources':{'micro_batches':2,'slots':3}}",
    "{'kind':'export','model':{'base':'m','adapter':'a'},'export':{'format':'adapter','dtype':'f16'"
    "}}",
    EXPORT "}}",
    GENERATE "'prompts':['a'],'top_p':0.5}}",
};

static void good_jobs_are_taken_and_their_echo_is_a_fixed_point(void **state)
{
    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(good_jobs); i++)
        what_is_echoed_parses_to_the_same_text(good_jobs[i]);
}

/* JOB-6, over random jobs: any subset of members with random good values. LONGHAUL_SEED repeats a
 * run. */
static void the_echo_of_random_jobs_is_a_fixed_point(void **state)
{
    static const char *const optim[] = {
        "'schedule':'cosine'", "'eps':1e-7",          "'clip':0.1",
        "'minutes':4",         "'betas':[0.1,0.2]",   "'seed':12",
        "'weight_decay':1e-3", "'batch_sequences':8", "'warmup_steps':1"};
    static const char *const root[] = {"'name':'x y'",
                                       "'precision':'fp32'",
                                       "'adapter':{'rank':3}",
                                       "'adapter':null",
                                       "'hold':true",
                                       "'priority':-1",
                                       "'labels':{'k':'v'}",
                                       "'after':[{'job':'a'}]",
                                       "'retry':{'app':0}",
                                       "'limits':{'wall_s':5}",
                                       "'eval':{'windows':1,'mode':'sliding','passkey':true}",
                                       "'checkpoint':{'every_s':9}",
                                       "'on_nonfinite':{'action':'skip'}",
                                       "'check':{'seconds':0.25}"};
    const char *given = getenv("LONGHAUL_SEED");
    unsigned seed = given ? (unsigned)atoi(given) : 20261;

    (void)state;
    print_message("LONGHAUL_SEED=%u\n", seed);
    for (int i = 0; i < 300; i++) {
        char text[4000];
        size_t n = (size_t)snprintf(text, sizeof(text),
                                    "{" TRAIN_HEAD
                                    "'context':{'length':%d},'optim':{'lr':%.17g,'steps':%d",
                                    8 * (1 + rand_r(&seed) % 5000), (rand_r(&seed) % 1000) / 777.0,
                                    1 + rand_r(&seed) % 999);
        bool adapter = false;

        for (size_t k = 0; k < LH_ARRAY_LEN(optim); k++)
            if (rand_r(&seed) % 2)
                n += (size_t)snprintf(text + n, sizeof(text) - n, ",%s", optim[k]);
        n += (size_t)snprintf(text + n, sizeof(text) - n, "}");
        for (size_t k = 0; k < LH_ARRAY_LEN(root); k++) {
            bool is_adapter = strncmp(root[k], "'adapter'", 9) == 0;

            if (rand_r(&seed) % 2 == 0 || (is_adapter && adapter))
                continue;
            adapter |= is_adapter;
            n += (size_t)snprintf(text + n, sizeof(text) - n, ",%s", root[k]);
        }
        (void)snprintf(text + n, sizeof(text) - n, "}");
        what_is_echoed_parses_to_the_same_text(text);
    }
}

static void the_spec_that_is_parsed_is_only_read(void **state)
{
    json_t *spec = json_of(TRAIN ",'labels':{'a':'b'}}"), *copy = json_deep_copy(spec);
    struct lh_problems problems;
    struct lh_job *job = parse(json_incref(spec), &problems);

    (void)state;
    json_object_set_new(json_object_get(job->spec, "labels"), "new", json_true());
    assert_true(json_equal(spec, copy));
    lh_job_free(job);
    json_decref(spec);
    json_decref(copy);
}

/* JOB-7 */
static void members_of_other_kinds_are_checked_and_echoed_without_their_defaults(void **state)
{
    struct lh_job *j = good("{'kind':'check','optim':{'lr':0.5}}");

    (void)state;
    is_echoed(j, "optim", "{\"lr\":0.5}");
    is_echoed(j, "check", "{\"seconds\":5,\"allreduce_mib\":16,\"matrix\":512}");
    assert_null(echoed(j, "adapter"));
    assert_null(echoed(j, "precision"));
    lh_job_free(j);
}

/* JOB-8 */
static void null_adapter_trains_everything(void **state)
{
    struct lh_job *j = good(TRAIN ",'adapter':null}");

    (void)state;
    assert_true(j->full_finetune);
    is_echoed(j, "adapter", "null");
    lh_job_free(j);
}

/* JOB-18, JOB-19 */
static void steps_and_warmup_follow_from_the_rate(void **state)
{
    struct lh_job *j = good("{" TRAIN_HEAD "'context':{'length':64}}");

    (void)state;
    assert_false(j->optim.has_lr);
    assert_int_equal(j->optim.steps, 1);
    assert_int_equal(j->optim.warmup_steps, 0);
    lh_job_free(j);
    j = good("{" TRAIN_HEAD "'context':{'length':64},'optim':{'lr':1e-4,'steps':1000}}");
    assert_int_equal(j->optim.warmup_steps, 20);
    lh_job_free(j);
}

/* ---- what is refused ---- */

struct bad {
    const char *text, *pointer, *code, *says;
};

/* clang-format off: one line a case */
static const struct bad bad_jobs[] = {
    /* JOB-2 */
    {"{'kind':'check','checks':{}}", "/checks", "unknown_member", "did you mean check?"},
    {"{'kind':'check','check':{'second':1}}", "/check/second", "unknown_member",
     "did you mean check.seconds?"},
    {"{'kind':'check','group':4}", "/group", "unknown_member",
     "did you mean context.attention.group?"},
    {"{'kind':'check','qqqqqqq':4}", "/qqqqqqq", "unknown_member",
     "unknown member qqqqqqq; known here: name, kind, "},
    {"{'kind':'check','a/b~c':1}", "/a~1b~0c", "unknown_member", "a/b~c"},
    {"{'kind':'check','':1}", "/", "unknown_member", "unknown member"},
    {TRAIN ",'context':{'length':64,'rope':{'scale':2}}}", "/context/rope/scale", "unknown_member",
     "unknown member context.rope.scale; known here: type, factor, skip_check"},
    {TRAIN ",'after':[{'job':'a','if':'ok'}]}", "/after/0/if", "unknown_member", "after[0].if"},
    {"{'kind':'check','queue':'a'}", "/queue", "not_supported", "queue"},
    {"{'kind':'check','account':'a'}", "/account", "not_supported", "account"},
    {"{'kind':'check','begin':'a'}", "/begin", "not_supported", "begin"},
    {"{'kind':'check','array':'a'}", "/array", "not_supported", "array"},
    {TRAIN ",'context':{'length':64,'attention':{'type':'fot'}}}", "/context/attention/type",
     "not_supported", "fot"},
    {TRAIN ",'context':{'length':64,'attention':{'memory_layers':[1]}}}",
     "/context/attention/memory_layers", "not_supported", "context.attention.memory_layers"},
    {TRAIN ",'context':{'length':64,'attention':{'cross_batch_range':1}}}",
     "/context/attention/cross_batch_range", "not_supported", "cross_batch_range"},
    {TRAIN ",'context':{'length':64,'attention':{'rows_per_document':1}}}",
     "/context/attention/rows_per_document", "not_supported", "rows_per_document"},
    {TRAIN ",'context':{'length':64,'attention':{'stepping':true}}}", "/context/attention/stepping",
     "not_supported", "stepping"},
    {TRAIN ",'context':{'length':64,'attention':{'last_context':1}}}",
     "/context/attention/last_context", "not_supported", "last_context"},
    {TRAIN ",'context':{'length':64,'attention':{'wrap':true,'type':'dense'}}}",
     "/context/attention/wrap", "conflict", "\"s2\""},
    {TRAIN ",'context':{'length':64,'attention':{'wrap':true,'group':24}}}",
     "/context/attention/wrap", "conflict", "64 is no multiple of context.attention.group 24"},
    {TRAIN ",'context':{'length':64,'attention':{'wrap':true}},"
           "'eval':{'perplexity':['d'],'attention':'train'}}",
     "/eval/attention", "conflict", "never wraps"},
    {TRAIN ",'data':{'train':['d'],'format':'sft'}}", "/data/template", "missing", "chatml"},
    {TRAIN ",'data':{'train':['d'],'template':'chatml'}}", "/data/template", "conflict", "sft"},
    {SFT "'chatlm'}}", "/data/template", "bad_value", "did you mean \"chatml\"?"},
    {SFT "7}}", "/data/template", "wrong_type", "or an object"},
    {SFT "{'answer':'{content}'}}}", "/data/template/user", "missing", "\"like\""},
    {SFT "{'user':'{content}'}}}", "/data/template/answer", "missing", "data.template.answer"},
    {SFT "{'user':'hi','answer':'{content}'}}}", "/data/template/user", "bad_value", "{content}"},
    {SFT "{'like':'plain','answer':'hi'}}}", "/data/template/answer", "bad_value", "{content}"},
    {SFT "{'like':'plane'}}}", "/data/template/like", "bad_value", "did you mean \"plain\"?"},
    {SFT "{'like':'plain','trim':1}}}", "/data/template/trim", "wrong_type", "true or false"},
    {SFT "{'like':'plain','after':1}}}", "/data/template/after", "wrong_type", "a string"},
    {SFT "{'like':'plain','after':'\\u0007'}}}", "/data/template/after", "bad_value", "0x07"},
    {SFT "{'like':'plain','ater':''}}}", "/data/template/ater", "unknown_member", "after"},
    {"{'kind':'check','resources':{'device':'cuda'}}", "/resources/device", "not_supported",
     "must be \"cpu\""},
    {"{'kind':'check','resources':{'device':'cuda-emu'}}", "/resources/device", "not_supported",
     "cuda-emu"},
    {"{'kind':'check','resources':{'sequence_parallel':2}}", "/resources/sequence_parallel",
     "not_supported", "2"},
    {"{'kind':'check','resources':{'constraints':['gpu']}}", "/resources/constraints",
     "not_supported", "constraints"},
    /* names and types (JOB-4) */
    {"[]", "", "wrong_type", "object"},
    {"3", "", "wrong_type", "object"},
    {"{}", "/kind", "missing", "one of"},
    {"{'kind':'trian'}", "/kind", "bad_value", "did you mean \"train\"?"},
    {"{'kind':7}", "/kind", "wrong_type", "kind is 7"},
    {"{'kind':null}", "/kind", "wrong_type", "null"},
    {"{'kind':'check','name':5}", "/name", "wrong_type", "a string"},
    {"{'kind':'check','name':null}", "/name", "wrong_type", "left out"},
    {"{'kind':'check','name':'a\\u0007b'}", "/name", "bad_value", "control character (byte 0x07)"},
    {"{'kind':'check','check':{'seconds':'5'}}", "/check/seconds", "wrong_type",
     "check.seconds is \"5\"; it must be a number"},
    {"{'kind':'check','check':[1]}", "/check", "wrong_type", "a list; it must be an object"},
    {"{'kind':'check','check':{'matrix':32.0}}", "/check/matrix", "wrong_type", "write 32"},
    {"{'kind':'check','check':{'matrix':32.5}}", "/check/matrix", "wrong_type", "32.5"},
    {"{'kind':'check','hold':1}", "/hold", "wrong_type", "true or false"},
    {TRAIN ",'precision':'fp16'}", "/precision", "bad_value", "did you mean"},
    {TRAIN ",'eval':{'attention':'sparse'}}", "/eval/attention", "bad_value",
     "\"full\", \"train\""},
    /* ranges */
    {"{'kind':'check','check':{'matrix':15}}", "/check/matrix", "out_of_range",
     "at least 16 and at most 16384"},
    {"{'kind':'check','check':{'seconds':-1}}", "/check/seconds", "out_of_range", "at least 0"},
    {"{'kind':'check','resources':{'slots':0}}", "/resources/slots", "out_of_range",
     "resources.slots is 0"},
    {"{'kind':'check','resources':{'slots':9223372036854775807}}", "/resources/slots",
     "out_of_range", "4096"},
    {"{'kind':'check','limits':{'memory_bytes':9223372036854775807}}", "/limits/memory_bytes",
     "out_of_range", "at least 0"},
    {TRAIN ",'context':{'length':1}}", "/context/length", "out_of_range", "at least 2"},
    {TRAIN ",'context':{'length':64,'rope':{'factor':0.5}}}", "/context/rope/factor",
     "out_of_range", "at least 1"},
    {TRAIN ",'adapter':{'alpha':0}}", "/adapter/alpha", "out_of_range", "above 0"},
    {TRAIN ",'adapter':{'rank':0}}", "/adapter/rank", "out_of_range", "adapter.rank is 0"},
    {TRAIN ",'adapter':{'dropout':1}}", "/adapter/dropout", "out_of_range", "below 1"},
    {TRAIN ",'optim':{'lr':-1,'steps':9}}", "/optim/lr", "out_of_range", "optim.lr is -1"},
    {TRAIN ",'optim':{'lr':1,'steps':9,'eps':0}}", "/optim/eps", "out_of_range", "above 0"},
    {TRAIN ",'optim':{'lr':1,'steps':9,'betas':[0.9,1]}}", "/optim/betas/1", "out_of_range",
     "optim.betas[1] is 1"},
    {TRAIN ",'optim':{'lr':1,'steps':9,'betas':[0.9]}}", "/optim/betas", "bad_value",
     "two numbers"},
    {TRAIN ",'optim':{'lr':1,'steps':9,'betas':[0.9,0.9,0.9]}}", "/optim/betas", "too_long", "3"},
    {TRAIN ",'optim':{'lr':1,'steps':9,'betas':0.9}}", "/optim/betas", "wrong_type", "two numbers"},
    {TRAIN ",'optim':{'lr':1,'steps':9,'seed':-1}}", "/optim/seed", "out_of_range", "optim.seed"},
    {TRAIN ",'checkpoint':{'keep':0}}", "/checkpoint/keep", "out_of_range", "checkpoint.keep"},
    /* addresses (JOB-9) */
    {TRAIN ",'model':{'base':'https://x/y'}}", "/model/base", "bad_value", "s3://"},
    {TRAIN ",'model':{'base':''}}", "/model/base", "bad_value", "empty"},
    {TRAIN ",'model':{'base':3}}", "/model/base", "wrong_type", "path"},
    {TRAIN ",'model':{'base':'job:a/weights'}}", "/model/base", "bad_value", "weights"},
    {TRAIN ",'data':{'train':['a','file://b']}}", "/data/train/1", "bad_value", "data.train[1]"},
    {TRAIN ",'data':{'train':[]}}", "/data/train", "bad_value", "empty list"},
    {TRAIN ",'data':{'train':'d'}}", "/data/train", "wrong_type", "list"},
    {TRAIN ",'data':{'train':[7]}}", "/data/train/0", "wrong_type", "data.train[0]"},
    {TRAIN ",'checkpoint':{'upload':'job:a/checkpoint'}}", "/checkpoint/upload", "bad_value",
     "another job"},
    /* what a kind needs (JOB-12) */
    {"{'kind':'train'}", "/model/base", "missing", "train needs it"},
    {"{'kind':'train','model':{'base':'m'},'context':{'length':64}}", "/data/train", "missing",
     "files"},
    {"{'kind':'train','model':{'base':'m'},'data':{'train':['d']}}", "/context/length", "missing",
     "tokens"},
    {EVAL "'name':'x'}", "/eval/perplexity", "missing", "eval needs it"},
    {"{'kind':'prepare','model':{'base':'m'}}", "/data/train", "missing", "prepare"},
    /* arithmetic (JOB-13, 14, 15, 18, 19, 20, 21, 22, 23) */
    {TRAIN ",'context':{'length':16384,'attention':{'group':4097}}}", "/context/attention/group",
     "bad_value",
     "context.attention.group 4097 is odd; S2 attention cuts half a group apart, so it must be "
     "even (try 4096)"},
    {TRAIN ",'context':{'length':64,'attention':{'group':66}}}", "/context/attention/group",
     "out_of_range", "longer"},
    {TRAIN ",'context':{'length':64,'attention':{'group':1}}}", "/context/attention/group",
     "out_of_range", "at least 2"},
    {TRAIN ",'context':{'length':100}}", "/context/attention/group", "missing",
     "multiple of 8 (try 96)"},
    {TRAIN ",'context':{'length':4}}", "/context/attention/group", "missing", "try 8"},
    {TRAIN ",'context':{'length':64,'rope':{'type':'default','factor':2}}}", "/context/rope/factor",
     "conflict", "linear"},
    {TRAIN ",'model':{'base':'m','adapter':'a'},'adapter':null}", "/model/adapter", "conflict",
     "null"},
    {TRAIN ",'optim':{'lr':1}}", "/optim/steps", "missing", "learning rate"},
    {TRAIN ",'optim':{'lr':1,'minutes':5}}", "/optim/steps", "missing", "optim.minutes"},
    {TRAIN ",'optim':{'steps':5}}", "/optim/steps", "conflict", "no optim.lr"},
    {TRAIN ",'optim':{'lr':1,'steps':5,'warmup_steps':6}}", "/optim/warmup_steps", "conflict",
     "6 is more than"},
    {TRAIN ",'resources':{'slots':2}}", "/optim/batch_sequences", "conflict",
     "at least 2 sequences or at most 1 slots"},
    {TRAIN ",'resources':{'micro_batches':2}}", "/resources/micro_batches", "out_of_range",
     "2 rows"},
    {TRAIN ",'resources':{'micro_batches':0}}", "/resources/micro_batches", "out_of_range",
     "at least 1"},
    {TRAIN ",'resources':{'micro_batches':'all'}}", "/resources/micro_batches", "wrong_type",
     "list of lists"},
    {TRAIN ",'resources':{'micro_batches':[]}}", "/resources/micro_batches", "bad_value",
     "0 entries"},
    {TRAIN ",'resources':{'micro_batches':[[0],[0]]}}", "/resources/micro_batches", "bad_value",
     "repeats row 0"},
    {TRAIN ",'resources':{'micro_batches':[[1]]}}", "/resources/micro_batches", "bad_value",
     "names row 1"},
    {TRAIN ",'optim':{'lr':1,'steps':9,'batch_sequences':2},'resources':{'micro_batches':[[1]]}}",
     "/resources/micro_batches", "bad_value", "lacks row 0"},
    {TRAIN ",'resources':{'micro_batches':[0]}}", "/resources/micro_batches/0", "wrong_type",
     "list of rows"},
    {TRAIN ",'resources':{'micro_batches':[[-1]]}}", "/resources/micro_batches/0/0", "out_of_range",
     "at least 0"},
    {TRAIN ",'eval':{'every_steps':5}}", "/eval/perplexity", "missing", "held-out"},
    {TRAIN ",'eval':{'lengths':[65]}}", "/eval/lengths", "out_of_range", "65"},
    {TRAIN ",'eval':{'lengths':[8,8]}}", "/eval/lengths/1", "bad_value", "second time"},
    {TRAIN ",'eval':{'lengths':[]}}", "/eval/lengths", "bad_value", "0 entries"},
    /* what goes with a mode, scalings to compare, passkeys (JOB-22, 44, 47) */
    {TRAIN ",'eval':{'stride':8}}", "/eval/stride", "conflict", "side by side"},
    {TRAIN ",'eval':{'mode':'sliding','stride':64}}", "/eval/stride", "out_of_range",
     "shortest length 64"},
    {TRAIN ",'eval':{'mode':'sliding','stride':9,'lengths':[32,9]}}", "/eval/stride",
     "out_of_range", "shortest length 9"},
    {TRAIN ",'eval':{'mode':'compatible'}}", "/eval/join", "conflict", "set eval.join to true"},
    {TRAIN ",'eval':{'mode':'strided'}}", "/eval/mode", "bad_value", "did you mean \"stride\""},
    {TRAIN ",'eval':{'bands':0}}", "/eval/bands", "out_of_range", "at least 1"},
    {TRAIN ",'eval':{'passkey':3}}", "/eval/passkey", "wrong_type", "an object, true or false"},
    {TRAIN ",'eval':{'passkey':null}}", "/eval/passkey", "wrong_type", "or be left out"},
    {TRAIN ",'eval':{'passkey':{'depth':[1]}}}", "/eval/passkey/depth", "unknown_member",
     "did you mean eval.passkey.depths"},
    {TRAIN ",'eval':{'passkey':{'depths':[0.5,1.5]}}}", "/eval/passkey/depths/1", "out_of_range",
     "at most 1"},
    {TRAIN ",'eval':{'passkey':{'depths':[0.5,0.5]}}}", "/eval/passkey/depths/1", "bad_value",
     "second time"},
    {TRAIN ",'eval':{'passkey':{'lengths':[5,5]}}}", "/eval/passkey/lengths/1", "bad_value",
     "eval.passkey.lengths[1]"},
    {EVAL "'eval':{'perplexity':['t'],'ropes':[]}}", "/eval/ropes", "bad_value", "0 entries"},
    {EVAL "'eval':{'perplexity':['t'],'ropes':['base']}}", "/eval/ropes/0", "wrong_type",
     "\"shipped\""},
    {EVAL "'eval':{'perplexity':['t'],'ropes':[{}]}}", "/eval/ropes/0", "wrong_type", "yarn"},
    {EVAL "'eval':{'perplexity':['t'],'ropes':['shipped',{'type':'yarm'}]}}", "/eval/ropes/1/type",
     "bad_value", "did you mean \"yarn\""},
    {EVAL "'eval':{'perplexity':['t'],'ropes':[{'factor':0.5}]}}", "/eval/ropes/0/factor",
     "out_of_range", "at least 1"},
    {EVAL "'eval':{'perplexity':['t'],'ropes':[{'faktor':2}]}}", "/eval/ropes/0/faktor",
     "unknown_member", "did you mean factor"},
    {EVAL "'eval':{'perplexity':['t'],'ropes':[{'type':'default','factor':2}]}}",
     "/eval/ropes/0/factor", "conflict", "does not scale"},
    {"{'kind':'eval','model':{'base':'m'},'context':{'length':64,'rope':{'type':'yarn'}},"
     "'eval':{'perplexity':['t'],'ropes':['shipped']}}",
     "/eval/ropes", "conflict", "move it into the list"},
    {EVAL "'eval':{'windows':3}}", "/eval/perplexity", "missing", "or eval.passkey"},
    /* exports and texts (JOB-5, 34) */
    {"{'kind':'export'}", "/model/base", "missing", "Hugging Face directory"},
    {EXPORT "'format':'onnx'}}", "/export/format", "bad_value", "\"hf\", \"gguf\", \"adapter\""},
    {EXPORT "'dtype':'q8_0'}}", "/export/dtype", "conflict", "GGUF files only"},
    {EXPORT "'dtype':'q4_0'}}", "/export/dtype", "bad_value", "did you mean"},
    {EXPORT "'format':'adapter'}}", "/model/adapter", "missing", "needs the adapter"},
    {EXPORT "'shard_bytes':5}}", "/export/shard_bytes", "out_of_range", "at least 1024"},
    {"{'kind':'generate','model':{'base':'m'}}", "/generate/prompts", "missing", "texts to go on"},
    {GENERATE "'prompts':[]}}", "/generate/prompts", "bad_value", "0 entries"},
    {GENERATE "'prompts':'a'}}", "/generate/prompts", "wrong_type", "a list of texts"},
    {GENERATE "'prompts':['a',3]}}", "/generate/prompts/1", "wrong_type", "a string"},
    {GENERATE "'prompts':['']}}", "/generate/prompts/0", "bad_value", "empty"},
    {GENERATE "'prompts':['a\\u0007']}}", "/generate/prompts/0", "bad_value", "byte 0x07"},
    {GENERATE "'prompts':['a'],'top_p':0}}", "/generate/top_p", "out_of_range", "above 0"},
    {GENERATE "'prompts':['a'],'temperature':-1}}", "/generate/temperature", "out_of_range",
     "at least 0"},
    {GENERATE "'prompts':['a'],'max_tokens':0}}", "/generate/max_tokens", "out_of_range",
     "at least 1"},
    /* lists and maps (JOB-17, 24, 25) */
    {TRAIN ",'adapter':{'targets':[]}}", "/adapter/targets", "bad_value", "0 entries"},
    {TRAIN ",'adapter':{'targets':['q','q']}}", "/adapter/targets/1", "bad_value", "second time"},
    {TRAIN ",'adapter':{'targets':['q','gat']}}", "/adapter/targets/1", "bad_value",
     "did you mean \"gate\"?"},
    {TRAIN ",'adapter':{'targets':'q'}}", "/adapter/targets", "wrong_type", "list"},
    {TRAIN ",'adapter':{'rank_pattern':{'a':0.5}}}", "/adapter/rank_pattern/a", "wrong_type",
     "whole number"},
    {TRAIN ",'adapter':{'rank_pattern':{'a/b':0}}}", "/adapter/rank_pattern/a~1b", "out_of_range",
     "is 0"},
    {TRAIN ",'adapter':{'rank_pattern':{'':1}}}", "/adapter/rank_pattern/", "bad_value", "empty"},
    {TRAIN ",'adapter':{'rank_pattern':[1]}}", "/adapter/rank_pattern", "wrong_type", "object"},
    {TRAIN ",'adapter':{'alpha_pattern':{'a':0}}}", "/adapter/alpha_pattern/a", "out_of_range",
     "above 0"},
    {"{'kind':'check','labels':{'a b':'c'}}", "/labels", "bad_value", "\"a b\""},
    {"{'kind':'check','labels':{'':'c'}}", "/labels", "bad_value", "1 to 63"},
    {"{'kind':'check','labels':{'a/b':3}}", "/labels/a~1b", "wrong_type", "labels.a/b is 3"},
    {"{'kind':'check','labels':['a']}", "/labels", "wrong_type", "object"},
    {"{'kind':'check','after':'a'}", "/after", "wrong_type", "list"},
    {"{'kind':'check','after':['a']}", "/after/0", "wrong_type", "after[0]"},
    {"{'kind':'check','after':[{}]}", "/after/0/job", "missing", "after[0].job"},
    {"{'kind':'check','after':[{'job':''}]}", "/after/0/job", "bad_value", "empty"},
    {"{'kind':'check','after':[{'job':'a','when':'okay'}]}", "/after/0/when", "bad_value",
     "did you mean \"ok\"?"},
    {"{'kind':'check','after':[{'job':'a'},{'job':'a'}]}", "/after/1", "bad_value", "second time"},
};
/* clang-format on */

/* Later members win: a case may start with TRAIN and give a section again. */
static json_t *merged(const char *text)
{
    char *copy = strdup(text);
    json_t *value;

    for (char *c = copy; *c; c++)
        if (*c == '\'')
            *c = '"';
    value = json_loads(copy, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    free(copy);
    return value;
}

static void bad_jobs_are_refused_with_pointer_code_and_words(void **state)
{
    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(bad_jobs); i++) {
        const struct bad *b = &bad_jobs[i];
        struct lh_problems problems;
        struct lh_job *job = parse(merged(b->text), &problems);
        bool found = false;

        if (job)
            fail_msg("taken: %s", b->text);
        for (unsigned k = 0; k < problems.n && !found; k++)
            found = strcmp(problems.at[k].pointer, b->pointer) == 0 &&
                    strcmp(problems.at[k].code, b->code) == 0 &&
                    strstr(problems.at[k].detail, b->says);
        if (!found)
            fail_msg("%s\n  wants %s %s '%s'\n  has   %s %s '%s'", b->text, b->pointer, b->code,
                     b->says, problems.at[0].pointer, problems.at[0].code, problems.at[0].detail);
    }
}

/* One mistake gives one problem: nothing follows from a value that is already refused. */
static void one_mistake_gives_one_problem(void **state)
{
    (void)state;
    for (size_t i = 0; i < LH_ARRAY_LEN(bad_jobs); i++) {
        struct lh_problems problems;

        assert_null(parse(merged(bad_jobs[i].text), &problems));
        if (problems.n != 1 && strcmp(bad_jobs[i].text, "{'kind':'train'}") != 0)
            fail_msg("%s: also %s: %s", bad_jobs[i].text, problems.at[1].pointer,
                     problems.at[1].detail);
    }
}

/* JOB-3 */
static void all_problems_are_collected(void **state)
{
    static const char *const want[] = {"/context/lenght", "/adapter/alfa", "/model/base",
                                       "/context/length", "/data",         "/optim",
                                       "/retry/app"};
    struct lh_problems problems;

    (void)state;
    assert_null(parse(
        json_of(
            "{'kind':'train','context':{'lenght':100},'optim':[],'data':'x','adapter':{'alfa':3},"
            "'retry':{'app':-1}}"),
        &problems));
    assert_int_equal(problems.n, LH_ARRAY_LEN(want));
    for (size_t i = 0; i < LH_ARRAY_LEN(want); i++) {
        bool found = false;

        for (unsigned k = 0; k < problems.n; k++)
            found |= strcmp(problems.at[k].pointer, want[i]) == 0;
        if (!found)
            fail_msg("no problem at %s", want[i]);
    }
}

static void more_problems_than_fit_are_dropped(void **state)
{
    json_t *spec = json_of("{'kind':'check'}");
    struct lh_problems problems;

    (void)state;
    for (int i = 0; i < 100; i++) {
        char key[16];

        (void)snprintf(key, sizeof(key), "member%d", i);
        json_object_set_new(spec, key, json_null());
    }
    assert_null(parse(spec, &problems));
    assert_int_equal(problems.n, LH_PROBLEMS_MAX);
}

/* JOB-5: limits count characters; texts of problems stay valid UTF-8 however they are cut. */
static void long_names_are_refused_and_texts_stay_whole(void **state)
{
    static const char euro[] = "\xe2\x82\xac";
    char name[3 * 600 + 1] = "";
    struct lh_problems problems;
    struct lh_job *job;
    json_t *spec;

    (void)state;
    for (int i = 0; i < 120; i++)
        (void)memcpy(name + (size_t)i * 3, euro, 4);
    job = parse(json_pack("{s:s, s:s}", "kind", "check", "name", name), &problems);
    assert_non_null(job);
    lh_job_free(job);
    (void)memcpy(name + (size_t)120 * 3, euro, 4);
    assert_null(parse(json_pack("{s:s, s:s}", "kind", "check", "name", name), &problems));
    assert_string_equal(problems.at[0].code, "too_long");
    assert_non_null(strstr(problems.at[0].detail, "121 characters"));
    for (size_t i = 0; i < 600; i++)
        (void)memcpy(name + i * 3, euro, 4);
    for (int shift = 0; shift < 3; shift++) {
        spec = json_pack("{s:s}", "kind", name + 3);
        json_object_set_new(spec, name, json_true());
        json_object_set_new(spec, "labels", json_pack("{s:s}", name, "x"));
        json_object_set_new(spec, "adapter", json_pack("{s:{s:i}}", "rank_pattern", name, 0));
        json_object_set_new(spec, "after", json_pack("[{s:s, s:i}]", "job", "x", name, 1));
        assert_null(parse(spec, &problems));
        for (unsigned i = 0; i < problems.n; i++) {
            assert_true(lh_utf8_valid(problems.at[i].pointer, strlen(problems.at[i].pointer)));
            assert_true(lh_utf8_valid(problems.at[i].detail, strlen(problems.at[i].detail)));
        }
        memmove(name + 1, name, 1500);
        name[0] = 'x';
    }
}

/* The largest bodies that HTTP lets in stay within the arena, and are answered. */
static void a_body_full_of_rows_is_answered(void **state)
{
    json_t *spec = json_of(TRAIN "}"), *batches = json_array();
    struct lh_problems problems;

    (void)state;
    for (int i = 0; i < 65536; i++)
        json_array_append_new(batches, json_pack("[i]", i));
    json_object_set_new(spec, "resources", json_pack("{s:o}", "micro_batches", batches));
    json_object_set_new(json_object_get(spec, "optim"), "batch_sequences", json_integer(65536));
    lh_job_free(parse(spec, &problems));
    assert_int_equal(problems.n, 0);
}

static void a_null_list_of_problems_is_allowed(void **state)
{
    json_t *spec = json_of("{'kind':'chek'}");
    struct lh_job *job = NULL;
    struct lh_err err = {0};

    (void)state;
    assert_int_equal(lh_job_parse(spec, &job, NULL, &err), LH_EJOB);
    assert_string_equal(err.pointer, "/kind");
    assert_int_equal(lh_job_parse(spec, &job, NULL, NULL), LH_EJOB);
    json_decref(spec);
    lh_job_free(NULL);
}

/* ---- files ---- */

static void a_job_is_read_from_a_file_and_errors_name_it(void **state)
{
    char *dir = scratch_new(), *deep = malloc(300);
    struct lh_job *job = NULL;
    struct lh_err err = {0};

    (void)state;
    put_file(dir, "good.json", "{\"kind\": \"check\"}\n");
    assert_int_equal(lh_job_load(in_dir(dir, "good.json"), &job, &err), 0);
    assert_int_equal(job->kind, LH_KIND_CHECK);
    lh_job_free(job);
    put_file(dir, "bad.json", "{\"kind\": \"check\", \"hold\": 3, \"priority\": \"x\"}");
    assert_int_equal(lh_job_load(in_dir(dir, "bad.json"), &job, &err), LH_EJOB);
    assert_non_null(strstr(err.text, "bad.json"));
    assert_non_null(strstr(err.text, "hold is 3"));
    assert_non_null(strstr(err.text, "priority is \"x\""));
    put_file(dir, "twice.json", "{\"kind\": \"check\", \"kind\": \"check\"}"); /* JOB-1 */
    assert_int_equal(lh_job_load(in_dir(dir, "twice.json"), &job, &err), LH_EJOB);
    assert_int_equal(err.code, LH_EJOB);
    assert_non_null(strstr(err.text, "twice.json"));
    assert_int_equal(lh_job_load(in_dir(dir, "absent.json"), &job, &err), -ENOENT);
    memset(deep, '[', 65);
    memset(deep + 65, ']', 65);
    deep[130] = '\0';
    put_file(dir, "deep.json", deep); /* JOB-1 */
    assert_int_equal(lh_job_load(in_dir(dir, "deep.json"), &job, &err), LH_EJOB);
    assert_non_null(strstr(err.text, "deeper"));
    free(deep);
    scratch_free(dir);
}

/* ---- shared reference cases ---- */

/* A case in the words of a job, without what only a reference result needs. */
static json_t *case_job(const char *path)
{
    static const char *const drop[] = {"about", "loss", "rope_parameters", "checks", "tolerances"};
    json_t *spec = NULL, *micro_batches;

    assert_int_equal(lh_json_load(path, 1 << 20, &spec, NULL), 0);
    for (size_t i = 0; i < LH_ARRAY_LEN(drop); i++)
        (void)json_object_del(spec, drop[i]);
    micro_batches = json_object_get(spec, "micro_batches");
    if (micro_batches) {
        json_object_set_new(spec, "resources", json_pack("{s:O}", "micro_batches", micro_batches));
        (void)json_object_del(spec, "micro_batches");
    }
    return spec;
}

static void reference_cases_are_jobs(void **state)
{
    const char *dir = getenv("LONGHAUL_GOLDEN");
    char pattern[1024];
    unsigned taken = 0;
    glob_t found;

    (void)state;
    (void)snprintf(pattern, sizeof(pattern), "%s/*/case.json",
                   dir ? dir : LH_SOURCE_DIR "/../shared/golden");
    if (glob(pattern, 0, NULL, &found) != 0) {
        print_message("skipped: no reference cases in %s\n", pattern);
        skip();
    }
    for (size_t i = 0; i < found.gl_pathc; i++) {
        json_t *spec = case_job(found.gl_pathv[i]);
        bool train = strcmp(lh_json_str(spec, "kind", ""), "train") == 0;
        bool fot = strstr(found.gl_pathv[i], "/fot-") != NULL;
        struct lh_problems problems;
        struct lh_job *job;

        if (!train) { /* cases of the tokenizer and of the real model are no jobs by themselves */
            json_decref(spec);
            continue;
        }
        job = parse(spec, &problems);
        if ((job == NULL) != fot)
            fail_msg("%s: %s", found.gl_pathv[i], job ? "taken" : problems.at[0].detail);
        for (unsigned k = 0; k < problems.n; k++)
            assert_string_equal(problems.at[k].code, "not_supported");
        taken += job != NULL;
        lh_job_free(job);
    }
    globfree(&found);
    print_message("%u reference cases\n", taken);
    assert_true(taken > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_train_job_gets_every_default),
        TEST(templates_are_names_or_objects_and_may_hold_newlines),
        TEST(every_member_of_a_full_job_arrives),
        TEST(exports_and_prompts_arrive),
        TEST(a_section_may_be_switched_on_and_off),
        TEST(scalings_to_compare_are_read_in_order),
        TEST(good_jobs_are_taken_and_their_echo_is_a_fixed_point),
        TEST(the_echo_of_random_jobs_is_a_fixed_point),
        TEST(the_spec_that_is_parsed_is_only_read),
        TEST(members_of_other_kinds_are_checked_and_echoed_without_their_defaults),
        TEST(null_adapter_trains_everything),
        TEST(steps_and_warmup_follow_from_the_rate),
        TEST(bad_jobs_are_refused_with_pointer_code_and_words),
        TEST(one_mistake_gives_one_problem),
        TEST(all_problems_are_collected),
        TEST(more_problems_than_fit_are_dropped),
        TEST(long_names_are_refused_and_texts_stay_whole),
        TEST(a_body_full_of_rows_is_answered),
        TEST(a_null_list_of_problems_is_allowed),
        TEST(a_job_is_read_from_a_file_and_errors_name_it),
        TEST(reference_cases_are_jobs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
