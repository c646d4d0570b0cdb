#include <string.h>

#include "dot.h"

/* Copies the input under one kernel position into `patch`; what lies in the padding reads the zero point. */
static void gather(const edgenas_conv_t *p, const int8_t *input, int top, int left, int8_t *patch) {
    const int depth = p->in_c, row = p->kernel_w * depth;
    /* bytes of each row before, inside and behind the image; a dilated kernel is looked at tap by tap */
    const int before = left < 0 ? -left * depth : 0;
    const int beyond = (left + p->kernel_w - p->in_w) * depth;
    const int behind = beyond > 0 ? beyond : 0;
    for (int ky = 0; ky < p->kernel_h; ky++, patch += row) {
        const int y = top + ky * p->dilation_h;
        if (y < 0 || y >= p->in_h) {
            memset(patch, p->input_zero_point, (size_t)row);
            continue;
        }
        const int8_t *pixels = input + y * p->in_w * depth;
        if (p->dilation_w == 1) {
            if (before > 0) {
                memset(patch, p->input_zero_point, (size_t)before);
            }
            memcpy(patch + before, pixels + left * depth + before, (size_t)(row - before - behind));
            if (behind > 0) {
                memset(patch + row - behind, p->input_zero_point, (size_t)behind);
            }
            continue;
        }
        for (int kx = 0; kx < p->kernel_w; kx++) {
            const int x = left + kx * p->dilation_w;
            if (x < 0 || x >= p->in_w) {
                memset(patch + kx * depth, p->input_zero_point, (size_t)depth);
            } else {
                memcpy(patch + kx * depth, pixels + x * depth, (size_t)depth);
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
