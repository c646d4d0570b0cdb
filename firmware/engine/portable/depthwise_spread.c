#include "depthwise.h"

void edgenas_spread(const int8_t *input, int depth, int columns, int16_t *row, int width) {
    int16_t *row1 = row + width;
    int16_t *row2 = row1 + width;
    int16_t *row3 = row2 + width;
    for (int n = columns; n > 0; n--, input += depth) {
        const int8_t a = input[0];
        const int8_t b = input[1];
        const int8_t c = input[2];
        const int8_t d = input[3];
        *row++ = a;
        *row1++ = b;
        *row2++ = c;
        *row3++ = d;
    }
}
