#include <string.h>

#include "edgenas/kernels.h"
#include "requantize.h"

typedef struct {
    int top, bottom, left, right; /* input rows and columns under one output; bottom and right excluded */
} window_t;

static window_t window_at(const edgenas_pool_t *p, int oy, int ox) {
    window_t w = {oy * p->stride_h - p->pad_top, 0, ox * p->stride_w - p->pad_left, 0};
    w.bottom = w.top + p->kernel_h > p->in_h ? p->in_h : w.top + p->kernel_h;
    w.right = w.left + p->kernel_w > p->in_w ? p->in_w : w.left + p->kernel_w;
    w.top = w.top < 0 ? 0 : w.top;
    w.left = w.left < 0 ? 0 : w.left;
    return w;
}

/* sum / count, rounded half away from zero; count > 0. */
static int32_t round_divide(int32_t sum, int32_t count) {
    return sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
}

void edgenas_average_pool(const edgenas_pool_t *p, const int8_t *input, int8_t *output) {
    for (int oy = 0; oy < p->out_h; oy++) {
        for (int ox = 0; ox < p->out_w; ox++) {
            const window_t w = window_at(p, oy, ox);
            const int count = (w.bottom - w.top) * (w.right - w.left);
            for (int c = 0; c < p->in_c; c++) {
                int32_t sum = 0;
                for (int y = w.top; y < w.bottom; y++) {
                    const int8_t *x = input + (y * p->in_w + w.left) * p->in_c + c;
                    for (int n = w.right - w.left; n > 0; n--, x += p->in_c) {
                        sum += *x;
                    }
                }
                *output++ = edgenas_clamp(round_divide(sum, count), p->activation_min, p->activation_max);
            }
        }
    }
}

void edgenas_max_pool(const edgenas_pool_t *p, const int8_t *input, int8_t *output) {
    for (int oy = 0; oy < p->out_h; oy++) {
        for (int ox = 0; ox < p->out_w; ox++) {
            const window_t w = window_at(p, oy, ox);
            for (int c = 0; c < p->in_c; c++) {
                int32_t most = INT8_MIN;
                for (int y = w.top; y < w.bottom; y++) {
                    const int8_t *x = input + (y * p->in_w + w.left) * p->in_c + c;
                    for (int n = w.right - w.left; n > 0; n--, x += p->in_c) {
                        most = *x > most ? *x : most;
                    }
                }
                *output++ = edgenas_clamp(most, p->activation_min, p->activation_max);
            }
        }
    }
}
