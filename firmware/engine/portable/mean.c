#include "edgenas/kernels.h"
#include "requantize.h"

void edgenas_mean(const edgenas_pool_t *p, const int8_t *input, int8_t *output, int32_t *scratch) {
    const int count = p->in_h * p->in_w;
    const int depth = p->in_c;
    for (int c = 0; c < depth; c++) {
        scratch[c] = -p->input_zero_point * count;
    }
    for (int n = count; n > 0; n--, input += depth) {
        int c = 0;
        for (; c + 4 <= depth; c += 4) {
            const int32_t v0 = input[c];
            const int32_t v1 = input[c + 1];
            const int32_t v2 = input[c + 2];
            const int32_t v3 = input[c + 3];
            scratch[c] += v0;
            scratch[c + 1] += v1;
            scratch[c + 2] += v2;
            scratch[c + 3] += v3;
        }
        for (; c < depth; c++) {
            scratch[c] += input[c];
        }
    }
    for (int c = 0; c < depth; c++) {
        /* the division by count is part of the multiplier */
        output[c] = edgenas_clamp(edgenas_scale(scratch[c], p->multiplier, p->shift) + p->output_zero_point,
                                  p->activation_min, p->activation_max);
    }
}
