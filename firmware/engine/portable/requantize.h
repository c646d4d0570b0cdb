/* Fixed-point scaling as in gemmlowp: a Q31 multiplier and a power of two, rounded twice. */
#ifndef EDGENAS_REQUANTIZE_H
#define EDGENAS_REQUANTIZE_H

#include <stdint.h>

/* (a * b) / 2^31, rounded half up: for b > 0 the same as gemmlowp's SaturatingRoundingDoublingHighMul. */
static inline int32_t edgenas_high_mul(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
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

static inline int8_t edgenas_clamp(int32_t x, int32_t low, int32_t high) {
    return (int8_t)(x < low ? low : (x > high ? high : x));
}

#endif
