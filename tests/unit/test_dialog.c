/* test_dialog.c - records to samples: the named templates, what is trained, what records may hold,
 * and the scan for records in .json files. */
#include "tests/unit/hostile.h"
#include "tests/unit/tokenizer_build.h"
#include "worker/data/dialog.h"
#include "worker/data/record_scan.h"

/* A byte a token, and the control tokens of the templates. */
static struct tokenizer *bytes_tokenizer(bool llama3, bool chatml)
{
    static const char *const heads[] = {"<|begin_of_text|>", "<|start_header_id|>",
                                        "<|end_header_id|>", "<|eot_id|>"};
    struct token_build *b = calloc(1, sizeof(*b));
    char *dir = scratch_new();
    struct gguf_build g = {0};
    struct tokenizer *t;
    struct lh_err err = {0};
    struct bytes file;

    tb_bytes(b, "");
    tb_add(b, "<s>", 3);  /* 256 */
    tb_add(b, "</s>", 3); /* 257 */
    for (unsigned i = 0; llama3 && i < LH_ARRAY_LEN(heads); i++)
        tb_add(b, heads[i], 3);
    if (chatml) {
        tb_add(b, "<|im_start|>", 3);
        tb_add(b, "<|im_end|>", 4); /* as some files have it: no control token by its type */
        tb_add(b, "  ", 4);
    }
    tb_gguf_keys(&g, b, "gpt-2");
    gb_u32(&g, "tokenizer.ggml.bos_token_id", 256);
    gb_u32(&g, "tokenizer.ggml.eos_token_id", 257);
    file = gb_finish(&g);
    put_bytes(in_dir(dir, "t.gguf"), file.at, file.n);
    if (tokenizer_open(in_dir(dir, "t.gguf"), &t, &err) < 0)
        fail_msg("%s", err.text);
    free(file.at);
    scratch_free(dir);
    free(b);
    return t;
}

/* The tokens as text, what is trained between ^ and $; "dropped", or the error. Free it. */
static char *render(const struct tokenizer *t, const char *template_, const char *record)
{
    struct dialog *d = NULL;
    struct dialog_scratch *s = dialog_scratch_new();
    struct tokenizer_scratch *words = tokenizer_scratch_new();
    struct token_list ids = {0};
    struct lh_err err = {0};
    char *all = NULL, *json = strdup(template_);
    json_t *object = json_of(record);
    int rc;

    for (char *c = json; json[0] == '{' && *c; c++)
        *c = *c == '\'' ? '"' : *c;
    rc = dialog_open(json, t, &d, &err);
    if (rc == 0)
        rc = dialog_encode(d, s, words, object, &ids, &err);
    if (rc == 0)
        assert_int_equal(ids.n, 0);
    if (rc <= 0) {
        all = strdup(rc == 0 ? "dropped" : err.text);
    } else {
        char *out = all = calloc(ids.n * 32 + 1, 1);

        for (size_t i = 0; i < ids.n; i++) {
            bool now = ids.at[i] & DIALOG_TRAINED;
            bool before = i > 0 && ids.at[i - 1] & DIALOG_TRAINED;
            int32_t id = ids.at[i] & ~DIALOG_TRAINED;
            char *text;
            size_t n;

            if (now && !before)
                *out++ = '^';
            if (!now && before)
                *out++ = '$';
            assert_int_equal(tokenizer_decode(t, &id, 1, &text, &n, NULL), 0);
            /* A control token that was put as such, not spelt. */
            out += sprintf(out, id >= 256 ? "{%s}" : "%s", text);
            free(text);
        }
        if (ids.at[ids.n - 1] & DIALOG_TRAINED)
            *out++ = '$';
    }
    token_list_release(&ids);
    json_decref(object);
    dialog_scratch_free(s);
    tokenizer_scratch_free(words);
    dialog_free(d);
    free(json);
    return all;
}

static void renders(const struct tokenizer *t, const char *template_, const char *record,
                    const char *want)
{
    char *is = render(t, template_, record);

    assert_string_equal(is, want);
    free(is);
}

static void refuses(const struct tokenizer *t, const char *template_, const char *record,
                    const char *says)
{
    char *is = render(t, template_, record);

    if (!strstr(is, says))
        fail_msg("'%s' should say '%s'", is, says);
    free(is);
}

#define ASK "{'instruction':' Hi ','output':'Yo'}"
#define TALK                                                                                       \
    "{'messages':[{'role':'system','content':'Be'},{'role':'user','content':'A'},{'role':"         \
    "'assistant','content':'B'},{'role':'user','content':'C'},{'role':'assistant','content':'D'}," \
    "{'role':'user','content':'E'}],'id':7}"

/* JOB-26, JOB-27, JOB-30 */
static void the_named_templates_write_what_they_stand_for(void **state)
{
    struct tokenizer *t = bytes_tokenizer(true, true);

    (void)state;
    renders(t, "plain", ASK, " Hi \n^Yo{</s>}$");
    renders(t, "plain", TALK, "Be\nA\n^B{</s>}$\nC\n^D{</s>}$");
    renders(t, "alpaca", ASK,
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\n Hi \n\n### Response:^Yo{</s>}$");
    renders(t, "alpaca", "{'instruction':'Sum','input':'1 2','output':'3'}",
            "Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nSum\n\n### Input:\n1 2\n\n### Response:^3{</s>}$");
    renders(t, "alpaca", TALK,
            "Be\n\n### Instruction:\nA\n\n### Response:^B{</s>}$\n\n### Instruction:\nC\n\n"
            "### Response:^D{</s>}$");
    renders(t, "llama2", ASK, "{<s>}[INST] Hi [/INST]^ Yo {</s>}$");
    renders(t, "llama2", TALK,
            "{<s>}[INST] <<SYS>>\nBe\n<</SYS>>\n\nA [/INST]^ B {</s>}${<s>}[INST] C [/INST]^ D "
            "{</s>}$");
    renders(t, "llama3", TALK,
            "{<|begin_of_text|>}{<|start_header_id|>}system{<|end_header_id|>}\n\nBe{<|eot_id|>}"
            "{<|start_header_id|>}user{<|end_header_id|>}\n\nA{<|eot_id|>}"
            "{<|start_header_id|>}assistant{<|end_header_id|>}\n\n^B{<|eot_id|>}$"
            "{<|start_header_id|>}user{<|end_header_id|>}\n\nC{<|eot_id|>}"
            "{<|start_header_id|>}assistant{<|end_header_id|>}\n\n^D{<|eot_id|>}$");
    renders(t, "chatml", TALK,
            "{<|im_start|>}system\nBe{<|im_end|>}\n{<|im_start|>}user\nA{<|im_end|>}\n"
            "{<|im_start|>}assistant\n^B{<|im_end|>}$\n{<|im_start|>}user\nC{<|im_end|>}\n"
            "{<|im_start|>}assistant\n^D{<|im_end|>}$");
    renders(t, "chatml", "{'instruction':'I','input':'','system':'S','output':'O'}",
            "{<|im_start|>}system\nS{<|im_end|>}\n{<|im_start|>}user\nI{<|im_end|>}\n"
            "{<|im_start|>}assistant\n^O{<|im_end|>}$");
    renders(t, "chatml", "{'instruction':'I','input':'J','output':'O'}",
            "{<|im_start|>}user\nI\nJ{<|im_end|>}\n{<|im_start|>}assistant\n^O{<|im_end|>}$");
    tokenizer_free(t);
}

/* JOB-27 */
static void the_text_of_a_record_cannot_become_a_control_token(void **state)
{
    struct tokenizer *t = bytes_tokenizer(true, true);

    (void)state;
    renders(t, "chatml",
            "{'instruction':'<|im_end|><|im_start|>system</s>','output':'<|im_end|><|eot_id|>'}",
            "{<|im_start|>}user\n<|im_end|><|im_start|>system</s>{<|im_end|>}\n{<|im_start|>}"
            "assistant\n^<|im_end|><|eot_id|>{<|im_end|>}$");
    /* Neither by joining what the template says and what the record says. */
    renders(t, "{'user':'<|im_{content}','answer':'{content}{eos}'}",
            "{'instruction':'start|>','output':'x'}", "<|im_start|>^x{</s>}$");
    /* An added token that is no control token is still one. */
    renders(t, "plain", "{'instruction':'a  b','output':'x'}", "a{  }b\n^x{</s>}$");
    tokenizer_free(t);
}

/* JOB-29, JOB-30 */
static void a_template_of_the_job_says_it_all(void **state)
{
    struct tokenizer *t = bytes_tokenizer(false, true);

    (void)state;
    renders(t,
            "{'begin':'{bos}','user':'U {content}{x}','assistant':'A:','answer':'{content}"
            "<|im_end|>.','after':';','default_system':'dflt','system':'S {content}!'}",
            TALK, "{<s>}S Be!U A{x}A:^B{<|im_end|>}.$;U C{x}A:^D{<|im_end|>}.$");
    renders(t,
            "{'user':'{system}<{content}>','user_with_input':'<{input}|{content}>',"
            "'answer':'{content}','default_system':'D','system':'({content})'}",
            ASK, "(D)< Hi >^Yo$");
    renders(t,
            "{'user':'{system}<{content}>','user_with_input':'<{input}|{content}>',"
            "'answer':'{content}','default_system':'D','system':'({content})'}",
            "{'instruction':'I','input':'J','output':'O'}", "<J|I>^O$");
    renders(t,
            "{'user':'{system}<{content}>','user_with_input':'<{input}|{content}>',"
            "'answer':'{content}','default_system':'D','system':'({content})'}",
            "{'instruction':'I','input':'J','output':'O','system':'S'}", "(S)<J|I>^O$");
    renders(t, "{'like':'plain','trim':true,'answer':'{content}.'}", ASK, "Hi\n^Yo.$");
    renders(t, "{'like':'alpaca','default_system':''}", ASK,
            "### Instruction:\n Hi \n\n### Response:^Yo{</s>}$");
    refuses(t, "llama3", ASK, "needs the token '<|begin_of_text|>'");
    refuses(t, "{'like':'plain','after':'x<|end|>'}", ASK, "needs the token '<|end|>'");
    renders(t, "{'like':'plain','begin':'<|no end <| |><||>'}", ASK,
            "<|no end <| |><||> Hi \n^Yo{</s>}$");
    refuses(t, "{'like':'plain','after':'{content}'}", ASK, "after cannot hold {content}");
    refuses(t, "{'like':'plain','system':'{content}{system}'}", ASK, "system cannot hold {system}");
    refuses(t, "{'user':'{content}','answer':'{content}','default_system':'x'}", ASK,
            "no \"system\"");
    refuses(t, "{'user':'{content}','answer':'{content}'}", TALK, "a system message, for which");
    tokenizer_free(t);
}

static void records_without_an_answer_are_dropped_and_wrong_ones_refused(void **state)
{
    static const struct {
        const char *record, *says;
    } bad[] = {
        {"{}", "neither 'messages' nor 'instruction'"},
        {"[]", "neither 'messages' nor 'instruction'"},
        {"{'instruction':'x'}", "'output' is missing"},
        {"{'instruction':'x','output':7}", "'output' is not a text"},
        {"{'instruction':'x','output':'y','input':[]}", "'input' is not a text"},
        {"{'messages':{}}", "not a list"},
        {"{'messages':['x']}", "message 0 is not"},
        {"{'messages':[{'role':'user','content':'x'},{'role':'assistant'}]}", "message 1 is not"},
        {"{'messages':[{'role':'tool','content':'x'}]}", "role 'tool'"},
        {"{'messages':[{'role':'user','content':'x'},{'role':'system','content':'y'}]}",
         "message 1 is of the system"},
    };
    struct tokenizer *t = bytes_tokenizer(false, false);

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(bad); i++)
        refuses(t, "plain", bad[i].record, bad[i].says);
    renders(t, "plain", "{'instruction':'x','output':''}", "dropped");
    renders(t, "plain", "{'messages':[]}", "dropped");
    renders(t, "plain", "{'messages':[{'role':'user','content':'x'}]}", "dropped");
    renders(t, "{'like':'plain','trim':true}", "{'instruction':'x','output':' \\n\\u3000'}",
            "dropped");
    /* An empty answer between others stands there, and trains nothing. */
    renders(t, "plain",
            "{'messages':[{'role':'user','content':'a'},{'role':'assistant','content':''},"
            "{'role':'assistant','content':'b'}]}",
            "a\n{</s>}\n^b{</s>}$");
    tokenizer_free(t);
}

static void the_digest_follows_what_a_template_says(void **state)
{
    static const char *const texts[] = {"plain",
                                        "alpaca",
                                        "llama2",
                                        "{\"like\":\"plain\",\"trim\":true}",
                                        "{\"like\":\"plain\",\"begin\":\"\"}",
                                        "{\"like\":\"plain\",\"assistant\":\"{content\"}"};
    struct tokenizer *t = bytes_tokenizer(false, false);
    char seen[LH_ARRAY_LEN(texts) + 1][LH_SHA256_HEX];
    struct dialog *d;

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(texts); i++) {
        assert_int_equal(dialog_open(texts[i], t, &d, NULL), 0);
        dialog_digest(d, seen[i]);
        dialog_free(d);
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(seen[i], seen[k]);
    }
    assert_int_equal(dialog_open("{\"like\":\"plain\"}", t, &d, NULL), 0);
    dialog_digest(d, seen[LH_ARRAY_LEN(texts)]);
    assert_string_equal(seen[LH_ARRAY_LEN(texts)], seen[0]);
    dialog_free(d);
    tokenizer_free(t);
}

/* JOB-26 */
static void records_are_found_in_any_pieces(void **state)
{
    static const struct {
        const char *text;
        unsigned records;
        size_t wrong; /* offset of the byte that cannot stand there, or the length */
        bool whole;
    } cases[] = {
        {" [ {\"a\":\"}]\\\"{\"} , {\"b\":[{},[1]]}\n]\n", 2, 99, true},
        {"[]", 0, 99, true},
        {"{\"a\":{}}\n{\"b\":\"\\\\\"}", 2, 99, true},
        {"[{},{}", 2, 99, false},
        {"[{\"a", 0, 99, false},
        {"[{},]", 1, 4, false},
        {"[{}{}]", 1, 3, false},
        {"[1]", 0, 1, false},
        {"{},{}", 1, 2, true},
        {"[{}] x", 1, 5, true},
        {"\"a\"", 0, 0, true},
    };

    (void)state;
    for (unsigned i = 0; i < LH_ARRAY_LEN(cases); i++) {
        size_t n = strlen(cases[i].text), wrong = LH_MIN(n, cases[i].wrong);

        for (size_t piece = 1; piece <= n; piece++) {
            struct record_scan s = {0};
            unsigned records = 0;
            size_t at = 0, m = 1;

            while (at < n && m > 0) {
                size_t want = LH_MIN(piece, n - at), end;
                uint64_t some;

                m = record_scan(&s, cases[i].text + at, want, &end, &some);
                assert_true((end > 0) == (some > 0));
                if (end > 0)
                    assert_int_equal(cases[i].text[at + end - 1], '}');
                records += (unsigned)some;
                at += m;
                if (m < want)
                    break;
            }
            assert_int_equal(at, wrong);
            assert_int_equal(records, cases[i].records);
            assert_int_equal(record_scan_whole(&s), cases[i].whole);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_named_templates_write_what_they_stand_for),
        TEST(the_text_of_a_record_cannot_become_a_control_token),
        TEST(a_template_of_the_job_says_it_all),
        TEST(records_without_an_answer_are_dropped_and_wrong_ones_refused),
        TEST(the_digest_follows_what_a_template_says),
        TEST(records_are_found_in_any_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
