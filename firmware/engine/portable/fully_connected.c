#include "dot.h"

void edgenas_fully_connected(const edgenas_conv_t *p, const int8_t *input, int8_t *output) {
    for (int row = 0; row < p->in_h; row++) {
        edgenas_dot_1(p, input + row * p->in_c, p->in_c, output + row * p->out_c);
    }
}
