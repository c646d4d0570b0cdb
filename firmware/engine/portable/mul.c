#include "elementwise.h"

static inline int8_t mul(const edgenas_elementwise_t *p, int8_t a, int8_t b) {
    const int32_t product = (a - p->a_zero_point) * (b - p->b_zero_point);
    return edgenas_clamp(edgenas_scale_sum(product, p->output_multiplier, p->output_shift) +
                             p->output_zero_point,
                         p->activation_min, p->activation_max);
}

void edgenas_mul(const edgenas_elementwise_t *p, const int8_t *a, const int8_t *b, int8_t *output) {
    edgenas_binary(p, a, b, output, mul);
}
