/* Loops over two operands with broadcasting; the operation itself is a function the compiler inlines. */
#ifndef EDGENAS_ELEMENTWISE_H
#define EDGENAS_ELEMENTWISE_H

#include "edgenas/kernels.h"
#include "requantize.h"

typedef int8_t (*edgenas_binary_fn)(const void *constants, int32_t a, int32_t b);

#define EDGENAS_OPERATION static inline __attribute__((always_inline))

static inline
    __attribute__((always_inline)) void edgenas_binary(const edgenas_elementwise_t *p, const int8_t *a,
                                                       const int8_t *b, int8_t *output,
                                                       edgenas_binary_fn operation, const void *constants) {
    const edgenas_elementwise_t q = *p; /* a copy that stores to `output` cannot alias */
    for (int y = 0; y < q.out_h; y++) {
        for (int x = 0; x < q.out_w; x++) {
            const int8_t *pa = a + y * q.a_stride_h + x * q.a_stride_w;
            const int8_t *pb = b + y * q.b_stride_h + x * q.b_stride_w;
            for (int c = q.out_c; c > 0; c--) {
                *output++ = operation(constants, *pa, *pb);
                pa += q.a_stride_c;
                pb += q.b_stride_c;
            }
        }
    }
}

#endif
