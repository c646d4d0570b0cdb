/* The inner product that convolutions and fully connected layers share: one or two patches of `count`
 * contiguous bytes against every output channel's weights. */
#ifndef EDGENAS_DOT_H
#define EDGENAS_DOT_H

#include "edgenas/kernels.h"
#include "requantize.h"

static inline int8_t edgenas_finish(const edgenas_conv_t *p, int32_t sum, int channel) {
    const int i = channel * p->per_channel;
    return edgenas_clamp(edgenas_scale_sum(sum, p->multiplier[i], p->shift[i]) + p->output_zero_point,
                         p->activation_min, p->activation_max);
}

/* What turns sums into outputs, copied out of the parameter struct: stores through int8_t pointers may alias
 * the struct as far as the compiler knows, and would make it load every field again. */
typedef struct {
    const int32_t *multiplier;
    const int8_t *shift;
    int32_t zero_point, low, high;
} edgenas_output_t;

static inline edgenas_output_t edgenas_output(const edgenas_conv_t *p) {
    const edgenas_output_t o = {p->multiplier, p->shift, p->output_zero_point, p->activation_min,
                                p->activation_max};
    return o;
}

static inline int8_t edgenas_finish_channel(edgenas_output_t o, int32_t sum, int32_t multiplier,
                                            int32_t shift) {
    return edgenas_clamp(edgenas_scale_sum(sum, multiplier, shift) + o.zero_point, o.low, o.high);
}

/* Outputs of all channels for one patch. */
void edgenas_dot_1(const edgenas_conv_t *p, const int8_t *patch, int count, int8_t *output);

/* The same for two patches at once: each weight is loaded once for both. */
void edgenas_dot_2(const edgenas_conv_t *p, const int8_t *patch0, const int8_t *patch1, int count,
                   int8_t *output0, int8_t *output1);

#endif
