#include <string.h>

#include "dot.h"

/* Copies the input under one kernel position into `patch`; what lies in the padding reads the zero point. */
static void gather(const edgenas_conv_t *p, const int8_t *input, int top, int left, int8_t *patch) {
    const int depth = p->in_c;
    for (int ky = 0; ky < p->kernel_h; ky++) {
        const int y = top + ky * p->dilation_h;
        if (y < 0 || y >= p->in_h) {
            memset(patch, p->input_zero_point, (size_t)(p->kernel_w * depth));
            patch += p->kernel_w * depth;
            continue;
        }
        const int8_t *row = input + y * p->in_w * depth;
        for (int kx = 0; kx < p->kernel_w; kx++, patch += depth) {
            const int x = left + kx * p->dilation_w;
            if (x < 0 || x >= p->in_w) {
                memset(patch, p->input_zero_point, (size_t)depth);
            } else if (depth == 1) {
                *patch = row[x];
            } else {
                memcpy(patch, row + x * depth, (size_t)depth);
            }
        }
    }
}

void edgenas_conv(const edgenas_conv_t *p, const int8_t *input, int8_t *output, int8_t *scratch) {
    const int count = p->kernel_h * p->kernel_w * p->in_c;
    for (int oy = 0; oy < p->out_h; oy++) {
        const int top = oy * p->stride_h - p->pad_top;
        int ox = 0;
        for (; ox + 2 <= p->out_w; ox += 2) {
            const int left = ox * p->stride_w - p->pad_left;
            gather(p, input, top, left, scratch);
            gather(p, input, top, left + p->stride_w, scratch + count);
            edgenas_dot_2(p, scratch, scratch + count, count, output, output + p->out_c);
            output += 2 * p->out_c;
        }
        if (ox < p->out_w) {
            gather(p, input, top, ox * p->stride_w - p->pad_left, scratch);
            edgenas_dot_1(p, scratch, count, output);
            output += p->out_c;
        }
    }
}
