#include "dot.h"

/* Taps along one axis that lie inside the input: [from, to). */
typedef struct {
    int from, to;
} span_t;

static span_t inside(int start, int kernel, int dilation, int size) {
    span_t s = {0, kernel};
    while (s.from < kernel && start + s.from * dilation < 0) {
        s.from++;
    }
    while (s.to > s.from && start + (s.to - 1) * dilation >= size) {
        s.to--;
    }
    return s;
}

/* Any multiplier and dilation. */
void edgenas_depthwise(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    const int depth = p->in_c;
    const int multiplier = p->out_c / depth;
    const int width = p->kernel_w;
    const int column_step = p->dilation_w * depth;
    const int row_step = p->dilation_h * p->in_w * depth;
    const int32_t zero = p->input_zero_point;
    for (int oy = 0; oy < p->out_h; oy++) {
        const int top = oy * p->stride_h - p->pad_top;
        const span_t rows = inside(top, p->kernel_h, p->dilation_h, p->in_h);
        for (int ox = 0; ox < p->out_w; ox++) {
            const int left = ox * p->stride_w - p->pad_left;
            const span_t columns = inside(left, width, p->dilation_w, p->in_w);
            const int8_t *corner = input + (top + rows.from * p->dilation_h) * p->in_w * depth +
                                   (left + columns.from * p->dilation_w) * depth;
            const int8_t *w = p->weights;
            int channel = 0;
            for (int c = 0; c < depth; c++, corner++) {
                for (int n = multiplier; n > 0; n--, channel++) {
                    int32_t sum = p->bias[channel];
                    int32_t outside = 0; /* weights of the taps in the padding, which read the zero point */
                    const int8_t *line = corner;
                    for (int ky = 0; ky < p->kernel_h; ky++) {
                        int kx = 0;
                        if (ky >= rows.from && ky < rows.to) {
                            for (; kx < columns.from; kx++) {
                                outside += *w++;
                            }
                            for (const int8_t *x = line; kx < columns.to; kx++, x += column_step) {
                                sum += *w++ * *x;
                            }
                            line += row_step;
                        }
                        for (; kx < width; kx++) {
                            outside += *w++;
                        }
                    }
                    *output++ = edgenas_finish(p, sum + outside * zero, channel);
                }
            }
        }
    }
}
