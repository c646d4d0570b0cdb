/* Fixed-point scaling as in gemmlowp: a Q31 multiplier and a power of two, rounded twice. */
#ifndef EDGENAS_REQUANTIZE_H
#define EDGENAS_REQUANTIZE_H

#include <stdint.h>

/* (a * b) / 2^31, rounded half up: for b > 0 the same as gemmlowp's SaturatingRoundingDoublingHighMul. */
static inline int32_t edgenas_high_mul(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* The same for b >= 2^30, as every normalized multiplier is. */
static inline int32_t edgenas_high_mul_normal(int32_t a, int32_t b) {
#if defined(__ARM_FEATURE_DSP)
    /* a * 2b / 2^32, rounded; 2b - 2^32 is what 2b reads as in 32 bits, so a is added once more */
    int32_t result;
    __asm__("smmlar %0, %1, %2, %1" : "=r"(result) : "r"(a), "r"((uint32_t)b << 1));
    return result;
#elif defined(__riscv_mul) && __riscv_xlen == 32
    /* 2b fits into 32 bits without sign: the high word, and the low word's highest bit to round it */
    const int64_t product = (int64_t)a * (int64_t)(uint64_t)((uint32_t)b << 1);
    return (int32_t)(product >> 32) + (int32_t)((uint32_t)product >> 31);
#else
    return edgenas_high_mul(a, b);
#endif
}

/* x / 2^exponent, rounded half away from zero; exponent 0..31. */
static inline int32_t edgenas_round_shift(int32_t x, int32_t exponent) {
    const int32_t mask = (int32_t)(((uint32_t)1 << exponent) - 1U);
    const int32_t threshold = (mask >> 1) + (x < 0);
    return (x >> exponent) + ((x & mask) > threshold);
}

/* x * multiplier / 2^31 * 2^shift. */
static inline int32_t edgenas_scale(int32_t x, int32_t multiplier, int32_t shift) {
    if (shift > 0) {
        return edgenas_high_mul((int32_t)((uint32_t)x << shift), multiplier);
    }
    return edgenas_round_shift(edgenas_high_mul(x, multiplier), -shift);
}

/* The same for a normalized multiplier and an x so small that adding half a unit cannot overflow: the engine
 * checks both ahead of time for every accumulator (rounding_is_safe in pipeline/engine/quantization.py). */
static inline int32_t edgenas_scale_sum(int32_t x, int32_t multiplier, int32_t shift) {
    if (__builtin_expect(shift >= 0, 0)) {
        return edgenas_high_mul((int32_t)((uint32_t)x << shift), multiplier);
    }
    const int32_t y = edgenas_high_mul_normal(x, multiplier);
    const int32_t half = (int32_t)((uint32_t)1 << (-1 - shift));
    return (y + half + (y >> 31)) >> -shift;
}

/* The same without a shift to the left, prepared once for many values: no branch, and no constant that is
 * computed again for each. */
typedef struct {
    int32_t multiplier, right;
    int32_t half;     /* half a unit of the shift to the right */
    int32_t negative; /* all ones where a negative product is rounded away from zero */
} edgenas_scale_t;

static inline edgenas_scale_t edgenas_scale_of(int32_t multiplier, int32_t shift) {
    const int32_t right = shift < 0 ? -shift : 0;
    const edgenas_scale_t s = {
        .multiplier = multiplier,
        .right = right,
        .half = right > 0 ? (int32_t)((uint32_t)1 << (right - 1)) : 0,
        .negative = right > 0 ? -1 : 0,
    };
    return s;
}

static inline int32_t edgenas_scale_by(const edgenas_scale_t *s, int32_t x) {
    const int32_t y = edgenas_high_mul_normal(x, s->multiplier);
    return (y + s->half + ((y >> 31) & s->negative)) >> s->right;
}

static inline int8_t edgenas_clamp(int32_t x, int32_t low, int32_t high) {
    x = x < low ? low : x;
    x = x > high ? high : x;
    return (int8_t)x;
}

#endif
