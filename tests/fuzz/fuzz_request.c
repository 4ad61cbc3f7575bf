/* fuzz_request.c - any bytes as a request target and, behind the first line break, as an Accept
 * header: what comes out of decoding holds no control character and is UTF-8.
 */
#include "daemon/coordinator/api/api.h"
#include "daemon/coordinator/http/internal.h"
#include "proto/base/str.h"
#include "tests/fuzz/fuzz.h"
#include <string.h>

static void check_text(const char *text)
{
    FUZZ_ASSERT(lh_utf8_valid(text, strlen(text)));
    for (const char *p = text; *p; p++)
        FUZZ_ASSERT((unsigned char)*p >= ' ' && *p != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = strndup((const char *)data, LH_MIN(size, (size_t)HTTP_URI_MAX)), *accept;
    struct param header = {.name = "Accept"};
    struct http_request q = {.headers = &header, .n_headers = 1};

    FUZZ_ASSERT(text);
    accept = strchr(text, '\n');
    header.value = accept ? accept + 1 : "";
    if (accept)
        *accept = '\0';
    q.raw_uri = text;
    lh_arena_init(&q.arena, HTTP_ARENA_MAX);
    if (uri_split(&q)) {
        FUZZ_ASSERT(q.path[0] == '/' && q.n_params <= HTTP_PARAMS_MAX);
        check_text(q.path);
        for (unsigned i = 0; i < q.n_params; i++) {
            check_text(q.params[i].name);
            check_text(q.params[i].value);
        }
    }
    if (api_accepts_named(&q, "text/event-stream"))
        FUZZ_ASSERT(api_accepts(&q, "text/event-stream"));
    lh_arena_release(&q.arena);
    free(text);
    return 0;
}
