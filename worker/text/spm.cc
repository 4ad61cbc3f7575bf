// spm.cc - see spm.h: the SentencePiece library behind C functions. No exception leaves this file.
//
// Two processors of one model: `whole` puts the space before a text as the model says, `inside`
// never does, for texts that other text stands before. The library has no switch for that, but a
// serialised message may set a field twice, and the last one counts.
#include "worker/text/spm.h"
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <sentencepiece_processor.h>
#include <string>
#include <vector>

struct spm_model {
    sentencepiece::SentencePieceProcessor whole, inside;
    bool trims; // runs of spaces become one, and none stays at the ends
};

namespace
{

// Fields of sentencepiece_model.proto.
constexpr unsigned MODEL_PIECE = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3;
constexpr unsigned PIECE_TYPE = 3;
constexpr unsigned TRAINER_TYPE = 3, TRAINER_SPACE_AT_END = 24, TRAINER_BYTES = 35;
constexpr unsigned NORMALIZER_MAP = 2, NORMALIZER_PREFIX = 3, NORMALIZER_TRIM = 4;
constexpr uint64_t TRAINER_TYPE_BPE = 2;

// What the library knows of a model and does not tell, with its defaults.
struct details {
    bool space_prefix = true, trims = true, has_map = false, space_at_end = false;
    bool bpe = false, bytes = false, odd_pieces = false;

    void take(unsigned message, unsigned field, uint64_t value)
    {
        if (message == MODEL_PIECE) {
            if (field == PIECE_TYPE)
                odd_pieces |= value == SP_USER || value == SP_UNUSED;
        } else if (message == MODEL_TRAINER) {
            if (field == TRAINER_TYPE)
                bpe = value == TRAINER_TYPE_BPE;
            else if (field == TRAINER_SPACE_AT_END)
                space_at_end = value != 0;
            else if (field == TRAINER_BYTES)
                bytes = value != 0;
        } else if (message == MODEL_NORMALIZER) {
            if (field == NORMALIZER_MAP)
                has_map = value > 0;
            else if (field == NORMALIZER_PREFIX)
                space_prefix = value != 0;
            else if (field == NORMALIZER_TRIM)
                trims = value != 0;
        }
    }
};

bool read_varint(const char *&at, const char *end, uint64_t &value)
{
    value = 0;
    for (unsigned shift = 0; at < end && shift < 64; shift += 7) {
        uint64_t byte = static_cast<unsigned char>(*at++);

        value |= (byte & 127) << shift;
        if (byte < 128)
            return true;
    }
    return false;
}

// Walks a message: field(number, value or length, bytes or nullptr); false when it is damaged.
template <typename F> bool walk(const char *at, const char *end, F field)
{
    while (at < end) {
        uint64_t key, value = 0;
        const char *bytes = nullptr;

        if (!read_varint(at, end, key))
            return false;
        switch (key & 7) {
        case 0:
            if (!read_varint(at, end, value))
                return false;
            break;
        case 1:
        case 5:
            value = (key & 7) == 1 ? 8 : 4;
            if (static_cast<uint64_t>(end - at) < value)
                return false;
            at += value;
            break;
        case 2:
            if (!read_varint(at, end, value) || static_cast<uint64_t>(end - at) < value)
                return false;
            bytes = at;
            at += value;
            break;
        default:
            return false;
        }
        field(static_cast<unsigned>(key >> 3), value, bytes);
    }
    return true;
}

bool read_details(const std::string &model, details &d)
{
    bool inner = true;
    auto message = [&](unsigned number, uint64_t length, const char *bytes) {
        if (bytes && number <= MODEL_NORMALIZER)
            inner &= walk(bytes, bytes + length, [&](unsigned field, uint64_t value, const char *) {
                d.take(number, field, value);
            });
    };

    return walk(model.data(), model.data() + model.size(), message) && inner;
}

int load(spm_model *m, const std::string &model, spm_info *info, char *why)
{
    static const char no_prefix[] = {MODEL_NORMALIZER << 3 | 2, 2, NORMALIZER_PREFIX << 3, 0};
    details d;
    auto status = m->whole.LoadFromSerializedProto(model);

    if (status.ok())
        status = m->inside.LoadFromSerializedProto(model + std::string(no_prefix, 4));
    if (!status.ok() || !read_details(model, d)) {
        std::snprintf(why, SPM_WHY_MAX, "%s", status.ok() ? "damaged" : status.message());
        return -EINVAL;
    }
    if (d.space_at_end) {
        std::snprintf(why, SPM_WHY_MAX, "it puts spaces at the end of words");
        return -EINVAL;
    }
    m->trims = d.trims;
    info->n_pieces = m->whole.GetPieceSize();
    info->bos = m->whole.bos_id();
    info->eos = m->whole.eos_id();
    info->space_prefix = d.space_prefix;
    info->as_it_is = !d.trims && !d.has_map;
    info->merges = info->as_it_is && d.bpe && d.bytes && !d.odd_pieces;
    return 0;
}

} // namespace

int spm_open(const void *bytes, size_t n, struct spm_model **ret_model, struct spm_info *ret_info,
             char *ret_why)
{
    spm_model *m = nullptr;
    int rc = -ENOMEM;

    try {
        m = new spm_model();
        rc = load(m, std::string(static_cast<const char *>(bytes), n), ret_info, ret_why);
    } catch (const std::bad_alloc &) {
        rc = -ENOMEM;
    } catch (...) {
        std::snprintf(ret_why, SPM_WHY_MAX, "the library gives up");
        rc = -EINVAL;
    }
    if (rc < 0)
        delete m;
    else
        *ret_model = m;
    return rc;
}

void spm_free(struct spm_model *m)
{
    delete m;
}

const char *spm_piece(const struct spm_model *m, int64_t id, size_t *ret_len,
                      enum sp_type *ret_type)
{
    int i = static_cast<int>(id);
    const std::string &piece = m->whole.IdToPiece(i);

    *ret_type = m->whole.IsControl(i)   ? SP_CONTROL
                : m->whole.IsUnknown(i) ? SP_UNKNOWN
                : m->whole.IsByte(i)    ? SP_BYTE
                : m->whole.IsUnused(i)  ? SP_UNUSED
                                        : SP_NORMAL;
    *ret_len = piece.size();
    return piece.c_str();
}

float spm_score(const struct spm_model *m, int64_t id)
{
    return m->whole.GetScore(static_cast<int>(id));
}

int spm_encode(const struct spm_model *m, const char *text, size_t n, bool prefix, spm_put_fn *put,
               void *arg)
{
    try {
        // A model that trims takes the space off that a later text begins with; its own is put
        // back.
        bool whole = prefix || (m->trims && n > 0 && text[0] == ' ');
        std::vector<int> ids;
        auto status = (whole ? m->whole : m->inside).Encode(absl::string_view(text, n), &ids);

        if (!status.ok())
            return -EIO;
        return put(arg, ids.data(), ids.size());
    } catch (const std::bad_alloc &) {
        return -ENOMEM;
    } catch (...) {
        return -EIO;
    }
}
