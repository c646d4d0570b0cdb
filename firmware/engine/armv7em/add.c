/* Addition, four outputs at a time where both operands have the output's shape; others take the portable way.
 * Same bytes as portable/add.c. */
#include <arm_acle.h>
#include <stdbool.h>

#include "elementwise.h"

/* As in TFLite: operands are widened by 20 bits, so that no precision is lost before the sum. */
#define LEFT_SHIFT 20

typedef struct {
    edgenas_scale_t a, b, output; /* shifts are never to the left */
    int32_t a_zero_point, b_zero_point, zero_point, low, high;
} add_t;

EDGENAS_OPERATION int8_t add(const void *constants, int32_t a, int32_t b) {
    const add_t *k = constants;
    const int32_t sum = edgenas_scale_by(&k->a, (a - k->a_zero_point) * (1 << LEFT_SHIFT)) +
                        edgenas_scale_by(&k->b, (b - k->b_zero_point) * (1 << LEFT_SHIFT));
    return edgenas_clamp(edgenas_scale_by(&k->output, sum) + k->zero_point, k->low, k->high);
}

/* What `scaled` needs; always with a shift to the right. */
typedef struct {
    int32_t zero; /* of an operand widened, of the output as it is */
    int32_t doubled, half, right;
} step_t;

/* TFLite halves the operand of the larger scale: a multiplier of 1/2 without a shift. It becomes one of 1,
 * which `doubled` = 2^32 = 0 stands for, with a shift by one. */
static bool is_half(int32_t multiplier, int32_t shift) { return multiplier == 1 << 30 && shift == 0; }

static step_t step_of(int32_t zero, int32_t multiplier, int32_t shift) {
    const int32_t right = is_half(multiplier, shift) ? 1 : -shift;
    const step_t s = {zero, is_half(multiplier, shift) ? 0 : (int32_t)((uint32_t)multiplier << 1),
                      1 << (right - 1), right};
    return s;
}

/* As edgenas_scale_by: x + x * doubled / 2^32, then half away from zero. */
static inline int32_t scaled(int32_t x, step_t s) {
    int32_t y;
    __asm__("smmlar %0, %1, %2, %1" : "=r"(y) : "r"(x), "r"(s.doubled));
    return (y + (s.half + (y >> 31))) >> s.right;
}

static inline int32_t widened(int32_t x, step_t s) { return scaled(x * (1 << LEFT_SHIFT) - s.zero, s); }

/* The constants of all three steps do not fit into the registers: each is read when its turn comes, once for
 * four outputs. Volatile, or the compiler would read them all beforehand and keep them in memory again. */
static step_t read(const volatile step_t *from) {
    const step_t s = {from->zero, from->doubled, from->half, from->right};
    return s;
}

static void add_fours(const volatile step_t steps[3], const int8_t *a, const int8_t *b, int8_t *output,
                      int count) {
    for (const int8_t *const end = a + (count & ~3); a != end; a += 4, b += 4, output += 4) {
        step_t s = read(&steps[0]);
        int32_t v0 = widened(a[0], s);
        int32_t v1 = widened(a[1], s);
        int32_t v2 = widened(a[2], s);
        int32_t v3 = widened(a[3], s);
        s = read(&steps[1]);
        v0 += widened(b[0], s);
        v1 += widened(b[1], s);
        v2 += widened(b[2], s);
        v3 += widened(b[3], s);
        s = read(&steps[2]);
        output[0] = (int8_t)__ssat(scaled(v0, s) + s.zero, 8);
        output[1] = (int8_t)__ssat(scaled(v1, s) + s.zero, 8);
        output[2] = (int8_t)__ssat(scaled(v2, s) + s.zero, 8);
        output[3] = (int8_t)__ssat(scaled(v3, s) + s.zero, 8);
    }
    const step_t first = read(&steps[0]), second = read(&steps[1]), last = read(&steps[2]);
    for (int n = count & 3; n > 0; n--) {
        const int32_t sum = widened(*a++, first) + widened(*b++, second);
        *output++ = (int8_t)__ssat(scaled(sum, last) + last.zero, 8);
    }
}

/* Whether both operands lie as the output does, in whose strides 1 or 0 is the same along an axis of
 * length 1. */
static bool is_flat(const edgenas_elementwise_t *p) {
    const int row = p->out_w * p->out_c;
    const bool channels = p->out_c == 1 || (p->a_stride_c == 1 && p->b_stride_c == 1);
    const bool columns = p->out_w == 1 || (p->a_stride_w == p->out_c && p->b_stride_w == p->out_c);
    return channels && columns && (p->out_h == 1 || (p->a_stride_h == row && p->b_stride_h == row));
}

static bool has_steps(const edgenas_elementwise_t *p) {
    return (p->a_shift < 0 || is_half(p->a_multiplier, p->a_shift)) &&
           (p->b_shift < 0 || is_half(p->b_multiplier, p->b_shift)) && p->output_shift < 0 &&
           p->activation_min == INT8_MIN && p->activation_max == INT8_MAX;
}

void edgenas_add(const edgenas_elementwise_t *p, const int8_t *a, const int8_t *b, int8_t *output) {
    if (is_flat(p) && has_steps(p)) {
        const step_t steps[3] = {
            step_of(p->a_zero_point * (1 << LEFT_SHIFT), p->a_multiplier, p->a_shift),
            step_of(p->b_zero_point * (1 << LEFT_SHIFT), p->b_multiplier, p->b_shift),
            step_of(p->output_zero_point, p->output_multiplier, p->output_shift),
        };
        add_fours(steps, a, b, output, p->out_h * p->out_w * p->out_c);
        return;
    }
    const add_t constants = {
        .a = edgenas_scale_of(p->a_multiplier, p->a_shift),
        .b = edgenas_scale_of(p->b_multiplier, p->b_shift),
        .output = edgenas_scale_of(p->output_multiplier, p->output_shift),
        .a_zero_point = p->a_zero_point,
        .b_zero_point = p->b_zero_point,
        .zero_point = p->output_zero_point,
        .low = p->activation_min,
        .high = p->activation_max,
    };
    edgenas_binary(p, a, b, output, add, &constants);
}
