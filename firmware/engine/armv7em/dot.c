/* Inner products with the DSP extension: two multiply-accumulates an instruction (SMLAD) on bytes widened to
 * pairs of halfwords (SXTB16). Same sums as portable/dot.c: integer addition does not care for the order. */
#include <arm_acle.h>
#include <string.h>

#include "dot.h"

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

void edgenas_dot_1(const edgenas_conv_t *p, const int8_t *patch, int count, int8_t *output) {
    const int8_t *w = p->weights;
    int c = 0;
    for (; c + 2 <= p->out_c; c += 2) {
        const int8_t *x = patch;
        int32_t s0 = p->bias[c];
        int32_t s1 = p->bias[c + 1];
        int n = count;
        for (; n >= 4; n -= 4, x += 4, w += 4) {
            const uint32_t a = load4(x);
            const uint32_t v0 = load4(w);
            const uint32_t v1 = load4(w + count);
            const int16x2_t a_even = even(a);
            const int16x2_t a_odd = odd(a);
            s0 = __smlad(a_even, even(v0), s0);
            s0 = __smlad(a_odd, odd(v0), s0);
            s1 = __smlad(a_even, even(v1), s1);
            s1 = __smlad(a_odd, odd(v1), s1);
        }
        for (; n > 0; n--, x++, w++) {
            s0 += *x * w[0];
            s1 += *x * w[count];
        }
        w += count;
        output[c] = edgenas_finish(p, s0, c);
        output[c + 1] = edgenas_finish(p, s1, c + 1);
    }
    if (c < p->out_c) {
        int32_t s0 = p->bias[c];
        for (int n = 0; n < count; n++) {
            s0 += patch[n] * w[n];
        }
        output[c] = edgenas_finish(p, s0, c);
    }
}

void edgenas_dot_2(const edgenas_conv_t *p, const int8_t *patch0, const int8_t *patch1, int count,
                   int8_t *output0, int8_t *output1) {
    const int8_t *w = p->weights;
    const int gap = (int)(patch1 - patch0);
    int c = 0;
    for (; c + 2 <= p->out_c; c += 2) {
        const int8_t *x = patch0;
        int32_t x0 = p->bias[c];
        int32_t x1 = p->bias[c + 1];
        int32_t y0 = x0;
        int32_t y1 = x1;
        const int8_t *const end = x + (count & ~3);
        while (x != end) {
            const uint32_t v0 = load4(w);
            const uint32_t v1 = load4(w + count);
            const uint32_t a = load4(x);
            const uint32_t b = load4(x + gap);
            w += 4;
            x += 4;
            int16x2_t v0_half = even(v0);
            int16x2_t v1_half = even(v1);
            int16x2_t half = even(a);
            x0 = __smlad(half, v0_half, x0);
            x1 = __smlad(half, v1_half, x1);
            half = even(b);
            y0 = __smlad(half, v0_half, y0);
            y1 = __smlad(half, v1_half, y1);
            v0_half = odd(v0);
            v1_half = odd(v1);
            half = odd(a);
            x0 = __smlad(half, v0_half, x0);
            x1 = __smlad(half, v1_half, x1);
            half = odd(b);
            y0 = __smlad(half, v0_half, y0);
            y1 = __smlad(half, v1_half, y1);
        }
        for (int n = count & 3; n > 0; n--, x++, w++) {
            x0 += x[0] * w[0];
            y0 += x[gap] * w[0];
            x1 += x[0] * w[count];
            y1 += x[gap] * w[count];
        }
        w += count;
        output0[c] = edgenas_finish(p, x0, c);
        output0[c + 1] = edgenas_finish(p, x1, c + 1);
        output1[c] = edgenas_finish(p, y0, c);
        output1[c + 1] = edgenas_finish(p, y1, c + 1);
    }
    if (c < p->out_c) {
        int32_t x0 = p->bias[c];
        int32_t y0 = x0;
        for (int n = 0; n < count; n++) {
            x0 += patch0[n] * w[n];
            y0 += patch1[n] * w[n];
        }
        output0[c] = edgenas_finish(p, x0, c);
        output1[c] = edgenas_finish(p, y0, c);
    }
}
