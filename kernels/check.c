/* check.c - the argument checks of check.h. */
#include "kernels/check.h"
#include <stdarg.h>
#include <stdio.h>

#define HEAD_SIZE_MIN 2
#define HEAD_SIZE_MAX 256 /* scratch of the tuned kernels is laid out for this */

static bool check_fail(struct kn_check ck, const char *fmt, ...) LH_PRINTF(2, 3);

static bool check_fail(struct kn_check ck, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    if (ck.err->code != 0)
        return false;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    (void)lh_err_set(ck.err, LH_EINTERNAL, "%s: %s", ck.op, text);
    return false;
}

bool kn_check_mat(struct kn_check ck, const char *name, struct kn_mat m)
{
    if (ck.err->code != 0)
        return false;
    if (m.t != KN_F32 && m.t != KN_BF16 && !(m.t == KN_F64 && ck.f64))
        return check_fail(ck, "%s has element type %d, which this back end does not take", name,
                          (int)m.t);
    if (m.rows < 0 || m.cols < 0 || m.ld < m.cols)
        return check_fail(ck, "%s is %lld x %lld with row stride %lld", name, (long long)m.rows,
                          (long long)m.cols, (long long)m.ld);
    if (!m.p && m.rows > 0 && m.cols > 0)
        return check_fail(ck, "%s has no memory", name);
    return true;
}

bool kn_check_shape(struct kn_check ck, const char *name, struct kn_mat m, int64_t rows,
                    int64_t cols)
{
    if (!kn_check_mat(ck, name, m))
        return false;
    if (m.rows != rows || m.cols != cols)
        return check_fail(ck, "%s is %lld x %lld, not %lld x %lld", name, (long long)m.rows,
                          (long long)m.cols, (long long)rows, (long long)cols);
    return true;
}

bool kn_check_same(struct kn_check ck, const char *name_a, struct kn_mat a, const char *name_b,
                   struct kn_mat b)
{
    return kn_check_mat(ck, name_a, a) && kn_check_shape(ck, name_b, b, a.rows, a.cols);
}

bool kn_check_matmul(struct kn_check ck, struct kn_mat c, struct kn_mat a, bool ta, struct kn_mat b,
                     bool tb, float beta)
{
    int64_t K = ta ? a.rows : a.cols;

    if (!kn_check_mat(ck, "c", c) ||
        !kn_check_shape(ck, "a", a, ta ? K : c.rows, ta ? c.rows : K) ||
        !kn_check_shape(ck, "b", b, tb ? c.cols : K, tb ? K : c.cols))
        return false;
    if (a.t != b.t || (c.t != a.t && !(a.t == KN_BF16 && c.t == KN_F32)))
        return check_fail(ck, "element types %d = %d x %d do not go together", (int)c.t, (int)a.t,
                          (int)b.t);
    if (beta != 0.0f && beta != 1.0f)
        return check_fail(ck, "beta is %g, not 0 or 1", (double)beta);
    return true;
}

static bool check_head_size(struct kn_check ck, int64_t D)
{
    if (D < HEAD_SIZE_MIN || D > HEAD_SIZE_MAX || D % 2 != 0)
        return check_fail(ck, "head size %lld is not an even number from %d to %d", (long long)D,
                          HEAD_SIZE_MIN, HEAD_SIZE_MAX);
    return true;
}

bool kn_check_attention(struct kn_check ck, struct kn_mat q, struct kn_mat k, struct kn_mat v,
                        int64_t Tq, int64_t T, struct kn_heads h)
{
    if (!check_head_size(ck, h.D))
        return false;
    if (h.H < 1 || h.KV < 1 || h.H % h.KV != 0)
        return check_fail(ck, "%lld query heads do not share %lld kv heads evenly", (long long)h.H,
                          (long long)h.KV);
    if (!kn_check_shape(ck, "q", q, Tq, h.H * h.D) || !kn_check_shape(ck, "k", k, T, h.KV * h.D) ||
        !kn_check_shape(ck, "v", v, T, h.KV * h.D))
        return false;
    if (q.t != k.t || q.t != v.t)
        return check_fail(ck, "q, k, v have element types %d, %d, %d", (int)q.t, (int)k.t,
                          (int)v.t);
    return true;
}

bool kn_check_heads_of(struct kn_check ck, const char *name, struct kn_mat m, int64_t D)
{
    if (!kn_check_mat(ck, name, m) || !check_head_size(ck, D))
        return false;
    if (m.cols % D != 0)
        return check_fail(ck, "%s has %lld columns, not whole heads of %lld", name,
                          (long long)m.cols, (long long)D);
    return true;
}

bool kn_check_ids(struct kn_check ck, const char *name, const int32_t *id, int64_t n, int64_t limit)
{
    for (int64_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= limit)
            return check_fail(ck, "%s[%lld] is %d, outside of 0..%lld", name, (long long)i, id[i],
                              (long long)limit - 1);
    return true;
}

bool kn_check_labels(struct kn_check ck, const int32_t *label, int64_t n, int64_t limit)
{
    for (int64_t i = 0; i < n; i++)
        if (label[i] != KN_NO_LABEL && (label[i] < 0 || label[i] >= limit))
            return check_fail(ck, "label[%lld] is %d, neither -100 nor in 0..%lld", (long long)i,
                              label[i], (long long)limit - 1);
    return true;
}

bool kn_check_cross_entropy(struct kn_check ck, struct kn_mat d, struct kn_mat x, struct kn_mat w,
                            const int32_t *label)
{
    if (!kn_check_mat(ck, "x", x) || !kn_check_shape(ck, "w", w, w.rows, x.cols) ||
        (d.p && !kn_check_shape(ck, "d", d, w.rows, x.rows)))
        return false;
    if (w.t != x.t || (d.p && d.t != x.t))
        return check_fail(ck, "element types of x, w and d are %d, %d, %d, not one", (int)x.t,
                          (int)w.t, (int)d.t);
    return kn_check_labels(ck, label, x.rows, w.rows);
}

bool kn_check_matmul_low(struct kn_check ck, struct kn_mat c, struct kn_mat z, struct kn_mat a,
                         struct kn_mat b, struct kn_mat p, struct kn_mat q, bool t, float beta)
{
    if (!kn_check_matmul(ck, c, a, false, b, t, beta) ||
        !kn_check_matmul(ck, z, a, false, p, t, 0.0f) ||
        !kn_check_matmul(ck, c, z, false, q, t, 1.0f))
        return false;
    if (c.t != a.t || z.t != a.t)
        return check_fail(ck, "element types of c, z and a are %d, %d, %d, not one", (int)c.t,
                          (int)z.t, (int)a.t);
    return true;
}
