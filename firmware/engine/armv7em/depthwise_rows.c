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

void edgenas_pack(const int8_t *weights, int kernel_h, int kernel_w, int rows, int32_t left,
                  int16_t *packed) {
    const int8_t *w = weights;
    const int size = EDGENAS_PACKED(kernel_w);
    int16_t *to = packed;
    for (int ky = kernel_h; ky > 0; ky--, to += size) {
        uint32_t last = (uint32_t)*w++ << left;
        for (int tap = 0; tap + 1 < kernel_w; tap++) {
            const uint32_t next = (uint32_t)*w++ << left;
            const uint32_t pair = (last & 0xffffU) | next << 16;
            memcpy(to + 2 * tap, &pair, 4);
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

#include "depthwise_sums.h"
