#include "elementwise.h"

/* As in TFLite: operands are widened by 20 bits, so that no precision is lost before the sum. */
#define LEFT_SHIFT 20

typedef struct {
    edgenas_scale_t a, b, output; /* shifts are never to the left */
    int32_t a_zero_point, b_zero_point, zero_point, low, high;
} add_t;

EDGENAS_OPERATION int8_t add(const void *constants, int32_t a, int32_t b) {
    const add_t *k = constants;
    const int32_t sum = edgenas_scale_by(&k->a, (a - k->a_zero_point) * (1 << LEFT_SHIFT)) +
                        edgenas_scale_by(&k->b, (b - k->b_zero_point) * (1 << LEFT_SHIFT));
    return edgenas_clamp(edgenas_scale_by(&k->output, sum) + k->zero_point, k->low, k->high);
}

void edgenas_add(const edgenas_elementwise_t *p, const int8_t *a, const int8_t *b, int8_t *output) {
    const add_t constants = {
        .a = edgenas_scale_of(p->a_multiplier, p->a_shift),
        .b = edgenas_scale_of(p->b_multiplier, p->b_shift),
        .output = edgenas_scale_of(p->output_multiplier, p->output_shift),
        .a_zero_point = p->a_zero_point,
        .b_zero_point = p->b_zero_point,
        .zero_point = p->output_zero_point,
        .low = p->activation_min,
        .high = p->activation_max,
    };
    edgenas_binary(p, a, b, output, add, &constants);
}
