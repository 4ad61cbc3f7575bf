/* s3.h - single requests to an S3 server: signed, bounded in time, with errors that say whether to
 * try again.
 *
 * Blocking: for worker threads. One session is used by one thread. Path style, so any endpoint
 * works.
 */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/buf.h"
#include "proto/base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct s3;

struct s3_request {
    const char *method;
    const char *key;   /* not encoded; without leading '/' */
    const char *query; /* encoded and sorted, or "" */
    const void *body;  /* with body_len bytes, or NULL */
    size_t body_len;
    const char *body_sha256;        /* hex, of body; NULL: computed */
    bool checksum;                  /* send x-amz-checksum-sha256 of the body */
    bool if_none_match;             /* If-None-Match: * */
    bool checksum_mode;             /* ask for the checksum (HEAD) */
    const char *checksum_algorithm; /* of a multipart upload to create, or NULL */
    int out_fd;                     /* -1: the answer goes into reply->body */
    uint64_t out_max;               /* bytes at most */
};
struct s3_reply {
    int status;
    struct lh_buf body; /* release with s3_reply_release */
    uint64_t length;    /* Content-Length */
    char etag[80];      /* with its quotes */
    char checksum[80];  /* x-amz-checksum-sha256 */
};

/* Credentials and endpoint from the file (NAME=value lines) or the environment: AWS_ACCESS_KEY_ID,
 * AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL. */
LH_MUST_CHECK int s3_open(const char *bucket, const char *config, const volatile bool *cancel,
                          struct s3 **ret_s3, struct lh_err *reterr);
void s3_close(struct s3 *s);

/* 0 when the server answered 2xx. LH_ETRYAGAIN: no answer, 5xx, 429, 408. -ENOENT: 404. -EEXIST:
 * 412. LH_EREMOTE: the rest, with the server's code and message. The reply is to be released in
 * every case. */
LH_MUST_CHECK int s3_send(struct s3 *s, const struct s3_request *q, struct s3_reply *ret_reply,
                          struct lh_err *reterr);
void s3_reply_release(struct s3_reply *r);

/* The text of the first <tag> in an answer, into buf; false when it has none. */
bool s3_xml(const struct s3_reply *r, const char *tag, char *buf, size_t cap);

/* Every object whose key begins with prefix, in the order of their keys; fn returning negative ends
 * it with that code. */
typedef int s3_object_fn(void *arg, const char *key, uint64_t bytes, const char *etag,
                         struct lh_err *reterr);
LH_MUST_CHECK int s3_list(struct s3 *s, const char *prefix, s3_object_fn *fn, void *arg,
                          struct lh_err *reterr); /* s3_list.c */
