#include "depthwise.h"

/* Any multiplier and dilation; tap by tap, without assumptions. */
void edgenas_depthwise(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    const int multiplier = p->out_c / p->in_c;
    const int taps = p->kernel_h * p->kernel_w;
    for (int oy = 0; oy < p->out_h; oy++) {
        for (int ox = 0; ox < p->out_w; ox++) {
            const int top = oy * p->stride_h - p->pad_top;
            const int left = ox * p->stride_w - p->pad_left;
            for (int c = 0; c < p->out_c; c++) {
                const int8_t *w = p->weights + c * taps;
                int32_t sum = p->bias[c];
                for (int ky = 0; ky < p->kernel_h; ky++) {
                    const int y = top + ky * p->dilation_h;
                    for (int kx = 0; kx < p->kernel_w; kx++, w++) {
                        const int x = left + kx * p->dilation_w;
                        const int inside = y >= 0 && y < p->in_h && x >= 0 && x < p->in_w;
                        sum += *w * (inside ? input[(y * p->in_w + x) * p->in_c + c / multiplier]
                                            : p->input_zero_point);
                    }
                }
                *output++ = edgenas_finish(p, sum, c);
            }
        }
    }
}
