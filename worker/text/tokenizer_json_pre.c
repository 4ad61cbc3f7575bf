/* tokenizer_json_pre.c - the pre_tokenizer of a tokenizer.json as cutting steps.
 *
 * Split, Digits and ByteLevel, alone or in a Sequence. What is not one of them, or has an option
 * that moves text about (a space put in front, pieces merged with their neighbours), is refused by
 * name.
 */
#include "proto/base/json.h"
#include "worker/text/tokenizer_parts.h"
#include <string.h>

static int add_split(struct tokenizer *t, const json_t *step, struct lh_err *reterr)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const char *regex = lh_json_str(pattern, "Regex", NULL),
               *literal = lh_json_str(pattern, "String", NULL);
    const char *behavior = lh_json_str(step, "behavior", "");
    bool invert = lh_json_bool(step, "invert", 0) != 0;

    if (!regex && !literal)
        return lh_err_set(reterr, LH_EINPUT,
                          "a pre-tokenizer Split has neither a Regex nor a String");
    if (strcmp(behavior, "Isolated") == 0) /* inverting changes nothing: both sides are pieces */
        return tokenizer_step(t, regex ? regex : literal, !regex, true, true, reterr);
    if (strcmp(behavior, "Removed") == 0)
        return tokenizer_step(t, regex ? regex : literal, !regex, invert, !invert, reterr);
    return lh_err_set(reterr, LH_EINPUT,
                      "a pre-tokenizer Split with behavior '%.32s' is not supported", behavior);
}

static int add_byte_level(struct tokenizer *t, const json_t *step, struct lh_err *reterr)
{
    if (lh_json_bool(step, "add_prefix_space", 1))
        return lh_err_set(reterr, LH_EINPUT,
                          "a pre-tokenizer ByteLevel with add_prefix_space is not supported");
    if (!lh_json_bool(step, "use_regex", 1))
        return 0;
    return tokenizer_step(t, PRETOK_GPT2, false, true, true, reterr);
}

/* *byte_level becomes true at the step that makes letters of bytes; nothing but it may come after.
 */
static int add_step(struct tokenizer *t, const json_t *step, bool *byte_level,
                    struct lh_err *reterr)
{
    const char *type = lh_json_str(step, "type", "");

    if (*byte_level)
        return lh_err_set(reterr, LH_EINPUT,
                          "the pre-tokenizer '%.32s' after ByteLevel is not supported", type);
    if (strcmp(type, "Split") == 0)
        return add_split(t, step, reterr);
    if (strcmp(type, "Digits") == 0)
        return tokenizer_step(t, lh_json_bool(step, "individual_digits", 0) ? "\\p{N}" : "\\p{N}+",
                              false, true, true, reterr);
    if (strcmp(type, "ByteLevel") == 0) {
        *byte_level = true;
        return add_byte_level(t, step, reterr);
    }
    return lh_err_set(reterr, LH_EINPUT,
                      "the pre-tokenizer '%.32s' is none of Sequence, Split, Digits, ByteLevel",
                      type);
}

int tokenizer_json_pre(struct tokenizer *t, const json_t *pre, struct lh_err *reterr)
{
    bool byte_level = false;
    int rc = 0;

    if (strcmp(lh_json_str(pre, "type", ""), "Sequence") == 0) {
        const json_t *list = json_object_get(pre, "pretokenizers");
        size_t i;
        json_t *step;

        json_array_foreach(list, i, step)
        {
            rc = add_step(t, step, &byte_level, reterr);
            if (rc < 0)
                return rc;
        }
    } else if (json_is_object(pre)) {
        rc = add_step(t, pre, &byte_level, reterr);
    }
    if (rc == 0 && !byte_level)
        rc = lh_err_set(reterr, LH_EINPUT,
                        "it has no pre-tokenizer ByteLevel; only byte-level BPE is supported");
    return rc;
}
