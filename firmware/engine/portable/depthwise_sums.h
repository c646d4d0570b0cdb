/* Rows of outputs over whole kernels, the same for every instruction set. Included by its depthwise_rows.c
 * behind `taps`, which adds one row of taps to the sums of neighbouring outputs. */
#ifndef EDGENAS_DEPTHWISE_SUMS_H
#define EDGENAS_DEPTHWISE_SUMS_H

#include "depthwise.h"

/* `outputs` neighbouring outputs over the three slots. */
EDGENAS_INLINE void sums_3x3(const int16_t *x, int step, const int16_t *w, int32_t *sums, const int stride,
                             const int outputs) {
#pragma GCC unroll 3
    for (int slot = 0; slot < 3; slot++, x += step, w += EDGENAS_PACKED(3)) {
        taps(x, w, sums, 3, stride, outputs);
    }
}

/* The same over any number of slots: `last` of the kernel's last rows, at least one, then
 * `first` of its first. */
EDGENAS_INLINE void sums_wide(const int16_t *x, int step, const int16_t *packed, int last, int first,
                              int32_t *sums, const int width, const int stride, const int outputs) {
    const int16_t *w = packed + first * EDGENAS_PACKED(width);
    int rows = last;
    do {
        do {
            taps(x, w, sums, width, stride, outputs);
            x += step;
            w += EDGENAS_PACKED(width);
        } while (--rows > 0);
        w = packed;
        rows = first;
        first = 0;
    } while (rows > 0);
}

/* The lanes' rows, four outputs at a time. */
EDGENAS_INLINE void rows(const edgenas_row_t *r, const int width, const int stride) {
    const int step = r->step;
    const int first = r->first;
    const int last = r->p->kernel_h - first;
    const int depth = r->p->out_c;
    const int out_w = r->p->out_w;
    int8_t *row = r->output;
    const edgenas_lane_t *const end = r->lane + r->lanes;
    for (const edgenas_lane_t *lane = r->lane; lane != end; lane++, row++) {
        const int16_t *x = lane->x;
        const int16_t *const w = lane->packed + (width == 3 ? first * EDGENAS_PACKED(3) : 0);
        const int32_t bias = lane->bias;
        int8_t *output = row;
#define PUT(outputs)                                                                                         \
    do {                                                                                                     \
        int32_t sums[4] = {bias, bias, bias, bias};                                                          \
        if (width == 3) {                                                                                    \
            sums_3x3(x, step, w, sums, stride, outputs);                                                     \
        } else {                                                                                             \
            sums_wide(x, step, w, last, first, sums, width, stride, outputs);                                \
        }                                                                                                    \
        output = edgenas_put(lane, depth, sums, outputs, output);                                            \
        x += (outputs) * stride;                                                                             \
    } while (0)
        int left = out_w;
        for (; left >= 4; left -= 4) {
            PUT(4);
        }
        if (left & 2) {
            PUT(2);
        }
        if (left & 1) {
            PUT(1);
        }
#undef PUT
    }
}

EDGENAS_INLINE void row_of(const edgenas_row_t *r, const int width) {
    if (r->p->stride_w == 1) {
        rows(r, width, 1);
    } else {
        rows(r, width, 2);
    }
}

void edgenas_row_3x3(const edgenas_row_t *r) { row_of(r, 3); }

void edgenas_row_5(const edgenas_row_t *r) { row_of(r, 5); }

void edgenas_row_7(const edgenas_row_t *r) { row_of(r, 7); }

#endif
