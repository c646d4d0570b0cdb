/* INT8 kernels of the edgenas engine: batch 1, NHWC, no heap, bit-identical to TFLite Micro's reference
 * kernels.
 *
 * Every kernel takes a parameter struct, its input(s), its output and, where `pipeline/space/kernels.py` says
 * so, scratch memory. Input and output must not overlap unless a comment allows it.
 */
#ifndef EDGENAS_KERNELS_H
#define EDGENAS_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Convolution, depthwise convolution (out_c = in_c * multiplier) and fully connected (kernel 1x1, in_h rows).
 *
 * The input's zero point is folded into the bias: bias[c] + input_offset * sum of the channel's weights. Taps
 * that fall into the padding therefore read the zero point, not 0.
 */
typedef struct {
    int16_t in_h, in_w, in_c;
    int16_t out_h, out_w, out_c;
    int16_t kernel_h, kernel_w;
    int16_t stride_h, stride_w;
    int16_t dilation_h, dilation_w;
    int16_t pad_top, pad_left;
    int16_t input_zero_point;
    int16_t output_zero_point;
    int16_t activation_min, activation_max;
    int16_t per_channel;       /* 1: one multiplier and shift per output channel; 0: one for all */
    const int8_t *weights;     /* [out_c][kernel_h][kernel_w][in_c]; depthwise: [out_c][kernel_h][kernel_w] */
    const int32_t *bias;       /* [out_c], input zero point folded in */
    const int32_t *multiplier; /* Q31 */
    const int8_t *shift;       /* power of two; positive: left */
} edgenas_conv_t;

/* Addition and multiplication with broadcasting over h, w and c. */
typedef struct {
    int16_t out_h, out_w, out_c;
    int16_t a_zero_point, b_zero_point, output_zero_point;
    int16_t activation_min, activation_max;
    int32_t a_stride_h, a_stride_w, a_stride_c; /* elements; 0 where the operand is broadcast */
    int32_t b_stride_h, b_stride_w, b_stride_c;
    int8_t a_shift, b_shift, output_shift; /* add: shifts <= 0; mul uses output_* only */
    int32_t a_multiplier, b_multiplier, output_multiplier;
} edgenas_elementwise_t;

/* Average and max pooling, and the mean over height and width. */
typedef struct {
    int16_t in_h, in_w, in_c;
    int16_t out_h, out_w;
    int16_t kernel_h, kernel_w;
    int16_t stride_h, stride_w;
    int16_t pad_top, pad_left;
    int16_t activation_min, activation_max;
    int16_t input_zero_point, output_zero_point; /* mean only */
    int32_t multiplier;                          /* mean only */
    int32_t shift;                               /* mean only */
} edgenas_pool_t;

/* Constant padding of height, width and channels. */
typedef struct {
    int16_t in_h, in_w, in_c;
    int16_t out_h, out_w, out_c;
    int16_t pad_top, pad_left, pad_front; /* front: channels */
    int16_t value;
} edgenas_pad_t;

/* Element-wise function of one int8 value (logistic, hard-swish): the answers for -128..127. */
typedef struct {
    int32_t count;
    const int8_t *table; /* [256] */
} edgenas_table_t;

/* Softmax over the last axis. exp[d] is the Q0.31 exponential for a distance d = max - x of 0..255. */
typedef struct {
    int32_t rows, depth;
    const int32_t *exp; /* [256] */
} edgenas_softmax_t;

/* Any convolution. scratch: 2 * kernel_h * kernel_w * in_c bytes. */
void edgenas_conv(const edgenas_conv_t *p, const int8_t *input, int8_t *output, int8_t *scratch);

/* 1x1, stride 1, no padding. */
void edgenas_conv_1x1(const edgenas_conv_t *p, const int8_t *input, int8_t *output);

/* Any depthwise convolution. */
void edgenas_depthwise(const edgenas_conv_t *p, const int8_t *input, int8_t *output);

/* 3x3, multiplier 1, dilation 1. scratch: see depthwise_scratch_bytes in pipeline/space/kernels.py; aligned
 * to 4. */
void edgenas_depthwise_3x3(const edgenas_conv_t *p, const int8_t *input, int8_t *output, int32_t *scratch);

/* Any size, multiplier 1, dilation 1. scratch: as above. */
void edgenas_depthwise_plain(const edgenas_conv_t *p, const int8_t *input, int8_t *output, int32_t *scratch);

/* in_h rows of in_c features. */
void edgenas_fully_connected(const edgenas_conv_t *p, const int8_t *input, int8_t *output);

/* output may be the memory of an operand that has the output's shape. */
void edgenas_add(const edgenas_elementwise_t *p, const int8_t *a, const int8_t *b, int8_t *output);
void edgenas_mul(const edgenas_elementwise_t *p, const int8_t *a, const int8_t *b, int8_t *output);

/* Over all of height and width. scratch: 4 * in_c bytes, aligned to 4. */
void edgenas_mean(const edgenas_pool_t *p, const int8_t *input, int8_t *output, int32_t *scratch);
void edgenas_average_pool(const edgenas_pool_t *p, const int8_t *input, int8_t *output);
void edgenas_max_pool(const edgenas_pool_t *p, const int8_t *input, int8_t *output);

void edgenas_pad(const edgenas_pad_t *p, const int8_t *input, int8_t *output);

/* output may be the input's memory. */
void edgenas_table(const edgenas_table_t *p, const int8_t *input, int8_t *output);
void edgenas_softmax(const edgenas_softmax_t *p, const int8_t *input, int8_t *output);

#ifdef __cplusplus
}
#endif

#endif
