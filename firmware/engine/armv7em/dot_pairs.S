/* void edgenas_dot_pairs(const edgenas_dot_pairs_t *) of dot.c: pairs of output channels over two patches.
 *
 * In assembly because the inner loop needs every register there is; compilers spill some of them in each
 * iteration. Cortex-M4 and M7 load unaligned words. */
    .syntax unified
    .thumb

/* The stack frame: what edgenas_dot_pairs_t has behind w and count, in its order. */
    .equ PATCH, 0
    .equ END, 4
    .equ BIAS, 8
    .equ MULTIPLIER, 12
    .equ SHIFT, 16
    .equ STEP, 20
    .equ ROUNDING, 24 /* 2 * zero_point + 1 */
    .equ OUTPUT, 28
    .equ CHANNELS, 32
    .equ PAIRS, 36
    .equ FRAME, 44 /* with the nine saved registers a multiple of 8 */

x0 .req r0 /* sums: first patch, first channel */
x1 .req r1
y0 .req r2 /* second patch */
y1 .req r3
w .req r4
count .req r5
x .req r6
end .req r7
p .req r8
q .req r9
even0 .req r10
even1 .req r11
odd0 .req r12
odd1 .req lr

/* Four taps, 16 multiply-accumulates: the patches and the channels' weights lie `count` bytes apart. Bytes 0
 * and 2 of a word become halfwords, then 1 and 3. */
.macro four_taps
    ldr odd1, [w, count]
    ldr odd0, [w], #4
    ldr p, [x, count]
    sxtb16 even0, odd0
    sxtb16 even1, odd1
    sxtb16 q, p
    sxtb16 odd0, odd0, ror #8
    smlad y0, q, even0, y0
    sxtb16 p, p, ror #8
    smlad y1, q, even1, y1
    ldr q, [x], #4
    sxtb16 odd1, odd1, ror #8
    smlad y0, p, odd0, y0
    smlad y1, p, odd1, y1
    sxtb16 p, q
    sxtb16 q, q, ror #8
    smlad x0, p, even0, x0
    smlad x1, p, even1, x1
    smlad x0, q, odd0, x0
    smlad x1, q, odd1, x1
.endm

/* Two sums of a channel to outputs, as edgenas_scale_sum (requantize.h) and the zero point: rounding half away from
 * zero by `right` bits is a shift by all but one of them, and half a unit more; so
 *     (((x - (x < 0)) >> (right - 1)) + 1 + 2 * zero_point) >> 1.
 * A shift to the left leaves for `left`. Uses up multiplier and shift. */
.macro outputs sum_x, sum_y, multiplier, shift, left, back
    lsl \multiplier, \multiplier, #1
    mvns \shift, \shift /* right - 1 */
    bmi \left
    smmlar \sum_x, \sum_x, \multiplier, \sum_x
    smmlar \sum_y, \sum_y, \multiplier, \sum_y
    add \sum_x, \sum_x, \sum_x, asr #31
    add \sum_y, \sum_y, \sum_y, asr #31
    asr \sum_x, \sum_x, \shift
    asr \sum_y, \sum_y, \shift
\back:
    add \sum_x, \sum_x, p
    add \sum_y, \sum_y, p
    ssat \sum_x, #8, \sum_x, asr #1
    ssat \sum_y, #8, \sum_y, asr #1
.endm

/* The same with a shift to the left, up to the doubled scaled sum. */
.macro outputs_left sum_x, sum_y, multiplier, shift, back
    mvn \shift, \shift
    lsl \sum_x, \sum_x, \shift
    lsl \sum_y, \sum_y, \shift
    smmlar \sum_x, \sum_x, \multiplier, \sum_x
    smmlar \sum_y, \sum_y, \multiplier, \sum_y
    ssat \sum_x, #30, \sum_x
    ssat \sum_y, #30, \sum_y
    lsl \sum_x, \sum_x, #1
    lsl \sum_y, \sum_y, #1
    b \back
.endm

    .section .text.edgenas_dot_pairs, "ax", %progbits
    .global edgenas_dot_pairs
    .type edgenas_dot_pairs, %function
    .thumb_func
edgenas_dot_pairs:
    push {r4-r11, lr}
    sub sp, #FRAME
    ldm r0!, {w, count}
    ldm r0!, {r1, r2, r3, r6, r7}
    stm sp, {r1, r2, r3, r6, r7}
    ldm r0, {r1, r2, r3, r6, r7}
    add r0, sp, #STEP
    stm r0, {r1, r2, r3, r6, r7}

.Lchannels:
    ldr p, [sp, #BIAS]
    ldr x, [sp, #PATCH]
    ldr end, [sp, #END]
    ldrd x0, x1, [p], #8
    str p, [sp, #BIAS]
    mov y0, x0
    mov y1, x1

    tst count, #4
    beq .Leights
    four_taps
.Leights:
    cmp x, end
    beq .Lrest
.Leight:
    four_taps
    four_taps
    cmp x, end
    bne .Leight

.Lrest:
    ands p, count, #3
    beq .Lscale
.Ltap:
    ldrsb q, [x, count]
    ldrsb odd1, [w, count]
    ldrsb even0, [x], #1
    ldrsb odd0, [w], #1
    mla y1, q, odd1, y1
    mla y0, q, odd0, y0
    mla x1, even0, odd1, x1
    mla x0, even0, odd0, x0
    subs p, #1
    bne .Ltap

.Lscale:
    add w, count
    ldr p, [sp, #MULTIPLIER]
    ldr q, [sp, #SHIFT]
    ldr odd0, [sp, #STEP]
    ldr even0, [p]
    ldr even1, [p, odd0, lsl #2]
    ldrsb x, [q]
    ldrsb end, [q, odd0]
    add p, p, odd0, lsl #3
    add q, q, odd0, lsl #1
    str p, [sp, #MULTIPLIER]
    str q, [sp, #SHIFT]
    ldr p, [sp, #ROUNDING]
    ldr q, [sp, #OUTPUT]
    ldr odd0, [sp, #CHANNELS]
    outputs x0, y0, even0, x, .Lleft0, .Lback0
    outputs x1, y1, even1, end, .Lleft1, .Lback1
    strb y0, [q, odd0]
    strb x0, [q], #1
    strb y1, [q, odd0]
    strb x1, [q], #1
    str q, [sp, #OUTPUT]
    ldr p, [sp, #PAIRS]
    subs p, #1
    str p, [sp, #PAIRS]
    bne .Lchannels

    add sp, #FRAME
    pop {r4-r11, pc}

.Lleft0:
    outputs_left x0, y0, even0, x, .Lback0
.Lleft1:
    outputs_left x1, y1, even1, end, .Lback1
    .size edgenas_dot_pairs, . - edgenas_dot_pairs
