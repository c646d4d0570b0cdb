#include "depthwise.h"

static inline int32_t row3(const int8_t *w, const int8_t *x, int depth) {
    return w[0] * x[0] + w[1] * x[depth] + w[2] * x[2 * depth];
}

static void interior(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    const int depth = p->in_c;
    const int row = p->in_w * depth;
    const int8_t *w = p->weights;
    for (int c = 0; c < depth; c++, w += 9, input++) {
        const int32_t sum = p->bias[c] + row3(w, input, depth) + row3(w + 3, input + row, depth) +
                            row3(w + 6, input + 2 * row, depth);
        output[c] = edgenas_finish(p, sum, c);
    }
}

/* Two neighbouring outputs at stride 1: they share two of three columns and all weights. */
static void interior_pair(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    const int depth = p->in_c;
    const int row = p->in_w * depth;
    const int8_t *w = p->weights;
    for (int c = 0; c < depth; c++, input++) {
        int32_t first = p->bias[c];
        int32_t second = first;
        const int8_t *x = input;
#pragma GCC unroll 3
        for (int ky = 0; ky < 3; ky++, x += row, w += 3) {
            const int32_t x1 = x[depth];
            const int32_t x2 = x[2 * depth];
            first += w[0] * x[0] + w[1] * x1 + w[2] * x2;
            second += w[0] * x1 + w[1] * x2 + w[2] * x[3 * depth];
        }
        output[c] = edgenas_finish(p, first, c);
        output[c + depth] = edgenas_finish(p, second, c);
    }
}

void edgenas_depthwise_3x3(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    for (int oy = 0; oy < p->out_h; oy++) {
        const int top = oy * p->stride_h - p->pad_top;
        for (int ox = 0; ox < p->out_w; ox++, output += p->out_c) {
            const int left = ox * p->stride_w - p->pad_left;
            if (!edgenas_is_inside(p, top, left)) {
                edgenas_depthwise_border(p, input, top, left, output);
                continue;
            }
            const int8_t *corner = input + (top * p->in_w + left) * p->in_c;
            if (p->stride_w == 1 && left + 4 <= p->in_w && ox + 1 < p->out_w) {
                interior_pair(p, corner, output);
                ox++;
                output += p->out_c;
            } else {
                interior(p, corner, output);
            }
        }
    }
}
