#include "depthwise.h"

/* One output pixel whose kernel lies inside the input. `width` is a constant in each call, so that the row of
 * taps unrolls. */
static inline __attribute__((always_inline)) void interior(const edgenas_conv_t *p, const int8_t *input,
                                                           int8_t *output, const int width) {
    const int depth = p->in_c;
    const int row = p->in_w * depth;
    const int8_t *w = p->weights;
    for (int c = 0; c < depth; c++) {
        int32_t sum = p->bias[c];
        const int8_t *line = input + c;
        for (int ky = p->kernel_h; ky > 0; ky--, line += row) {
            const int8_t *x = line;
#pragma GCC unroll 7
            for (int kx = 0; kx < width; kx++, x += depth) {
                sum += *w++ * *x;
            }
        }
        output[c] = edgenas_finish(p, sum, c);
    }
}

void edgenas_depthwise_plain(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    for (int oy = 0; oy < p->out_h; oy++) {
        const int top = oy * p->stride_h - p->pad_top;
        for (int ox = 0; ox < p->out_w; ox++, output += p->out_c) {
            const int left = ox * p->stride_w - p->pad_left;
            const int8_t *corner = input + (top * p->in_w + left) * p->in_c;
            if (!edgenas_is_inside(p, top, left)) {
                edgenas_depthwise_border(p, input, top, left, output);
            } else if (p->kernel_w == 5) {
                interior(p, corner, output, 5);
            } else if (p->kernel_w == 7) {
                interior(p, corner, output, 7);
            } else {
                interior(p, corner, output, p->kernel_w);
            }
        }
    }
}
