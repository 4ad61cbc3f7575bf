/* fence.c - see fence.h. */
#include "daemon/node/fence.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int fence_load(const char *path, struct fence *ret_fence, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    struct fence f = {0};
    int rc = 0;

    (void)snprintf(f.path, sizeof(f.path), "%s", path);
    if (lh_path_exists(path))
        rc = lh_json_load(path, 4096, &o, reterr);
    if (rc < 0)
        return lh_err_prefix(reterr, rc,
                             "without the fence it is not known which coordinator to obey");
    if (o) {
        (void)snprintf(f.cluster, sizeof(f.cluster), "%s", lh_json_str(o, "cluster", ""));
        f.epoch = (uint64_t)lh_json_i64(o, "epoch", 0);
    }
    *ret_fence = f;
    return 0;
}

int fence_admit(struct fence *f, const char *cluster, uint64_t epoch, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp) json_t *o = NULL;
    int rc;

    if (!cluster[0] || epoch == 0 || strlen(cluster) >= sizeof(f->cluster))
        return lh_err_set(reterr, -EINVAL, "the answer names no cluster or epoch");
    if (f->cluster[0] && strcmp(f->cluster, cluster) != 0)
        return lh_err_set(reterr, -EXDEV,
                          "this node belongs to cluster %s, the coordinator is of cluster %s; to "
                          "move the node, stop it "
                          "and remove '%s'",
                          f->cluster, cluster, f->path);
    if (epoch < f->epoch)
        return lh_err_set(reterr, -ESTALE,
                          "the coordinator's epoch %" PRIu64 " is older than %" PRIu64
                          ", which was obeyed before: it runs on "
                          "an old copy of its database, or a second one is running",
                          epoch, f->epoch);
    if (epoch == f->epoch)
        return 0;
    o = json_pack("{s:s, s:I}", "cluster", cluster, "epoch", (json_int_t)epoch);
    rc = o ? lh_json_save(f->path, o, reterr) : lh_err_set(reterr, -ENOMEM, "fence");
    if (rc < 0)
        return rc;
    (void)snprintf(f->cluster, sizeof(f->cluster), "%s", cluster);
    f->epoch = epoch;
    return 0;
}
