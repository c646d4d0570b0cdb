#include "dot.h"

void edgenas_dot_1(const edgenas_conv_t *p, const int8_t *patch, int count, int8_t *output) {
    const edgenas_output_t o = edgenas_output(p);
    const int8_t *w0 = p->weights;
    int c = 0;
    for (; c + 2 <= p->out_c; c += 2) {
        const int8_t *w1 = w0 + count;
        const int8_t *x = patch;
        int32_t s0 = p->bias[c];
        int32_t s1 = p->bias[c + 1];
        int n = count;
        for (; n >= 4; n -= 4, x += 4, w0 += 4, w1 += 4) {
            s0 += x[0] * w0[0] + x[1] * w0[1] + x[2] * w0[2] + x[3] * w0[3];
            s1 += x[0] * w1[0] + x[1] * w1[1] + x[2] * w1[2] + x[3] * w1[3];
        }
        for (; n > 0; n--) {
            const int32_t v = *x++;
            s0 += v * *w0++;
            s1 += v * *w1++;
        }
        const int i = c * p->per_channel, j = i + p->per_channel;
        const int32_t m0 = o.multiplier[i], m1 = o.multiplier[j];
        const int32_t shift0 = o.shift[i], shift1 = o.shift[j];
        output[c] = edgenas_finish_channel(o, s0, m0, shift0);
        output[c + 1] = edgenas_finish_channel(o, s1, m1, shift1);
        w0 = w1;
    }
    if (c < p->out_c) {
        int32_t s0 = p->bias[c];
        for (int n = 0; n < count; n++) {
            s0 += patch[n] * w0[n];
        }
        output[c] = edgenas_finish(p, s0, c);
    }
}

void edgenas_dot_2(const edgenas_conv_t *p, const int8_t *patch0, const int8_t *patch1, int count,
                   int8_t *output0, int8_t *output1) {
    const edgenas_output_t o = edgenas_output(p);
    const int8_t *w0 = p->weights;
    int c = 0;
    for (; c + 2 <= p->out_c; c += 2) {
        const int8_t *w1 = w0 + count;
        const int8_t *x = patch0;
        const int8_t *y = patch1;
        int32_t x0 = p->bias[c];
        int32_t x1 = p->bias[c + 1];
        int32_t y0 = x0;
        int32_t y1 = x1;
        int n = count;
        for (; n >= 4; n -= 4, x += 4, y += 4, w0 += 4, w1 += 4) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const int32_t a = x[i];
                const int32_t b = y[i];
                const int32_t v = w0[i];
                const int32_t w = w1[i];
                x0 += a * v;
                y0 += b * v;
                x1 += a * w;
                y1 += b * w;
            }
        }
        for (; n > 0; n--) {
            const int32_t a = *x++;
            const int32_t b = *y++;
            const int32_t v = *w0++;
            const int32_t w = *w1++;
            x0 += a * v;
            y0 += b * v;
            x1 += a * w;
            y1 += b * w;
        }
        const int i = c * p->per_channel, j = i + p->per_channel;
        const int32_t m0 = o.multiplier[i], m1 = o.multiplier[j];
        const int32_t shift0 = o.shift[i], shift1 = o.shift[j];
        output0[c] = edgenas_finish_channel(o, x0, m0, shift0);
        output0[c + 1] = edgenas_finish_channel(o, x1, m1, shift1);
        output1[c] = edgenas_finish_channel(o, y0, m0, shift0);
        output1[c + 1] = edgenas_finish_channel(o, y1, m1, shift1);
        w0 = w1;
    }
    if (c < p->out_c) {
        int32_t x0 = p->bias[c];
        int32_t y0 = x0;
        for (int n = 0; n < count; n++) {
            x0 += patch0[n] * w0[n];
            y0 += patch1[n] * w0[n];
        }
        output0[c] = edgenas_finish(p, x0, c);
        output1[c] = edgenas_finish(p, y0, c);
    }
}
