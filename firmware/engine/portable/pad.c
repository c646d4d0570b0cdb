#include <string.h>

#include "edgenas/kernels.h"

void edgenas_pad(const edgenas_pad_t *p, const int8_t *input, int8_t *output) {
    for (int y = 0; y < p->out_h; y++) {
        for (int x = 0; x < p->out_w; x++, output += p->out_c) {
            const int iy = y - p->pad_top;
            const int ix = x - p->pad_left;
            memset(output, p->value, (size_t)p->out_c);
            if (iy >= 0 && iy < p->in_h && ix >= 0 && ix < p->in_w) {
                memcpy(output + p->pad_front, input + (iy * p->in_w + ix) * p->in_c, (size_t)p->in_c);
            }
        }
    }
}
