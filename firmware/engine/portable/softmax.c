#include "edgenas/kernels.h"
#include "requantize.h"

/* gemmlowp's fixed-point formats: Qm has m integer bits. */
#define SUM_INTEGER_BITS 12

static int32_t leading_zeros(uint32_t x) {
    int32_t count = 0;
    for (; count < 32 && (x & 0x80000000U) == 0; count++) {
        x <<= 1;
    }
    return count;
}

static int32_t saturating_shift_left(int32_t x, int exponent) {
    const int64_t wide = (int64_t)x * ((int64_t)1 << exponent);
    return wide > INT32_MAX ? INT32_MAX : (wide < INT32_MIN ? INT32_MIN : (int32_t)wide);
}

/* 1 / (1 + a) in Q0 for a in [0, 1) in Q0: Newton's method from 48/17 - 32/17 * d, in Q2. */
static int32_t reciprocal_of_one_plus(int32_t a) {
    const int32_t half = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
    int32_t x = 1515870810 + edgenas_high_mul(half, -1010580540);
    for (int i = 0; i < 3; i++) {
        const int32_t error = (1 << 29) - edgenas_high_mul(half, x);
        x += saturating_shift_left(edgenas_high_mul(x, error), 2);
    }
    return saturating_shift_left(x, 1);
}

void edgenas_softmax(const edgenas_softmax_t *p, const int8_t *input, int8_t *output) {
    for (int32_t row = 0; row < p->rows; row++, input += p->depth, output += p->depth) {
        int32_t most = INT8_MIN;
        for (int32_t i = 0; i < p->depth; i++) {
            most = input[i] > most ? input[i] : most;
        }
        int32_t sum = 0;
        for (int32_t i = 0; i < p->depth; i++) {
            sum += edgenas_round_shift(p->exp[most - input[i]], SUM_INTEGER_BITS);
        }
        const int32_t headroom = leading_zeros((uint32_t)sum);
        const int32_t scale = reciprocal_of_one_plus((int32_t)(((uint32_t)sum << headroom) - 0x80000000U));
        const int32_t shift = SUM_INTEGER_BITS - headroom + 31 - 8;
        for (int32_t i = 0; i < p->depth; i++) {
            const int32_t value =
                edgenas_round_shift(edgenas_high_mul(scale, p->exp[most - input[i]]), shift);
            output[i] = edgenas_clamp(value - 128, INT8_MIN, INT8_MAX);
        }
    }
}
