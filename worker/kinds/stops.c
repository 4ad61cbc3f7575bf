/* stops.c - see stops.h. */
#include "worker/kinds/stops.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <stdio.h>

static void stops_add(struct stops *s, int64_t id, int64_t vocab)
{
    if (id >= 0 && id < vocab && s->n < STOPS_MAX && !stops_has(s, (int32_t)id))
        s->ids[s->n++] = (int32_t)id;
}

/* eos_token_id is one id or a list of them. */
static void stops_add_of(struct stops *s, const json_t *config, int64_t vocab)
{
    const json_t *ids = json_object_get(config, "eos_token_id"), *id;
    size_t i;

    stops_add(s, json_is_integer(ids) ? json_integer_value(ids) : -1, vocab);
    json_array_foreach(ids, i, id)
        stops_add(s, json_is_integer(id) ? json_integer_value(id) : -1, vocab);
}

int stops_find(struct stops *s, const char *path, const struct model_config *config,
               const struct tokenizer *t, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *more = NULL;
    char generation[1200];
    int rc = 0;

    stops_add(s, tokenizer_eos(t), config->vocab);
    stops_add_of(s, config->raw, config->vocab);
    (void)snprintf(generation, sizeof(generation), "%s/generation_config.json", path);
    if (lh_path_exists(generation))
        rc = lh_json_load(generation, 1u << 20, &more, reterr);
    stops_add_of(s, more, config->vocab);
    return rc;
}

bool stops_has(const struct stops *s, int32_t id)
{
    for (unsigned i = 0; i < s->n; i++)
        if (s->ids[i] == id)
            return true;
    return false;
}
