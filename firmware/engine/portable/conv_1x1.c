#include "dot.h"

void edgenas_conv_1x1(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    const int depth = p->in_c;
    int pixels = p->out_h * p->out_w;
    for (; pixels >= 2; pixels -= 2) {
        edgenas_dot_2(p, input, input + depth, depth, output, output + p->out_c);
        input += 2 * depth;
        output += 2 * p->out_c;
    }
    if (pixels > 0) {
        edgenas_dot_1(p, input, depth, output);
    }
}
