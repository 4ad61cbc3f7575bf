/* sigv4.h - AWS Signature Version 4 of one request: pure, with the time given.
 *
 * Own code because what libcurl signs (CURLOPT_AWS_SIGV4) differs between its releases, and a given
 * clock lets AWS's published vectors be tests. The caller hands over path and query already encoded
 * as they go over the wire.
 */
#pragma once
#include "proto/base/attr.h"
#include <stddef.h>
#include <stdint.h>

#define SIGV4_HEADERS_MAX 16
#define SIGV4_DATE_MAX 17 /* 20130524T000000Z and a 0 */
#define SIGV4_AUTH_MAX 1024

struct sigv4_keys {
    const char *access, *secret, *region, *service;
};
struct sigv4_header {
    const char *name, *value; /* name in lower case; value without blanks around it */
};
struct sigv4_request {
    const char *method, *path, *query;              /* query: "k=v&k2=" sorted by key, or "" */
    const char *payload_sha256;                     /* 64 hex digits, or UNSIGNED-PAYLOAD */
    struct sigv4_header headers[SIGV4_HEADERS_MAX]; /* sorted by name; with host and x-amz-date */
    unsigned n_headers;
};

/* "20130524T000000Z" of unix_s. */
void sigv4_date(uint64_t unix_s, char ret_date[static SIGV4_DATE_MAX]);

/* The value of the Authorization header. 0, -E2BIG when something is too long for it. */
LH_MUST_CHECK int sigv4_sign(const struct sigv4_request *q, const struct sigv4_keys *keys,
                             uint64_t unix_s, char ret_authorization[static SIGV4_AUTH_MAX]);

/* Percent-encodes all but unreserved characters (and '/' when keep_slash), upper-case hex. -E2BIG
 * when it does not fit. */
LH_MUST_CHECK int sigv4_encode(const char *text, int keep_slash, char *buf, size_t cap);
