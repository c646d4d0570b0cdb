#include "depthwise.h"

static void interior(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    const int depth = p->in_c;
    const int row = p->in_w * depth;
    const int8_t *w = p->weights;
    const int32_t *bias = p->bias;
    const edgenas_output_t o = edgenas_output(p);
    for (int c = 0; c < depth; c++, input++) {
        int32_t sum = bias[c];
        const int8_t *x = input;
#pragma GCC unroll 3
        for (int ky = 0; ky < 3; ky++, x += row, w += 3) {
            sum += w[0] * x[0];
            sum += w[1] * x[depth];
            sum += w[2] * x[2 * depth];
            EDGENAS_ROW_DONE(sum);
        }
        output[c] = edgenas_finish_channel(o, sum, o.multiplier[c], o.shift[c]);
    }
}

/* Two neighbouring outputs at stride 1: they share two of three columns and all weights. */
static void interior_pair(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    const int depth = p->in_c;
    const int row = p->in_w * depth;
    const int8_t *w = p->weights;
    const int32_t *bias = p->bias;
    const edgenas_output_t o = edgenas_output(p);
    for (int c = 0; c < depth; c++, input++) {
        int32_t first = bias[c];
        int32_t second = first;
        const int8_t *x = input;
#pragma GCC unroll 3
        for (int ky = 0; ky < 3; ky++, x += row, w += 3) {
            const int32_t x1 = x[depth];
            const int32_t x2 = x[2 * depth];
            first += w[0] * x[0];
            first += w[1] * x1;
            first += w[2] * x2;
            second += w[0] * x1;
            second += w[1] * x2;
            second += w[2] * x[3 * depth];
            EDGENAS_ROW_DONE(first);
            EDGENAS_ROW_DONE(second);
        }
        const int32_t multiplier = o.multiplier[c];
        const int32_t shift = o.shift[c];
        output[c] = edgenas_finish_channel(o, first, multiplier, shift);
        output[c + depth] = edgenas_finish_channel(o, second, multiplier, shift);
    }
}

/* One output whose kernel reaches into the padding by at most one column; rows [first_row, last_row) of the
 * kernel and its columns [first, last), constants in each call, lie inside. What is missing reads the zero
 * point. */
static inline __attribute__((always_inline)) void edge(const edgenas_conv_t *p, const int8_t *corner,
                                                       int first_row, int last_row, const int first,
                                                       const int last, int8_t *output) {
    const int depth = p->in_c;
    const int row = p->in_w * depth;
    const int32_t zero = p->input_zero_point;
    const int8_t *w = p->weights;
    const int32_t *bias = p->bias;
    const edgenas_output_t o = edgenas_output(p);
    for (int c = 0; c < depth; c++, corner++) {
        int32_t sum = bias[c];
        int ky = 0;
        for (; ky < first_row; ky++, w += 3) {
            sum += zero * (w[0] + w[1] + w[2]);
        }
        for (const int8_t *x = corner; ky < last_row; ky++, w += 3, x += row) {
#pragma GCC unroll 3
            for (int kx = 0; kx < 3; kx++) {
                sum += w[kx] * (kx >= first && kx < last ? x[kx * depth] : zero);
            }
        }
        for (; ky < 3; ky++, w += 3) {
            sum += zero * (w[0] + w[1] + w[2]);
        }
        output[c] = edgenas_finish_channel(o, sum, o.multiplier[c], o.shift[c]);
    }
}

static void any_edge(const edgenas_conv_t *p, const int8_t *input, int top, int left, int8_t *output) {
    const int first_row = top < 0 ? -top : 0;
    const int last_row = top + 3 > p->in_h ? p->in_h - top : 3;
    const int8_t *corner = input + ((top + first_row) * p->in_w + left) * p->in_c;
    if (left >= 0 && left + 3 <= p->in_w) {
        edge(p, corner, first_row, last_row, 0, 3, output);
    } else if (left == -1 && p->in_w >= 2) {
        edge(p, corner, first_row, last_row, 1, 3, output);
    } else if (left >= 0 && left + 2 == p->in_w) {
        edge(p, corner, first_row, last_row, 0, 2, output);
    } else {
        edgenas_depthwise_border(p, input, top, left, output);
    }
}

void edgenas_depthwise_3x3(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    for (int oy = 0; oy < p->out_h; oy++) {
        const int top = oy * p->stride_h - p->pad_top;
        for (int ox = 0; ox < p->out_w; ox++, output += p->out_c) {
            const int left = ox * p->stride_w - p->pad_left;
            if (!edgenas_is_inside(p, top, left)) {
                any_edge(p, input, top, left, output);
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
