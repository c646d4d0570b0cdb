/* Two columns at a time: pairs of halfwords by SXTB16, and one word store for each channel. */
#include <arm_acle.h>
#include <string.h>

#include "depthwise.h"

static inline uint32_t load4(const int8_t *p) {
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}

static inline void store_pair(int16_t *p, uint32_t pair) { memcpy(p, &pair, 4); }

static inline uint32_t even(uint32_t word) { return (uint32_t)__sxtb16((int8x4_t)word); }

static inline uint32_t odd(uint32_t word) {
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}

/* The bottom, and the top, halfwords of two words. */
static inline uint32_t bottoms(uint32_t a, uint32_t b) {
    uint32_t pair;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

static inline uint32_t tops(uint32_t a, uint32_t b) {
    uint32_t pair;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(pair) : "r"(b), "r"(a));
    return pair;
}

static inline void one(const int8_t *input, int16_t *row, int width) {
    row[0] = input[0];
    row[width] = input[1];
    row[2 * width] = input[2];
    row[3 * width] = input[3];
}

void edgenas_spread(const int8_t *input, int depth, int columns, int16_t *row, int width) {
    if ((uintptr_t)row & 2U) { /* then pairs are aligned */
        one(input, row++, width);
        input += depth;
        columns--;
    }
    int16_t *row1 = row + width;
    int16_t *row2 = row1 + width;
    int16_t *row3 = row2 + width;
    int16_t *const end = row + (columns & ~1);
    while (row != end) {
        const uint32_t a = load4(input);
        const uint32_t b = load4(input + depth);
        input += 2 * depth;
        const uint32_t a_even = even(a);
        const uint32_t b_even = even(b);
        const uint32_t a_odd = odd(a);
        const uint32_t b_odd = odd(b);
        store_pair(row, bottoms(a_even, b_even));
        store_pair(row1, bottoms(a_odd, b_odd));
        store_pair(row2, tops(a_even, b_even));
        store_pair(row3, tops(a_odd, b_odd));
        row += 2;
        row1 += 2;
        row2 += 2;
        row3 += 2;
    }
    if (columns & 1) {
        one(input, row, width);
    }
}
