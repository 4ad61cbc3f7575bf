/* rope.c - the angles of rotary positions; see rope.h. Pure functions, all in double.
 *
 * With D the head size and i in [0, D/2), the plain angle per position is theta^(-2i/D). Each
 * scheme changes that list and may scale cosines and sines. The formulas are those of Hugging Face
 * transformers, whose configs we read and write.
 */
#include "worker/model/rope.h"
#include <assert.h>
#include <math.h>
#include <string.h>

#define POINTER "/context/rope"

double rope_job_factor(const struct lh_job *job, const struct model_config *base)
{
    double reach;

    if (job->context.rope.factor > 0)
        return job->context.rope.factor;
    if (job->context.rope.has_type && job->context.rope.type == LH_ROPE_DEFAULT)
        return 1;
    if (base->rope.type == LH_ROPE_DYNAMIC) /* it goes with the length by itself */
        return 1;
    reach =
        (double)base->max_positions * (base->rope.type == LH_ROPE_LINEAR ? base->rope.factor : 1);
    return reach > 0 ? fmax(1, ceil((double)job->context.length / reach)) : 1;
}

/* Whether positions of type `own` can be scaled by `type`: by more of their own, or from none. */
static bool composes(enum lh_rope own, enum lh_rope type)
{
    if (type == own)
        return true;
    return own == LH_ROPE_DEFAULT && (type == LH_ROPE_LINEAR || type == LH_ROPE_YARN ||
                                      type == LH_ROPE_NTK || type == LH_ROPE_DYNAMIC);
}

/* The scaling of a base that had none. */
static struct rope_config fresh(enum lh_rope type, double factor, const struct model_config *base)
{
    struct rope_config rope = {.type = type, .theta = base->rope.theta, .factor = factor};
    double D = (double)base->head_dim;

    if (type == LH_ROPE_NTK) /* which is nothing but another base of the angles */
        return (struct rope_config){.type = LH_ROPE_DEFAULT,
                                    .theta = base->rope.theta * pow(factor, D / (D - 2)),
                                    .factor = 1};
    if (type == LH_ROPE_YARN || type == LH_ROPE_DYNAMIC)
        rope.original_length = (double)base->max_positions;
    if (type == LH_ROPE_YARN) {
        rope.beta_fast = 32;
        rope.beta_slow = 1;
    }
    return rope;
}

int rope_compose(const struct lh_job *job, const struct model_config *base,
                 struct rope_config *ret_rope, struct lh_err *reterr)
{
    enum lh_rope own = base->rope.type;
    enum lh_rope type = job->context.rope.has_type ? job->context.rope.type
                        : own == LH_ROPE_DEFAULT   ? LH_ROPE_LINEAR
                                                   : own;
    double factor = rope_job_factor(job, base);
    struct rope_config rope = base->rope;
    /* Only the base of the angles, and it depends on the length: factor 1 is a scaling as well. */
    bool dynamic = type == LH_ROPE_DYNAMIC && job->context.length > base->max_positions;

    if (factor < 1)
        return lh_err_at(reterr, LH_EJOB, POINTER "/factor", "factor %g must be 1 or more", factor);
    if (own == LH_ROPE_DEFAULT && (type == LH_ROPE_LLAMA3 || type == LH_ROPE_LONGROPE))
        return lh_err_at(reterr, LH_EJOB, POINTER "/type",
                         "positions of type %s need lists or frequencies that this base does not "
                         "have; take linear, yarn, ntk or dynamic",
                         lh_rope_name(type));
    if (rope.original_length <= 0 && own != LH_ROPE_DEFAULT)
        rope.original_length = (double)base->max_positions;
    if (factor == 1 && !dynamic) {
        *ret_rope = rope;
        return 0;
    }
    if (!composes(own, type))
        return lh_err_at(
            reterr, LH_EJOB, POINTER "/type",
            "positions of type %s cannot be scaled %g times by %s: take the base's own type%s",
            lh_rope_name(own), factor, lh_rope_name(type),
            own == LH_ROPE_DEFAULT ? ", or linear, yarn, ntk or dynamic" : "");
    if ((type == LH_ROPE_NTK || type == LH_ROPE_DYNAMIC) && base->head_dim <= 2)
        return lh_err_at(reterr, LH_EJOB, POINTER "/type", "%s needs a head size above 2",
                         lh_rope_name(type));
    if (own == LH_ROPE_DEFAULT)
        rope = fresh(type, factor, base);
    else
        rope.factor *= factor;
    *ret_rope = rope;
    return 0;
}

int64_t rope_max_positions(const struct rope_config *rope, const struct model_config *base,
                           int64_t length)
{
    if (rope->type == LH_ROPE_DYNAMIC)
        return rope->original_length > 0 ? (int64_t)rope->original_length : base->max_positions;
    return LH_MAX(base->max_positions, length);
}

static double yarn_dimension(const struct rope_config *r, double head_dim, double rotations)
{
    return head_dim * log(r->original_length / (rotations * 2 * M_PI)) / (2 * log(r->theta));
}

static double yarn_scale(double factor, double mscale)
{
    return factor > 1 ? 0.1 * mscale * log(factor) + 1 : 1;
}

static void yarn(const struct rope_config *r, int64_t D, double *inv_freq, double *ret_scaling)
{
    double fast = r->beta_fast > 0 ? r->beta_fast : 32, slow = r->beta_slow > 0 ? r->beta_slow : 1;
    double low = fmax(floor(yarn_dimension(r, (double)D, fast)), 0);
    double high = fmin(ceil(yarn_dimension(r, (double)D, slow)), (double)(D - 1));

    for (int64_t i = 0; i < D / 2; i++) {
        double ramp = ((double)i - low) / fmax(high - low, 0.001);

        ramp = fmin(fmax(ramp, 0), 1);
        inv_freq[i] = inv_freq[i] * (1 - ramp) + inv_freq[i] / r->factor * ramp;
    }
    if (r->attention_factor > 0)
        *ret_scaling = r->attention_factor;
    else if (r->mscale > 0 && r->mscale_all_dim > 0)
        *ret_scaling = yarn_scale(r->factor, r->mscale) / yarn_scale(r->factor, r->mscale_all_dim);
    else
        *ret_scaling = yarn_scale(r->factor, 1);
}

static void llama3(const struct rope_config *r, int64_t D, double *inv_freq)
{
    double longest = r->original_length / r->low_freq_factor;
    double shortest = r->original_length / r->high_freq_factor;

    for (int64_t i = 0; i < D / 2; i++) {
        double wave = 2 * M_PI / inv_freq[i];

        if (wave > longest) {
            inv_freq[i] /= r->factor;
        } else if (wave >= shortest) {
            double keep = (r->original_length / wave - r->low_freq_factor) /
                          (r->high_freq_factor - r->low_freq_factor);

            inv_freq[i] = (1 - keep) * inv_freq[i] / r->factor + keep * inv_freq[i];
        }
    }
}

static int longrope(const struct rope_config *r, const struct model_config *base, int64_t length,
                    double *inv_freq, double *ret_scaling, struct lh_err *reterr)
{
    const double *divide = (double)length > r->original_length ? r->long_factor : r->short_factor;
    double stretch = r->factor > 1 ? r->factor : (double)base->max_positions / r->original_length;

    if (r->n_factors != base->head_dim / 2)
        return lh_err_set(
            reterr, LH_EINPUT,
            "the base's longrope lists have %u factors, and a head size of %lld needs %lld",
            r->n_factors, (long long)base->head_dim, (long long)base->head_dim / 2);
    for (int64_t i = 0; i < base->head_dim / 2; i++)
        inv_freq[i] /= divide[i];
    if (r->attention_factor > 0)
        *ret_scaling = r->attention_factor;
    else if (stretch > 1)
        *ret_scaling = sqrt(1 + log(stretch) / log(r->original_length));
    return 0;
}

int rope_frequencies(const struct rope_config *rope, const struct model_config *base,
                     int64_t length, double *ret_inv_freq, double *ret_scaling,
                     struct lh_err *reterr)
{
    int64_t D = base->head_dim;
    struct rope_config r = *rope;
    double scaling = 1;

    if (r.original_length <= 0)
        r.original_length = (double)base->max_positions;
    if (r.factor <= 0)
        r.factor = 1;
    if (r.type == LH_ROPE_DYNAMIC && (double)length > r.original_length)
        r.theta *= pow(r.factor * (double)length / r.original_length - (r.factor - 1),
                       (double)D / (double)(D - 2));
    for (int64_t i = 0; i < D / 2; i++)
        ret_inv_freq[i] = pow(r.theta, -2.0 * (double)i / (double)D);

    switch (r.type) {
    case LH_ROPE_LINEAR:
        for (int64_t i = 0; i < D / 2; i++)
            ret_inv_freq[i] /= r.factor;
        break;
    case LH_ROPE_YARN:
        yarn(&r, D, ret_inv_freq, &scaling);
        break;
    case LH_ROPE_LLAMA3:
        if (r.low_freq_factor <= 0 || r.high_freq_factor <= r.low_freq_factor)
            return lh_err_set(
                reterr, LH_EINPUT,
                "the base's llama3 positions need 0 < low_freq_factor < high_freq_factor");
        llama3(&r, D, ret_inv_freq);
        break;
    case LH_ROPE_LONGROPE: {
        int rc = longrope(&r, base, length, ret_inv_freq, &scaling, reterr);

        if (rc < 0)
            return rc;
        break;
    }
    case LH_ROPE_DEFAULT:
    case LH_ROPE_DYNAMIC:
    case LH_ROPE_NTK:
        break;
    }
    *ret_scaling = scaling;
    return 0;
}

void rope_table(const double *inv_freq, double scaling, int64_t head_dim, int64_t positions,
                float *ret_cos_sin)
{
    for (int64_t p = 0; p < positions; p++) {
        float *row = ret_cos_sin + p * head_dim;

        for (int64_t i = 0; i < head_dim / 2; i++) {
            row[i] = (float)(cos((double)p * inv_freq[i]) * scaling);
            row[i + head_dim / 2] = (float)(sin((double)p * inv_freq[i]) * scaling);
        }
    }
}

static void set_number(json_t *o, const char *key, double value)
{
    bool whole = value == floor(value) && fabs(value) < 1e15;
    json_t *number = whole && strcmp(key, "original_max_position_embeddings") == 0
                         ? json_integer((json_int_t)value)
                         : json_real(value);

    if (value != 0)
        (void)json_object_set_new(o, key, number);
    else
        json_decref(number);
}

json_t *rope_json(const struct rope_config *rope)
{
    enum lh_rope type = rope->type == LH_ROPE_NTK ? LH_ROPE_DEFAULT : rope->type;
    json_t *o = json_object();

    if (!o)
        return NULL;
    (void)json_object_set_new(o, "rope_type", json_string(lh_rope_name(type)));
    (void)json_object_set_new(o, "rope_theta", json_real(rope->theta));
    if (type == LH_ROPE_DEFAULT)
        return o;
    set_number(o, "factor", rope->factor);
    /* transformers takes max_position_embeddings as the original length of dynamic, nothing else.
     */
    if (type != LH_ROPE_LINEAR && type != LH_ROPE_DYNAMIC)
        set_number(o, "original_max_position_embeddings", rope->original_length);
    if (type == LH_ROPE_YARN) {
        set_number(o, "beta_fast", rope->beta_fast);
        set_number(o, "beta_slow", rope->beta_slow);
        set_number(o, "mscale", rope->mscale);
        set_number(o, "mscale_all_dim", rope->mscale_all_dim);
    }
    if (type == LH_ROPE_LLAMA3) {
        set_number(o, "low_freq_factor", rope->low_freq_factor);
        set_number(o, "high_freq_factor", rope->high_freq_factor);
    }
    if (type == LH_ROPE_YARN || type == LH_ROPE_LONGROPE)
        set_number(o, "attention_factor", rope->attention_factor);
    if (type == LH_ROPE_LONGROPE) {
        json_t *shorter = json_array(), *longer = json_array();

        for (unsigned i = 0; i < rope->n_factors; i++) {
            (void)json_array_append_new(shorter, json_real(rope->short_factor[i]));
            (void)json_array_append_new(longer, json_real(rope->long_factor[i]));
        }
        (void)json_object_set_new(o, "short_factor", shorter);
        (void)json_object_set_new(o, "long_factor", longer);
    }
    return o;
}
