/* Inner products with the DSP extension: two multiply-accumulates an instruction (SMLAD) on bytes widened to
 * pairs of halfwords (SXTB16). Same sums as portable/dot.c: integer addition does not care for the order. Two
 * patches at once are the work of dot_pairs.S. */
#include <arm_acle.h>
#include <stddef.h>
#include <string.h>

#include "dot.h"

/* What dot_pairs.S reads; it knows the order. */
typedef struct {
    const int8_t *weights;
    int32_t count;
    const int8_t *patch, *end; /* end: behind the last whole word of the first patch */
    const int32_t *bias, *multiplier;
    const int8_t *shift;
    int32_t step;     /* per_channel */
    int32_t rounding; /* half a unit of what is shifted last, and the output's zero point */
    int8_t *output;
    int32_t channels, pairs;
} edgenas_dot_pairs_t;

_Static_assert(sizeof(edgenas_dot_pairs_t) == 48 && offsetof(edgenas_dot_pairs_t, pairs) == 44,
               "twelve words, as dot_pairs.S reads them");

/* Outputs int8's range of `pairs` > 0 pairs of channels. The second patch lies behind the first, and so do
 * its outputs. */
void edgenas_dot_pairs(const edgenas_dot_pairs_t *p);

/* Four bytes; Cortex-M4 and M7 load unaligned words. */
static inline uint32_t load4(const int8_t *p) {
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}

/* Bytes 0 and 2, and bytes 1 and 3, sign-extended to halfwords. */
static inline int16x2_t even(uint32_t word) { return __sxtb16((int8x4_t)word); }

static inline int16x2_t odd(uint32_t word) {
    int16x2_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}

static inline int8_t finish(edgenas_output_t o, int32_t sum, int32_t multiplier, int32_t shift) {
    return (int8_t)__ssat(edgenas_scale_sum(sum, multiplier, shift) + o.zero_point, 8);
}

/* The last channel of an odd number. */
static int8_t last(const edgenas_conv_t *p, const int8_t *patch, int count) {
    const int c = p->out_c - 1, i = c * p->per_channel;
    const int8_t *w = p->weights + c * count;
    int32_t sum = p->bias[c];
    for (int n = 0; n < count; n++) {
        sum += patch[n] * w[n];
    }
    return finish(edgenas_output(p), sum, p->multiplier[i], p->shift[i]);
}

/* Limits outputs to an activation range narrower than int8. */
static void narrow(const edgenas_conv_t *p, int8_t *output, int count) {
    const int32_t low = p->activation_min, high = p->activation_max;
    if (low > INT8_MIN || high < INT8_MAX) {
        for (int i = 0; i < count; i++) {
            output[i] = edgenas_clamp(output[i], low, high);
        }
    }
}

void edgenas_dot_1(const edgenas_conv_t *p, const int8_t *patch, int count, int8_t *output) {
    const edgenas_output_t o = edgenas_output(p);
    const int8_t *w = p->weights;
    const int32_t *multiplier = o.multiplier;
    const int8_t *shift = o.shift;
    const int channels = p->out_c, step = p->per_channel;
    for (int c = 0; c + 2 <= channels; c += 2) {
        const int8_t *x = patch;
        int32_t s0 = p->bias[c];
        int32_t s1 = p->bias[c + 1];
        for (const int8_t *const end = patch + (count & ~3); x != end; x += 4, w += 4) {
            const uint32_t v1 = load4(w + count);
            const uint32_t v0 = load4(w);
            const uint32_t a = load4(x);
            const int16x2_t a_even = even(a);
            const int16x2_t a_odd = odd(a);
            s0 = __smlad(a_even, even(v0), s0);
            s1 = __smlad(a_even, even(v1), s1);
            s0 = __smlad(a_odd, odd(v0), s0);
            s1 = __smlad(a_odd, odd(v1), s1);
        }
        for (int n = count & 3; n > 0; n--, x++, w++) {
            s0 += x[0] * w[0];
            s1 += x[0] * w[count];
        }
        w += count;
        /* Read before anything is written: a store of int8_t may alias everything. */
        const int32_t m0 = multiplier[0], m1 = multiplier[step];
        const int32_t shift0 = shift[0], shift1 = shift[step];
        multiplier += 2 * step;
        shift += 2 * step;
        output[c] = finish(o, s0, m0, shift0);
        output[c + 1] = finish(o, s1, m1, shift1);
    }
    if (channels & 1) {
        output[channels - 1] = last(p, patch, count);
    }
    narrow(p, output, channels);
}

void edgenas_dot_2(const edgenas_conv_t *p, const int8_t *patch0, const int8_t *patch1, int count,
                   int8_t *output0, int8_t *output1) {
    const int channels = p->out_c;
    if (channels >= 2) {
        const edgenas_dot_pairs_t pairs = {
            .weights = p->weights,
            .count = count,
            .patch = patch0,
            .end = patch0 + (count & ~3),
            .bias = p->bias,
            .multiplier = p->multiplier,
            .shift = p->shift,
            .step = p->per_channel,
            .rounding = 2 * p->output_zero_point + 1,
            .output = output0,
            .channels = channels,
            .pairs = channels / 2,
        };
        edgenas_dot_pairs(&pairs);
    }
    if (channels & 1) {
        output0[channels - 1] = last(p, patch0, count);
        output1[channels - 1] = last(p, patch1, count);
    }
    narrow(p, output0, channels);
    narrow(p, output1, channels);
}
