#include <string.h>

#include "depthwise.h"

/* count: even; to: aligned to 4. */
static void fill(int16_t *to, int count, int value) {
    const uint32_t pair = (uint32_t)(uint16_t)value << 16 | (uint16_t)value;
    for (int i = 0; i < count; i += 2) {
        memcpy(to + i, &pair, 4);
    }
}

/* As edgenas_spread, of fewer channels. */
static void spread_some(const int8_t *input, int depth, int columns, int16_t *row, int width, int lanes) {
    for (; lanes > 0; lanes--, input++, row += width) {
        const int8_t *from = input;
        for (int x = 0; x < columns; x++, from += depth) {
            row[x] = *from;
        }
    }
}

/* Limits `count` outputs to an activation range narrower than int8. */
static void narrow(const edgenas_conv_t *p, int8_t *output, int count) {
    const int32_t low = p->activation_min;
    const int32_t high = p->activation_max;
    for (int8_t *const end = output + count; output != end; output++) {
        *output = edgenas_clamp(*output, low, high);
    }
}

/* So far a shift to the left fits into 16-bit weights, and the zero point in units of one to the right into
 * the sum. Almost all that lies beyond are channels without any effect, which are replaced ahead of time
 * (_without_quiet_channels in pipeline/engine/operators.py). */
#define LEFT_MAX 8
#define RIGHT_MAX 22
#define SUM_MAX (1 << 30)

/* Prepares one channel; whether it may take the fast row functions. These add the zero point before the
 * shift.
 *
 * With no shift to the right they round the negative outputs down by one, which does not matter where the
 * activation cuts those off. */
static int prepare(const edgenas_conv_t *p, int channel, edgenas_lane_t *lane, int packed_rows,
                   int16_t *packed) {
    const int32_t shift = p->shift[channel * p->per_channel];
    const int32_t negative = shift >> 31; /* all ones or none: no branch takes longer for some scales */
    const int32_t left = shift & ~negative;
    const int32_t right = -shift & negative;
    const int32_t least_right = p->activation_min < p->output_zero_point;
    const int32_t bias = p->bias[channel];
    if (left > LEFT_MAX || right > RIGHT_MAX || bias >= SUM_MAX >> left || bias < -(SUM_MAX >> left) ||
        right < least_right) {
        return 0;
    }
    lane->packed = packed;
    lane->bias = bias * (1 << left);
    lane->multiplier = p->multiplier[channel * p->per_channel];
    lane->half = ((1 << right) >> 1) + p->output_zero_point * (1 << right);
    lane->right = right;
    edgenas_pack(p->weights + channel * p->kernel_h * p->kernel_w, p->kernel_h, p->kernel_w, packed_rows,
                 left, packed);
    return 1;
}

/* Whether all of four channels may. */
static int prepare_lanes(const edgenas_conv_t *p, edgenas_row_t *r, int packed_rows, int16_t *packed,
                         int packed_size) {
    int fast = packed_rows > 0;
    for (int i = 0; fast && i < r->lanes; i++, packed += packed_size) {
        fast = prepare(p, r->channel + i, &r->lane[i], packed_rows, packed);
    }
    return fast;
}

void edgenas_depthwise_planes(const edgenas_conv_t *p, const int8_t *input, int8_t *output, int32_t *scratch,
                              int packed_rows, edgenas_row_fn row) {
    const int depth = p->in_c;
    const int height = p->kernel_h;
    const int width = ((p->out_w - 1) * p->stride_w + p->kernel_w + 1) & ~1;
    const int columns = p->in_w < width - p->pad_left ? p->in_w : width - p->pad_left;
    const int packed_size = packed_rows * EDGENAS_PACKED(p->kernel_w);
    const int step = EDGENAS_LANES * width;
    const int input_row = p->in_w * depth;
    const int output_row = p->out_w * depth;
    const int zero_point = p->input_zero_point;
    int16_t *const packed = (int16_t *)(void *)scratch;
    int16_t *const ring = packed + EDGENAS_LANES * packed_size;
    edgenas_row_t r;
    r.step = step;
    r.p = p;
    for (int i = 0; i < EDGENAS_LANES; i++) {
        r.lane[i].x = ring + i * width;
    }
    fill(ring, height * step, zero_point); /* columns in the padding stay so */
    for (int c = 0; c < depth; c += EDGENAS_LANES) {
        r.lanes = depth - c < EDGENAS_LANES ? depth - c : EDGENAS_LANES;
        r.channel = c;
        r.output = output + c;
        const edgenas_row_fn chosen =
            prepare_lanes(p, &r, packed_rows, packed, packed_size) ? row : edgenas_row_any;
        const int8_t *source = input + c; /* the next input row to be copied, its number and its slot */
        int next = -p->pad_top;
        int slot = 0;
        for (int end = next + height, oy = p->out_h; oy > 0; oy--, end += p->stride_h) {
            for (; next < end; next++) {
                int16_t *const to = ring + slot * step;
                if (next < 0 || next >= p->in_h) {
                    fill(to, step, zero_point);
                } else {
                    if (r.lanes == EDGENAS_LANES) {
                        edgenas_spread(source, depth, columns, to + p->pad_left, width);
                    } else {
                        spread_some(source, depth, columns, to + p->pad_left, width, r.lanes);
                    }
                    source += input_row;
                }
                slot = slot + 1 < height ? slot + 1 : 0;
            }
            r.first = slot > 0 ? height - slot : 0;
            chosen(&r);
            r.output += output_row;
        }
    }
    if (p->activation_min > INT8_MIN || p->activation_max < INT8_MAX) {
        narrow(p, output, p->out_h * output_row);
    }
}
