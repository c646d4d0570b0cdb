#include "elementwise.h"

/* As in TFLite: operands are widened by 20 bits, so that no precision is lost before the sum. */
#define LEFT_SHIFT 20

static inline int8_t add(const edgenas_elementwise_t *p, int8_t a, int8_t b) {
    const int32_t wide_a = (a - p->a_zero_point) * (1 << LEFT_SHIFT);
    const int32_t wide_b = (b - p->b_zero_point) * (1 << LEFT_SHIFT);
    const int32_t sum = edgenas_scale_sum(wide_a, p->a_multiplier, p->a_shift) +
                        edgenas_scale_sum(wide_b, p->b_multiplier, p->b_shift);
    return edgenas_clamp(edgenas_scale_sum(sum, p->output_multiplier, p->output_shift) + p->output_zero_point,
                         p->activation_min, p->activation_max);
}

void edgenas_add(const edgenas_elementwise_t *p, const int8_t *a, const int8_t *b, int8_t *output) {
    edgenas_binary(p, a, b, output, add);
}
