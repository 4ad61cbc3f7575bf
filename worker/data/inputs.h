/* inputs.h - the files that a list of addresses names, globs expanded. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"
#include "proto/job.h"

#define INPUT_FILES_MAX 1000000u

struct input_list {
    char **paths; /* owned; of each address in turn, the matches of a glob sorted by bytes */
    unsigned n;
};

/* LH_EINPUT: an address that is not local, matches nothing, or is a directory. A path that exists
 * as it is written is taken as it is, whatever characters it has. */
LH_MUST_CHECK int input_list_expand(const struct lh_strings *uris, struct input_list *ret_list,
                                    struct lh_err *reterr);
void input_list_release(struct input_list *l);
