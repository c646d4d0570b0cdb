#include "elementwise.h"

EDGENAS_OPERATION int8_t mul(const void *constants, int32_t a, int32_t b) {
    const edgenas_elementwise_t *p = constants;
    const int32_t product = (a - p->a_zero_point) * (b - p->b_zero_point);
    return edgenas_clamp(edgenas_scale_sum(product, p->output_multiplier, p->output_shift) +
                             p->output_zero_point,
                         p->activation_min, p->activation_max);
}

void edgenas_mul(const edgenas_elementwise_t *p, const int8_t *a, const int8_t *b, int8_t *output) {
    const edgenas_elementwise_t q = *p; /* a copy that stores to `output` cannot alias */
    edgenas_binary(p, a, b, output, mul, &q);
}
