#include "depthwise.h"

static int32_t window(const edgenas_row_t *r, const int16_t *line, const int8_t *weights, int32_t sum) {
    const int height = r->p->kernel_h;
    const int width = r->p->kernel_w;
    const int8_t *w = weights + r->first * width;
    for (int ky = r->first, n = height; n > 0; n--, line += r->step) {
        const int16_t *x = line;
        for (int kx = width; kx > 0; kx--) {
            sum += *w++ * *x++;
        }
        if (++ky == height) {
            w = weights;
        }
    }
    return sum;
}

void edgenas_row_any(const edgenas_row_t *r) {
    const edgenas_conv_t *p = r->p;
    const edgenas_output_t o = edgenas_output(p);
    for (int lane = 0; lane < r->lanes; lane++) {
        const int channel = r->channel + lane;
        const int8_t *w = p->weights + channel * p->kernel_h * p->kernel_w;
        const int32_t multiplier = o.multiplier[channel * p->per_channel];
        const int32_t shift = o.shift[channel * p->per_channel];
        const int32_t bias = p->bias[channel];
        const int16_t *x = r->lane[lane].x;
        int8_t *output = r->output + lane;
        for (int n = p->out_w; n > 0; n--, x += p->stride_w, output += p->out_c) {
            *output = edgenas_finish_channel(o, window(r, x, w, bias), multiplier, shift);
        }
    }
}
