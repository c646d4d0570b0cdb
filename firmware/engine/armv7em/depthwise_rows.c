/* Rows of taps with the DSP extension: two neighbouring columns of the 16-bit plane are one word. Packed are
 * the pairs of neighbouring weights (w[t], w[t + 1]); a tap left over at either end is half of the first or
 * the last pair. Same sums as portable/depthwise_rows.c. */
#include <arm_acle.h>
#include <string.h>

#include "depthwise.h"

static inline int16x2_t load_pair(const int16_t *p) {
    int16x2_t pair;
    memcpy(&pair, p, 4);
    return pair;
}

void edgenas_pack(const int8_t *weights, int kernel_h, int kernel_w, int rows, int16_t *packed) {
    const int8_t *w = weights;
    const int size = EDGENAS_PACKED(kernel_w);
    int16_t *to = packed;
    for (int ky = kernel_h; ky > 0; ky--, to += size) {
        int16_t last = *w++;
        for (int tap = 0; tap + 1 < kernel_w; tap++) {
            const int16_t next = *w++;
            to[2 * tap] = last;
            to[2 * tap + 1] = next;
            last = next;
        }
    }
    for (int words = (rows - kernel_h) * size / 2; words > 0; words--, packed += 2, to += 2) {
        memcpy(to, packed, 4);
    }
}

/* Values that are all there before any is used: the compiler cannot put anything between their loads. */
EDGENAS_INLINE void together(int16x2_t *v, const int count) {
    switch (count) {
    case 2:
        __asm__("" : "+r"(v[0]), "+r"(v[1]));
        break;
    case 3:
        __asm__("" : "+r"(v[0]), "+r"(v[1]), "+r"(v[2]));
        break;
    case 4:
        __asm__("" : "+r"(v[0]), "+r"(v[1]), "+r"(v[2]), "+r"(v[3]));
        break;
    case 5:
        __asm__("" : "+r"(v[0]), "+r"(v[1]), "+r"(v[2]), "+r"(v[3]), "+r"(v[4]));
        break;
    case 6:
        __asm__("" : "+r"(v[0]), "+r"(v[1]), "+r"(v[2]), "+r"(v[3]), "+r"(v[4]), "+r"(v[5]));
        break;
    case 7:
        __asm__("" : "+r"(v[0]), "+r"(v[1]), "+r"(v[2]), "+r"(v[3]), "+r"(v[4]), "+r"(v[5]), "+r"(v[6]));
        break;
    default:
        break;
    }
}

/* One row of taps: adds those of `outputs` neighbouring outputs, so that weights and inputs are loaded once.
 *
 * A load right behind a load takes one cycle instead of two, so they are kept together: `batch` pairs of
 * columns and the weights that these need first. */
EDGENAS_INLINE void taps(const int16_t *x, const int16_t *w, int32_t *sums, const int width, const int stride,
                         const int outputs) {
    const int columns = (outputs - 1) * stride + width;
    const int batch = width == 3 ? 5 : 2;
    int16x2_t pairs[6];
#pragma GCC unroll 4
    for (int from = 0; from < columns; from += 2 * batch) {
        int16x2_t loaded[8];
        int count = 0;
#pragma GCC unroll 5
        for (int i = 0; i < batch; i++) {
            if (from + 2 * i < columns) {
                loaded[count++] = load_pair(x + from + 2 * i);
            }
        }
        const int columns_loaded = count;
#pragma GCC unroll 6
        for (int i = 0; i < width - 1; i++) {
            if (i > from - 2 && i <= from + 2 * batch - 2 && (stride == 1 || i % 2 == 0 || i == width - 2)) {
                loaded[count++] = load_pair(w + 2 * i);
            }
        }
        together(loaded, count);
        count = columns_loaded;
#pragma GCC unroll 6
        for (int i = 0; i < width - 1; i++) {
            if (i > from - 2 && i <= from + 2 * batch - 2 && (stride == 1 || i % 2 == 0 || i == width - 2)) {
                pairs[i] = loaded[count++];
            }
        }
#pragma GCC unroll 20
        for (int k = 0; k < batch * 4; k++) {
            const int i = k % 4;
            const int column = from + 2 * (k / 4);
            const int tap = column - i * stride; /* that of the pair's first column */
            if (i >= outputs || column >= columns) {
                continue;
            }
            if (tap >= 0 && tap + 1 < width) {
                sums[i] = __smlad(loaded[k / 4], pairs[tap], sums[i]);
            } else if (tap == -1) {
                sums[i] = __smlatb(loaded[k / 4], pairs[0], sums[i]);
            } else if (tap + 1 == width) {
                sums[i] = __smlabt(loaded[k / 4], pairs[width - 2], sums[i]);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < outputs; i++) {
        EDGENAS_ROW_DONE(sums[i]);
    }
}

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
