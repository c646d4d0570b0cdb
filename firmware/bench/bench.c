/* Operator benchmark: runs one kernel at a time on made-up data, with the shapes that the host sends.
 *
 * Input, output, weights, constants and scratch share one static pool. The made-up quantization is valid and
 * of usual magnitude; no kernel's time depends on more of it than that. */
#include <string.h>

#include "bench_config.h"
#include "board.h"
#include "edgenas/kernels.h"
#include "frame.h"
#include "marker.h"
#include "port.h"
#include "server.h"

typedef wire_run_op_request_t request_t;

static union {
    uint8_t bytes[BENCH_POOL_BYTES];
    uint64_t alignment;
} pool;
static uint64_t pool_used; /* may exceed the pool: tells how much would be needed */
static uint32_t random_state;
static uint32_t empty_region_ticks;

/* Marsaglia's xorshift32 (2003); the state is never 0. */
static uint32_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* `count` bytes of the pool, aligned to 8; NULL where the pool is exhausted. */
static void *take(uint64_t count) {
    const uint64_t start = pool_used;
    pool_used = (start + count + 7u) & ~(uint64_t)7u;
    return pool_used <= BENCH_POOL_BYTES ? pool.bytes + start : NULL;
}

static int8_t *take_random(uint64_t count) {
    int8_t *data = take(count);
    for (uint64_t i = 0; data != NULL && i < count; ++i) {
        data[i] = (int8_t)(next_random() >> 24);
    }
    return data;
}

/* Per-channel constants of a convolution: the accumulator comes out at about the range of int8. */
static void take_channels(edgenas_conv_t *p, uint32_t channels, uint32_t taps) {
    int32_t *bias = take(4u * (uint64_t)channels);
    int32_t *multiplier = take(4u * (uint64_t)channels);
    int8_t *shift = take(channels);
    if (shift == NULL) {
        return;
    }
    int8_t down = 6; /* 7 bits of weight, less one bit in two for each doubling of the taps added up */
    for (uint32_t n = taps; n > 1u; n >>= 2) {
        ++down;
    }
    for (uint32_t c = 0; c < channels; ++c) {
        bias[c] = (int32_t)next_random() >> 20;
        multiplier[c] = (int32_t)(0x40000000u | next_random() >> 2);
        shift[c] = (int8_t)-down;
    }
    p->bias = bias;
    p->multiplier = multiplier;
    p->shift = shift;
}

/* What one run needs besides its parameter struct. */
typedef struct {
    const int8_t *input, *input2;
    int8_t *output;
    void *scratch;
    uint32_t output_bytes;
} tensors_t;

/* Ticks of `call` alone, summed over the repetitions. */
#define MEASURE(call)                                                                                        \
    for (uint32_t repetition = 0; repetition < r->repetitions; ++repetition) {                               \
        port_counter_start();                                                                                \
        const uint32_t before = port_counter_read();                                                         \
        EDGENAS_MARK_BEGIN(0);                                                                               \
        call;                                                                                                \
        EDGENAS_MARK_END(0);                                                                                 \
        const uint32_t after = port_counter_read();                                                          \
        port_counter_stop();                                                                                 \
        const uint32_t spent = after - before;                                                               \
        ticks += spent > empty_region_ticks ? spent - empty_region_ticks : 0u;                               \
    }

/* The least of several: the first may run from a cold cache, another may be interrupted by an operating
 * system. */
static uint32_t measure_empty_region(void) {
    uint32_t least = UINT32_MAX;
    for (int i = 0; i < 16; ++i) {
        port_counter_start();
        const uint32_t before = port_counter_read();
        __asm__ volatile("nop\n nop" ::: "memory"); /* as long as the two markers */
        const uint32_t after = port_counter_read();
        port_counter_stop();
        least = after - before < least ? after - before : least;
    }
    return least;
}

/* No value below needs a check: `first_invalid` held all fields to 0..INT16_MAX. */
#define I16(value) ((int16_t)(value))

static uint64_t run_convolution(const request_t *r, tensors_t *t) {
    uint64_t ticks = 0;
    const uint32_t spatial_taps = (uint32_t)r->kernel_h * (uint32_t)r->kernel_w;
    const int depthwise = r->kind == OP_KIND_depthwise_conv2d;
    const uint32_t taps = depthwise ? spatial_taps : spatial_taps * (uint32_t)r->in_c;
    edgenas_conv_t p = {
        .in_h = I16(r->in_h),
        .in_w = I16(r->in_w),
        .in_c = I16(r->in_c),
        .out_h = I16(r->out_h),
        .out_w = I16(r->out_w),
        .out_c = I16(r->out_c),
        .kernel_h = I16(r->kernel_h),
        .kernel_w = I16(r->kernel_w),
        .stride_h = I16(r->stride_h),
        .stride_w = I16(r->stride_w),
        .dilation_h = I16(r->dilation_h),
        .dilation_w = I16(r->dilation_w),
        .pad_top = I16(r->pad_top),
        .pad_left = I16(r->pad_left),
        .input_zero_point = -128,
        .output_zero_point = r->activation ? -128 : 3,
        .activation_min = -128,
        .activation_max = 127,
        .per_channel = r->kind != OP_KIND_fully_connected,
    };
    p.weights = take_random((uint64_t)taps * (uint32_t)r->out_c);
    take_channels(&p, (uint32_t)r->out_c, taps);
    if (pool_used > BENCH_POOL_BYTES) {
        return 0;
    }
    switch (r->kernel) {
    case KERNEL_edgenas_conv:
        MEASURE(edgenas_conv(&p, t->input, t->output, t->scratch));
        break;
    case KERNEL_edgenas_conv_1x1:
        MEASURE(edgenas_conv_1x1(&p, t->input, t->output));
        break;
    case KERNEL_edgenas_depthwise:
        MEASURE(edgenas_depthwise(&p, t->input, t->output));
        break;
    case KERNEL_edgenas_depthwise_3x3:
        MEASURE(edgenas_depthwise_3x3(&p, t->input, t->output, t->scratch));
        break;
    case KERNEL_edgenas_depthwise_plain:
        MEASURE(edgenas_depthwise_plain(&p, t->input, t->output, t->scratch));
        break;
    default:
        MEASURE(edgenas_fully_connected(&p, t->input, t->output));
        break;
    }
    return ticks;
}

static uint64_t run_elementwise(const request_t *r, tensors_t *t) {
    uint64_t ticks = 0;
    const edgenas_elementwise_t p = {
        .out_h = I16(r->out_h),
        .out_w = I16(r->out_w),
        .out_c = I16(r->out_c),
        .a_stride_h = r->in_h == r->out_h ? (int32_t)(r->in_w * r->in_c) : 0,
        .a_stride_w = r->in_w == r->out_w ? (int32_t)r->in_c : 0,
        .a_stride_c = r->in_c == r->out_c,
        .b_stride_h = r->in2_h == r->out_h ? (int32_t)(r->in2_w * r->in2_c) : 0,
        .b_stride_w = r->in2_w == r->out_w ? (int32_t)r->in2_c : 0,
        .b_stride_c = r->in2_c == r->out_c,
        .a_zero_point = -5,
        .b_zero_point = 7,
        .output_zero_point = 2,
        .activation_min = -128,
        .activation_max = 127,
        .a_shift = 0,
        .b_shift = -1,
        .output_shift = r->kernel == KERNEL_edgenas_add ? -18 : -6,
        .a_multiplier = 0x40000000,
        .b_multiplier = 0x6A000000,
        .output_multiplier = 0x5B000000,
    };
    if (r->kernel == KERNEL_edgenas_add) {
        MEASURE(edgenas_add(&p, t->input, t->input2, t->output));
    } else {
        MEASURE(edgenas_mul(&p, t->input, t->input2, t->output));
    }
    return ticks;
}

static uint64_t run_pool(const request_t *r, tensors_t *t) {
    uint64_t ticks = 0;
    int32_t halvings = 0;
    for (uint32_t n = (uint32_t)r->in_h * (uint32_t)r->in_w; n > 1u; n >>= 1) {
        ++halvings;
    }
    const edgenas_pool_t p = {
        .in_h = I16(r->in_h),
        .in_w = I16(r->in_w),
        .in_c = I16(r->in_c),
        .out_h = I16(r->out_h),
        .out_w = I16(r->out_w),
        .kernel_h = I16(r->kernel_h),
        .kernel_w = I16(r->kernel_w),
        .stride_h = I16(r->stride_h),
        .stride_w = I16(r->stride_w),
        .pad_top = I16(r->pad_top),
        .pad_left = I16(r->pad_left),
        .activation_min = -128,
        .activation_max = 127,
        .input_zero_point = -128,
        .output_zero_point = -128,
        .multiplier = 0x5B000000,
        .shift = -halvings,
    };
    switch (r->kernel) {
    case KERNEL_edgenas_mean:
        MEASURE(edgenas_mean(&p, t->input, t->output, t->scratch));
        break;
    case KERNEL_edgenas_average_pool:
        MEASURE(edgenas_average_pool(&p, t->input, t->output));
        break;
    default:
        MEASURE(edgenas_max_pool(&p, t->input, t->output));
        break;
    }
    return ticks;
}

static uint64_t run_pad(const request_t *r, tensors_t *t) {
    uint64_t ticks = 0;
    const edgenas_pad_t p = {
        .in_h = I16(r->in_h),
        .in_w = I16(r->in_w),
        .in_c = I16(r->in_c),
        .out_h = I16(r->out_h),
        .out_w = I16(r->out_w),
        .out_c = I16(r->out_c),
        .pad_top = I16(r->pad_top),
        .pad_left = I16(r->pad_left),
        .value = -128,
    };
    MEASURE(edgenas_pad(&p, t->input, t->output));
    return ticks;
}

static uint64_t run_table(const request_t *r, tensors_t *t) {
    uint64_t ticks = 0;
    const edgenas_table_t p = {.count = (int32_t)t->output_bytes, .table = take_random(256)};
    if (p.table != NULL) {
        MEASURE(edgenas_table(&p, t->input, t->output));
    }
    return ticks;
}

static uint64_t run_softmax(const request_t *r, tensors_t *t) {
    uint64_t ticks = 0;
    int32_t *exponential = take(256u * sizeof *exponential);
    if (exponential == NULL) {
        return 0;
    }
    for (int32_t d = 0; d < 256; ++d) {
        exponential[d] = 0x7FFFFFFF >> (d / 9);
    }
    const edgenas_softmax_t p = {.rows = r->in_h * r->in_w, .depth = r->in_c, .exp = exponential};
    MEASURE(edgenas_softmax(&p, t->input, t->output));
    return ticks;
}

/* 1-based index of the first field out of range, or 0. Sizes, strides and dilations are 1..INT16_MAX, all
 * others 0..INT16_MAX. */
static uint32_t first_invalid(const request_t *r) {
    const uint32_t count = (sizeof *r - offsetof(request_t, in_h)) / sizeof(uint32_t);
    for (uint32_t i = 0; i < count; ++i) {
        uint32_t value;
        memcpy(&value, (const uint8_t *)r + offsetof(request_t, in_h) + i * sizeof value, sizeof value);
        const uint32_t at_least =
            i < (offsetof(request_t, pad_top) - offsetof(request_t, in_h)) / sizeof value;
        if (value < at_least || value > INT16_MAX) {
            return i + 1u;
        }
    }
    return 0;
}

static uint64_t volume(uint32_t h, uint32_t w, uint32_t c) { return (uint64_t)h * w * c; }

/* Ticks; without meaning where the pool turns out too small, which the caller finds out. */
static uint64_t run_kernel(const request_t *r, tensors_t *t) {
    const int fits = pool_used <= BENCH_POOL_BYTES; /* the others take more of it, and check then */
    switch (r->kernel) {
    case KERNEL_edgenas_add:
    case KERNEL_edgenas_mul:
        return fits ? run_elementwise(r, t) : 0;
    case KERNEL_edgenas_mean:
    case KERNEL_edgenas_average_pool:
    case KERNEL_edgenas_max_pool:
        return fits ? run_pool(r, t) : 0;
    case KERNEL_edgenas_pad:
        return fits ? run_pad(r, t) : 0;
    case KERNEL_edgenas_table:
        return run_table(r, t);
    case KERNEL_edgenas_softmax:
        return run_softmax(r, t);
    default:
        return run_convolution(r, t);
    }
}

static uint32_t run_op(const request_t *r, server_reply_t *reply) {
    if (r->kernel >= KERNEL_COUNT) {
        reply->detail = r->kernel;
        return WIRE_REASON_UNKNOWN_KERNEL;
    }
    reply->detail = first_invalid(r);
    if (reply->detail != 0u) {
        return WIRE_REASON_BAD_ARGUMENT;
    }
    random_state = r->seed != 0u ? r->seed : 1u;
    pool_used = 0;
    const uint64_t output_bytes = volume(r->out_h, r->out_w, r->out_c);
    tensors_t t = {.output_bytes = (uint32_t)output_bytes};
    t.input = take_random(volume(r->in_h, r->in_w, r->in_c));
    t.input2 = take_random(volume(r->in2_h, r->in2_w, r->in2_c));
    t.output = take(output_bytes);
    t.scratch = take(r->scratch_bytes);
    const uint64_t ticks = run_kernel(r, &t);
    if (pool_used > BENCH_POOL_BYTES) {
        reply->detail = pool_used < UINT32_MAX ? (uint32_t)pool_used : UINT32_MAX;
        return WIRE_REASON_TOO_BIG;
    }
    uint8_t *end = varint_write(reply->payload, ticks); /* in the order of wire_run_op_reply_t */
    end = varint_write(end, frame_crc32(0, (const uint8_t *)t.output, t.output_bytes));
    end = varint_write(end, t.output_bytes);
    end = varint_write(end, pool_used);
    reply->payload_bytes = (uint32_t)(end - reply->payload);
    return 0;
}

static uint32_t handle(uint8_t op, const uint8_t *payload, uint32_t payload_bytes, server_reply_t *reply) {
    if (op != WIRE_OP_RUN_OP) {
        return WIRE_REASON_UNKNOWN_OP;
    }
    union {
        uint32_t fields[sizeof(request_t) / sizeof(uint32_t)];
        request_t request;
    } message;
    if (!varint_read(payload, payload_bytes, message.fields, sizeof message.fields / sizeof(uint32_t))) {
        return WIRE_REASON_BAD_LENGTH;
    }
    return run_op(&message.request, reply);
}

int main(void) {
    static const server_t server = {
        .kind = WIRE_KIND_BENCH,
        .board = BOARD_NAME,
        .describe =
            {
                .clock_hz = BOARD_CLOCK_HZ,
                .counter_hz = BOARD_COUNTER_HZ,
                .pool_bytes = BENCH_POOL_BYTES,
                .kernels = KERNEL_COUNT,
            },
        .handler = handle,
    };
    port_init();
    empty_region_ticks = measure_empty_region();
    server_run(&server);
}
