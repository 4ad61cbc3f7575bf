/* positions.c - see positions.h. */
#include "worker/kinds/positions.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "worker/formats/hf_config.h"
#include "worker/model/rope.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define STATE_MAX (4u << 20) /* a job of at most 1 MiB and room */

/* The scaling in rope_parameters' words, read as the base's config would be with it. */
static int parse_rope(const json_t *rope, const char *where, const struct model_config *base,
                      struct rope_config *ret_rope, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *raw = json_copy(base->raw);
    struct model_config c;
    int rc;

    if (!raw)
        return lh_err_set(reterr, -ENOMEM, "positions of '%s'", where);
    (void)json_object_del(raw, "rope_scaling");
    (void)json_object_del(raw, "rope_theta");
    (void)json_object_set(raw, "rope_parameters", (json_t *)(uintptr_t)rope);
    rc = hf_config_parse(raw, where, &c, reterr);
    if (rc < 0)
        return rc;
    *ret_rope = c.rope;
    json_decref(c.raw);
    return 0;
}

/* 1 and the checkpoint's own; 0 when adapter_dir is no checkpoint. */
static int trained(const char *adapter_dir, const struct model_config *base,
                   struct rope_config *ret_rope, int64_t *ret_length, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *state = NULL;
    const json_t *context, *rope;
    char path[1100];
    int rc;

    (void)snprintf(path, sizeof(path), "%s/state.json", adapter_dir);
    if (!*adapter_dir || !lh_path_exists(path))
        return 0;
    rc = lh_json_load(path, STATE_MAX, &state, reterr);
    if (rc < 0)
        return rc;
    context = json_object_get(state, "context");
    rope = json_object_get(context, "rope");
    *ret_length = lh_json_i64(context, "length", 0);
    if (!json_is_object(rope) || *ret_length < 1 || *ret_length > (int64_t)1 << 32)
        return lh_err_at(reterr, LH_EINPUT, "/model/adapter",
                         "'%s' has no context with length and rope; is it a checkpoint's?", path);
    rc = parse_rope(rope, path, base, ret_rope, reterr);
    return rc < 0 ? rc : 1;
}

static int same_scaling(const struct rope_config *was, const struct rope_config *is,
                        struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *a = rope_json(was);
    LH_CLEANUP(lh_json_decrefp) json_t *b = rope_json(is);
    char *a_text = lh_json_text(a, 0), *b_text = lh_json_text(b, 0);
    int rc = 0;

    if (!a_text || !b_text)
        rc = lh_err_set(reterr, -ENOMEM, "positions of the checkpoint");
    else if (!json_equal(a, b))
        rc = lh_err_at(reterr, LH_EJOB, "/context/rope",
                       "the checkpoint was trained with %.200s, the job comes to %.200s; leave "
                       "context.rope out to take the checkpoint's",
                       a_text, b_text);
    free(a_text);
    free(b_text);
    return rc;
}

int positions_finished(const struct lh_job *job, const struct model_config *base,
                       const char *adapter_dir, struct rope_config *ret_rope, int64_t *ret_length,
                       struct lh_err *reterr)
{
    bool asked = job->context.rope.has_type || job->context.rope.factor > 0;
    struct rope_config rope = base->rope;
    struct lh_job wish = *job; /* with a length, where the job leaves it out; owns nothing */
    int64_t length = 0;
    int found = trained(adapter_dir, base, &rope, &length, reterr), rc = 0;

    if (found < 0)
        return found;
    if (length == 0) /* no checkpoint: as far as the base goes, or is stretched to */
        length = (int64_t)((double)base->max_positions *
                           (job->context.rope.factor > 0 ? job->context.rope.factor : 1));
    if (job->context.length > 0)
        length = job->context.length;
    wish.context.length = length;
    /* The exported config has a longer window, so what it is scaled from must be told. */
    if (rope.type != LH_ROPE_DEFAULT && rope.original_length <= 0)
        rope.original_length = (double)base->max_positions;
    if (asked || (!found && job->context.length > 0)) {
        struct rope_config composed = rope;

        rc = rope_compose(&wish, base, &composed, reterr);
        if (rc == 0 && found)
            rc = same_scaling(&rope, &composed, reterr);
        rope = composed;
    }
    if (rc < 0)
        return rc;
    *ret_rope = rope;
    *ret_length = length;
    return 0;
}
