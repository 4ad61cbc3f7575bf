/* yaml.h - a job written in YAML, as JSON. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include <jansson.h>
#include <stddef.h>

/* JSON is YAML, so this reads both. Plain scalars follow YAML 1.2's core schema (true, false, null, numbers; anything else is a
 * string); quoted ones are strings. Duplicate keys, anchors, tags and several documents are refused: LH_EINPUT with the line. */
LH_MUST_CHECK int yaml_to_json(const char *text, size_t len, json_t **ret_value, struct lh_err *reterr);
