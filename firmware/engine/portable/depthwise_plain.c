#include "depthwise.h"

void edgenas_depthwise_plain(const edgenas_conv_t *p, const int8_t *input, int8_t *output, int32_t *scratch) {
    edgenas_row_fn row = edgenas_row_any;
    if (p->stride_w <= 2 && (p->kernel_w == 5 || p->kernel_w == 7)) {
        row = p->kernel_w == 5 ? edgenas_row_5 : edgenas_row_7;
    }
    edgenas_depthwise_planes(p, input, output, scratch, row == edgenas_row_any ? 0 : p->kernel_h, row);
}
