/* export_publish.c - the end of an export: manifest, rename, result (JOB-35). What lies under its
 * final name is always whole. */
#include "proto/base/fault.h"
#include "proto/base/fs.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "proto/manifest.h"
#include "worker/kinds/export.h"
#include "worker/model/rope.h"
#include <errno.h>
#include <stdio.h>

static void put_result(struct export *x, const struct export_check *c, const struct lh_manifest *m)
{
    json_t *check =
        json_pack("{s:I, s:s, s:f, s:f, s:f}", "tokens", (json_int_t)x->n_ids, "precision",
                  x->compute == KN_F32 ? "fp32" : "bf16", "logit_error", c->logit_error,
                  "logit_limit", c->logit_limit, "angle_error", c->angle_error);

    (void)json_object_set_new(
        x->run->result, "export",
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:b, s:o}", "path", x->final, "format",
                  x->run->job->export.format, "dtype", quant_info(x->type)->name, "bytes",
                  (json_int_t)m->bytes, "tensors", (json_int_t)x->weights.n, "weight_files",
                  (json_int_t)x->files, "max_position_embeddings", (json_int_t)export_positions(x),
                  "rope", rope_json(&x->engine.rope), "tokenizer", x->tokenizer, "check", check));
}

int export_publish(struct export *x, const struct export_check *check, struct lh_err *reterr)
{
    LH_CLEANUP(lh_json_decrefp)
    json_t *about = json_pack("{s:s, s:s, s:s, s:I, s:o}", "name", x->run->job->name, "format",
                              x->run->job->export.format, "dtype", quant_info(x->type)->name,
                              "max_position_embeddings", (json_int_t)export_positions(x), "rope",
                              rope_json(&x->engine.rope));
    struct lh_manifest m = {0};
    int rc = about ? lh_manifest_write(x->tmp, "export", about, &m, reterr)
                   : lh_err_set(reterr, -ENOMEM, "the manifest of the export");

    if (rc < 0)
        return rc;
    lh_fault("export.before_rename");
    rc = lh_remove_tree(x->final, reterr);
    if (rc == 0 && rename(x->tmp, x->final) < 0)
        rc = lh_err_set(reterr, -errno, "rename '%s'", x->tmp);
    if (rc == 0)
        rc = lh_sync_path(x->run->out_dir, reterr);
    if (rc == 0) {
        put_result(x, check, &m);
        lh_info("export.done", "path=%s format=%s dtype=%s bytes=%llu logit_error=%.2g", x->final,
                x->run->job->export.format, quant_info(x->type)->name, (unsigned long long)m.bytes,
                check->logit_error);
    }
    lh_manifest_release(&m);
    return rc;
}
