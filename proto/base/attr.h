/* attr.h - compiler attributes and the few macros that the whole tree uses. */
#pragma once

#define LH_MUST_CHECK __attribute__((warn_unused_result))
#define LH_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))
#define LH_CLEANUP(fn) __attribute__((cleanup(fn)))
#define LH_UNUSED __attribute__((unused))

#define LH_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define LH_MIN(a, b) ((a) < (b) ? (a) : (b))
#define LH_MAX(a, b) ((a) > (b) ? (a) : (b))

/* Defines NAME_freep(T **), the form that LH_CLEANUP wants, from a free function that accepts NULL. */
#define LH_DEFINE_FREEP(type, fn)                                                                  \
    static inline LH_UNUSED void fn##p(type *ptr)                                                  \
    {                                                                                              \
        fn(*ptr);                                                                                  \
    }
