#include "depthwise.h"

void edgenas_pack(const int8_t *weights, int kernel_h, int kernel_w, int rows, int32_t left,
                  int16_t *packed) {
    const int8_t *w = weights;
    for (int ky = 0; ky < rows; ky++, packed += EDGENAS_PACKED(kernel_w)) {
        if (ky == kernel_h) {
            w = weights;
        }
        for (int kx = 0; kx < kernel_w; kx++) {
            packed[kx] = (int16_t)((uint32_t)*w++ << left);
        }
    }
}

/* One row of taps: adds those of `outputs` neighbouring outputs, so that weights and inputs are loaded once.
 */
EDGENAS_INLINE void taps(const int16_t *x, const int16_t *w, int32_t *sums, const int width, const int stride,
                         const int outputs) {
#pragma GCC unroll 16
    for (int column = 0; column < (outputs - 1) * stride + width; column++) {
        const int32_t v = x[column];
#pragma GCC unroll 4
        for (int i = 0; i < outputs; i++) {
            const int tap = column - i * stride;
            if (tap >= 0 && tap < width) {
                sums[i] += v * w[tap];
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < outputs; i++) {
        EDGENAS_ROW_DONE(sums[i]);
    }
}

#include "depthwise_sums.h"
