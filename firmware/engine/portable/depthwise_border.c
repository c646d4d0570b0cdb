#include "depthwise.h"

/* Sum of weights [from, to): taps in the padding all read the zero point. */
static int32_t sum_of(const int8_t *w, int from, int to) {
    int32_t sum = 0;
    for (int i = from; i < to; i++) {
        sum += w[i];
    }
    return sum;
}

void edgenas_depthwise_border(const edgenas_conv_t *p, const int8_t *input, int top, int left,
                              int8_t *output) {
    const int depth = p->in_c;
    const int first = left < 0 ? -left : 0;
    const int last = left + p->kernel_w > p->in_w ? p->in_w - left : p->kernel_w;
    const int8_t *w = p->weights;
    for (int c = 0; c < depth; c++) {
        int32_t sum = p->bias[c];
        int32_t outside = 0;
        for (int ky = 0; ky < p->kernel_h; ky++, w += p->kernel_w) {
            const int y = top + ky;
            if (y < 0 || y >= p->in_h) {
                outside += sum_of(w, 0, p->kernel_w);
                continue;
            }
            const int8_t *x = input + (y * p->in_w + left + first) * depth + c;
            for (int kx = first; kx < last; kx++, x += depth) {
                sum += w[kx] * *x;
            }
            outside += sum_of(w, 0, first) + sum_of(w, last, p->kernel_w);
        }
        output[c] = edgenas_finish(p, sum + outside * p->input_zero_point, c);
    }
}
