#ifndef EDGENAS_DEPTHWISE_H
#define EDGENAS_DEPTHWISE_H

#include "dot.h"

/* One output pixel of a multiplier-1, dilation-1 kernel that reaches into the padding; (top, left) is the
 * input position of its first tap and may lie outside. */
void edgenas_depthwise_border(const edgenas_conv_t *p, const int8_t *input, int top, int left,
                              int8_t *output);

/* Sums of a finished row of taps: keeps the compiler from loading the next row's taps while these still fill
 * the registers, which costs more in spills than the overlap gains. */
#define EDGENAS_ROW_DONE(sum) __asm__ volatile("" : "+r"(sum) : : "memory")

static inline int edgenas_is_inside(const edgenas_conv_t *p, int top, int left) {
    return top >= 0 && left >= 0 && top + p->kernel_h <= p->in_h && left + p->kernel_w <= p->in_w;
}

#endif
