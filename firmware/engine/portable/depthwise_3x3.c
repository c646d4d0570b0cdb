#include "depthwise.h"

void edgenas_depthwise_3x3(const edgenas_conv_t *p, const int8_t *input, int8_t *output, int32_t *scratch) {
    const int fast = p->stride_w <= 2;
    edgenas_depthwise_planes(p, input, output, scratch, fast ? EDGENAS_PACKED_ROWS_3X3 : 0,
                             fast ? edgenas_row_3x3 : edgenas_row_any);
}
