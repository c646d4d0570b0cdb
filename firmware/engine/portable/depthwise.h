/* Depthwise convolution (multiplier 1, dilation 1) by planes: four channels at a time, the rows under the
 * kernel are copied channel by channel, widened to 16 bits and padded with the zero point. Then a channel's
 * weights and its inputs are contiguous, one set of weights serves several outputs, and the border needs no
 * code of its own.
 *
 * The rows lie in a ring of kernel_h slots. Sums do not depend on the order of the rows, so the slots are
 * always read from the first on, and the kernel's rows begin where the oldest slot is.
 */
#ifndef EDGENAS_DEPTHWISE_H
#define EDGENAS_DEPTHWISE_H

#include "dot.h"

#define EDGENAS_LANES 4

/* int16s of scratch for one row of packed weights. */
#define EDGENAS_PACKED(kernel_w) (2 * (kernel_w))

/* One channel: its place in the ring and what turns sums into outputs. */
typedef struct {
    const int16_t *x;      /* the first slot, from the first output's first column; aligned to 4 */
    const int16_t *packed; /* weights */
    int32_t bias, multiplier;
    int32_t half;  /* half a unit of the shift, and the output's zero point in its units */
    int32_t right; /* shift */
} edgenas_lane_t;

/* One row of outputs of up to four channels. */
typedef struct {
    edgenas_lane_t lane[EDGENAS_LANES];
    int lanes;
    int channel; /* number of the first */
    int step;    /* int16s between slots, even */
    int first;   /* kernel row that meets the first slot */
    int8_t *output;
    const edgenas_conv_t *p;
} edgenas_row_t;

typedef void (*edgenas_row_fn)(const edgenas_row_t *r);

/* The convolution with one of the row functions below; weights are packed into `packed_rows` rows if that is
 * not 0. */
void edgenas_depthwise_planes(const edgenas_conv_t *p, const int8_t *input, int8_t *output, int32_t *scratch,
                              int packed_rows, edgenas_row_fn row);

/* Any width, stride and scale; from p's weights, biases and scales. */
void edgenas_row_any(const edgenas_row_t *r);

/* Strides 1 and 2. 3x3 has its rows packed twice over, so that they are contiguous from each of them. */
#define EDGENAS_PACKED_ROWS_3X3 5
void edgenas_row_3x3(const edgenas_row_t *r);
void edgenas_row_5(const edgenas_row_t *r);
void edgenas_row_7(const edgenas_row_t *r);

/* `rows` rows, the kernel's from the first again after its last; weights are shifted to the left, also by 0,
 * so that no scale takes longer than another. */
void edgenas_pack(const int8_t *weights, int kernel_h, int kernel_w, int rows, int32_t left, int16_t *packed);

/* `columns` columns of four neighbouring channels: channel n goes to row + n * width. */
void edgenas_spread(const int8_t *input, int depth, int columns, int16_t *row, int width);

/* Loops of constant length: what is known at compile time is decided there. */
#define EDGENAS_INLINE static inline __attribute__((always_inline))

/* Keeps the compiler from loading the next row's taps while these still fill the registers, which costs more
 * in spills than the overlap gains. */
#define EDGENAS_ROW_DONE(sum) __asm__ volatile("" : "+r"(sum))

/* To int8; a narrower activation range is seen to afterwards, by edgenas_depthwise_planes. */
EDGENAS_INLINE int8_t edgenas_saturate(int32_t x) {
#if defined(__ARM_FEATURE_DSP)
    int32_t result;
    __asm__("ssat %0, #8, %1" : "=r"(result) : "r"(x));
    return (int8_t)result;
#else
    return edgenas_clamp(x, INT8_MIN, INT8_MAX);
#endif
}

/* `count` outputs, `depth` bytes apart; where the next one goes. */
EDGENAS_INLINE int8_t *edgenas_put(const edgenas_lane_t *lane, int depth, const int32_t *sums,
                                   const int count, int8_t *output) {
    const int32_t multiplier = lane->multiplier;
    const int32_t half = lane->half;
    const int32_t right = lane->right;
    int32_t y[4];
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) {
        y[i] = edgenas_high_mul_normal(sums[i], multiplier);
    }
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) {
        *output = edgenas_saturate((y[i] + half + (y[i] >> 31)) >> right);
        output += depth;
    }
    return output;
}

#endif
