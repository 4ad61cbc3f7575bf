/* gguf_file.h - inside of gguf.h: the struct that gguf.c fills and gguf_get.c looks into. */
#pragma once
#include "proto/base/arena.h"
#include "worker/formats/gguf.h"
#include "worker/formats/mapping.h"

struct gguf_file {
    struct mapping map;
    struct lh_arena names;
    struct gguf_value *values;   /* sorted by key once read */
    struct gguf_tensor *tensors; /* in directory order */
    unsigned *by_name;
    unsigned n_values, n_tensors;
};

/* Bytes of a value of each type; 0 for those without a fixed size. */
static const uint8_t gguf_type_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

int gguf_by_key(const void *a, const void *b); /* the order of values */
