/* ship.c - see ship.h.
 *
 * The coordinator's size is the truth: after a restart of either side the first piece is empty, and
 * the answer says where to go on. A file that it refuses for good is given up; one request is under
 * way for each attempt.
 */
#include "daemon/node/ship.h"
#include "daemon/node/link.h"
#include "proto/base/clock.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES (1u << 20) /* NODE-7 */
#define TIMEOUT_MS 30000
#define AGAIN_MS 1000
#define LAUNCH_LOG_BYTES (4u << 20) /* the shim cuts the file here while mpirun lives */

struct ship_file {
    char name[32], path[64]; /* as the coordinator calls it; below the attempt's directory */
    uint64_t offset;
    bool doubtful, given_up, cut;
};
struct ship {
    struct held *held;
    struct ship_file *files;
    unsigned n, next;
    bool sending;
    uint64_t again_ms; /* monotonic: not before */
    struct ship_file *under_way;
    char *piece;
};

static void add(struct ship *s, const char *name, const char *path)
{
    struct ship_file *f = &s->files[s->n++];

    (void)snprintf(f->name, sizeof(f->name), "%s", name);
    (void)snprintf(f->path, sizeof(f->path), "%s", path);
    f->doubtful = true;
}

struct ship *ship_new(struct held *h)
{
    struct ship *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->held = h;
    s->files = calloc((size_t)h->n_local + 2, sizeof(*s->files));
    if (!s->files) {
        free(s);
        return NULL;
    }
    if (h->head) {
        add(s, "events.jsonl", "out/events/rank-0.jsonl");
        add(s, "launch.log", "logs/launch.log");
        s->files[1].cut = true;
    }
    for (unsigned i = 0; i < h->n_local; i++) {
        char name[32], path[64];

        (void)snprintf(name, sizeof(name), "%u.log", h->rank0 + i);
        (void)snprintf(path, sizeof(path), "logs/rank-%u.log", h->rank0 + i);
        add(s, name, path);
    }
    return s;
}

void ship_free(struct ship *s)
{
    if (!s)
        return;
    free(s->piece);
    free(s->files);
    free(s);
}

void ship_doubt(struct ship *s)
{
    for (unsigned i = 0; i < s->n; i++)
        s->files[i].doubtful = true;
}

static uint64_t there(const struct ship *s, const struct ship_file *f)
{
    char path[NODE_PATH_MAX];
    struct stat st;
    uint64_t size;

    if (stat(held_path(s->held, path, f->path), &st) < 0)
        return 0;
    size = (uint64_t)st.st_size;
    return f->cut && s->held->state != HELD_OVER ? LH_MIN(size, (uint64_t)LAUNCH_LOG_BYTES) : size;
}

static bool has_news(const struct ship *s, const struct ship_file *f)
{
    uint64_t size = f->given_up ? 0 : there(s, f);

    return size > 0 && (f->doubtful || size > f->offset);
}

bool ship_is_done(const struct ship *s)
{
    for (unsigned i = 0; i < s->n; i++)
        if (has_news(s, &s->files[i]))
            return false;
    return !s->sending;
}

static void ship_on_answer(void *arg, const struct client_reply *reply)
{
    struct ship *s = arg;
    struct ship_file *f = s->under_way;
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    int64_t size = -1;

    s->sending = false;
    s->held->workers--;
    if (lh_json_parse(reply->body, reply->len, 16, &o, NULL) == 0)
        size = lh_json_i64(o, "size", -1);
    if ((reply->status == 200 || reply->status == 409) && size >= 0) {
        f->offset = (uint64_t)size;
        f->doubtful = false;
        ship_tick(s);
        return;
    }
    if (reply->status == 409) { /* of another kind: we are not registered */
        link_lost(s->held->node->link);
    } else if (reply->status == 404 || reply->status == 400 || reply->status == 413) {
        f->given_up = true;
        lh_warn("ship.refused", "job=%s attempt=%" PRIu64 " file=%s status=%d", s->held->job,
                s->held->number, f->name, reply->status);
    }
    s->again_ms = lh_mono_ms() + AGAIN_MS;
}

/* The next piece of f into s->piece; a doubtful file is asked about with an empty one. */
static ssize_t read_piece(struct ship *s, const struct ship_file *f)
{
    char path[NODE_PATH_MAX];
    uint64_t left;
    ssize_t n;
    int fd;

    if (f->doubtful)
        return 0;
    left = there(s, f) - f->offset;
    fd = open(held_path(s->held, path, f->path), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    n = pread(fd, s->piece, (size_t)LH_MIN(left, (uint64_t)PIECE_BYTES), (off_t)f->offset);
    if (n < 0)
        n = -errno;
    (void)close(fd);
    return n;
}

static void send_piece(struct ship *s, struct ship_file *f)
{
    const struct node *n = s->held->node;
    char url[NODE_PATH_MAX + 256];
    struct client_request q = {.method = "PUT",
                               .url = url,
                               .content_type = "application/octet-stream",
                               .timeout_ms = TIMEOUT_MS,
                               .answer_max = 64u << 10};
    struct lh_err err;
    ssize_t len;

    if (!s->piece && !(s->piece = malloc(PIECE_BYTES)))
        return;
    len = read_piece(s, f);
    if (len < 0 || (len == 0 && !f->doubtful))
        return;
    (void)snprintf(url, sizeof(url),
                   "%s/v1/node/files/%s/%" PRIu64 "/%s?offset=%" PRIu64
                   "&name=%s&agent_id=%s&epoch=%" PRIu64,
                   n->config.coordinator, s->held->job, s->held->number, f->name,
                   f->doubtful ? 0 : f->offset, n->config.name, n->agent_id, link_epoch(n->link));
    q.body = s->piece;
    q.body_len = (size_t)len;
    s->under_way = f;
    if (client_send(n->client, &q, ship_on_answer, s, NULL, &err) < 0) {
        s->again_ms = lh_mono_ms() + AGAIN_MS;
        return;
    }
    s->sending = true;
    s->held->workers++; /* the entry stays until the answer is there */
}

void ship_tick(struct ship *s)
{
    if (s->sending || !link_is_up(s->held->node->link) || lh_mono_ms() < s->again_ms ||
        s->held->node->stopping)
        return;
    for (unsigned i = 0; i < s->n; i++) {
        struct ship_file *f = &s->files[(s->next + i) % s->n];

        if (!has_news(s, f))
            continue;
        s->next = (s->next + i + 1) % s->n;
        send_piece(s, f);
        break;
    }
    if (!s->sending && s->held->state == HELD_OVER) { /* nothing more will come */
        free(s->piece);
        s->piece = NULL;
    }
}
