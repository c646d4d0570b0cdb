/* TensorFlow Lite Micro behind the wire server: models come over the wire and are interpreted where they lie.
 *
 * One region of RAM holds the model, and behind it the interpreter's arena. */
#include <string.h>

#include "board.h"
#include "frame.h"
#include "interpreter.h"
#include "marker.h"
#include "port.h"
#include "server.h"
#include "tflm_config.h"

#define ALIGNMENT 16u

static uint8_t region[TFLM_REGION_BYTES] __attribute__((aligned(16)));
static uint32_t layer_ticks[TFLM_MAX_LAYERS];
static uint32_t layer_started, layers_seen;
static uint32_t empty_region_ticks;
static tflm_model_t model;
static uint8_t prepared, input_complete, has_result;

void tflm_layer_begin(void) {
    layer_started = port_counter_read();
    EDGENAS_MARK_BEGIN(0);
}

void tflm_layer_end(void) {
    EDGENAS_MARK_END(0);
    if (layers_seen < TFLM_MAX_LAYERS) {
        const uint32_t ticks = port_counter_read() - layer_started;
        layer_ticks[layers_seen] = ticks > empty_region_ticks ? ticks - empty_region_ticks : 0u;
    }
    ++layers_seen;
}

static uint32_t measure_empty_region(void) {
    port_counter_start();
    const uint32_t before = port_counter_read();
    __asm__ volatile("nop\n nop" ::: "memory"); /* as long as the two markers */
    const uint32_t after = port_counter_read();
    port_counter_stop();
    return after - before;
}

static void forget(void) { prepared = input_complete = has_result = 0; }

static uint32_t load_model(const uint8_t *payload, uint32_t count, server_reply_t *reply) {
    wire_load_model_request_t request;
    if (count < sizeof request) {
        return WIRE_REASON_BAD_LENGTH;
    }
    memcpy(&request, payload, sizeof request);
    count -= sizeof request;
    if (request.offset > sizeof region || count > sizeof region - request.offset) {
        reply->detail = sizeof region;
        return WIRE_REASON_OUT_OF_RANGE;
    }
    forget(); /* its arena may lie where the new model goes */
    memcpy(region + request.offset, payload + sizeof request, count);
    return 0;
}

static uint32_t prepare(const wire_prepare_request_t *request, server_reply_t *reply) {
    if (request->model_bytes > sizeof region - ALIGNMENT) {
        reply->detail = sizeof region;
        return WIRE_REASON_TOO_BIG;
    }
    forget();
    const uint32_t crc = frame_crc32(0, region, request->model_bytes);
    if (request->model_bytes < 8u || crc != request->model_crc) {
        reply->detail = crc;
        return WIRE_REASON_NO_MODEL;
    }
    const uint32_t start = (request->model_bytes + ALIGNMENT - 1u) / ALIGNMENT * ALIGNMENT;
    const uint32_t status = tflm_prepare(region, region + start, sizeof region - start, &model);
    if (status != TFLM_OK) {
        reply->detail = status;
        return WIRE_REASON_PREPARE_FAILED;
    }
    prepared = 1;
    const wire_prepare_reply_t message = {
        .arena_used_bytes = model.arena_used_bytes,
        .input_bytes = model.input_bytes,
        .output_bytes = model.output_bytes,
        .layers = model.layers,
    };
    SERVER_REPLY(reply, message);
    return 0;
}

static uint32_t load_input(const uint8_t *payload, uint32_t count, server_reply_t *reply) {
    wire_load_input_request_t request;
    if (count < sizeof request) {
        return WIRE_REASON_BAD_LENGTH;
    }
    if (!prepared) {
        return WIRE_REASON_NO_MODEL;
    }
    memcpy(&request, payload, sizeof request);
    count -= sizeof request;
    if (request.offset > model.input_bytes || count > model.input_bytes - request.offset) {
        reply->detail = model.input_bytes;
        return WIRE_REASON_OUT_OF_RANGE;
    }
    memcpy(model.input + request.offset, payload + sizeof request, count);
    has_result = 0; /* input and output may share memory */
    input_complete = request.offset + count == model.input_bytes;
    return 0;
}

static uint32_t invoke(const wire_invoke_request_t *request, server_reply_t *reply) {
    if (!prepared) {
        return WIRE_REASON_NO_MODEL;
    }
    const uint32_t crc = frame_crc32(0, (const uint8_t *)model.input, model.input_bytes);
    if (!input_complete || crc != request->input_crc) {
        reply->detail = crc;
        return WIRE_REASON_NO_INPUT;
    }
    layers_seen = 0;
    port_counter_start();
    const uint32_t before = port_counter_read();
    const uint32_t status = tflm_invoke();
    const uint32_t after = port_counter_read();
    port_counter_stop();
    input_complete = 0;
    if (status != TFLM_OK) {
        reply->detail = status;
        return WIRE_REASON_KERNEL_FAILED;
    }
    has_result = 1;
    const wire_invoke_reply_t message = {
        .ticks = after - before,
        .output_crc = frame_crc32(0, (const uint8_t *)model.output, model.output_bytes),
        .output_bytes = model.output_bytes,
    };
    const uint32_t count = model.output_bytes < WIRE_INLINE_BYTES ? model.output_bytes : WIRE_INLINE_BYTES;
    SERVER_REPLY(reply, message);
    memcpy(reply->payload + sizeof message, model.output, count);
    reply->payload_bytes += count;
    return 0;
}

static int within(const wire_read_request_t *range, uint32_t unit, uint32_t size) {
    return range->count <= WIRE_CHUNK_BYTES / unit && range->offset <= size &&
           range->count <= size - range->offset;
}

static uint32_t read_output(const wire_read_request_t *range, server_reply_t *reply) {
    if (!has_result) {
        return WIRE_REASON_NO_RESULT;
    }
    if (!within(range, 1u, model.output_bytes)) {
        reply->detail = model.output_bytes;
        return WIRE_REASON_OUT_OF_RANGE;
    }
    memcpy(reply->payload, model.output + range->offset, range->count);
    reply->payload_bytes = range->count;
    return 0;
}

static uint32_t layer(const wire_read_request_t *range, server_reply_t *reply) {
    if (!has_result || layers_seen > TFLM_MAX_LAYERS) {
        return WIRE_REASON_NO_RESULT;
    }
    if (!within(range, 4u, layers_seen)) {
        reply->detail = layers_seen;
        return WIRE_REASON_OUT_OF_RANGE;
    }
    memcpy(reply->payload, layer_ticks + range->offset, 4u * range->count);
    reply->payload_bytes = 4u * range->count;
    return 0;
}

static uint32_t handle(uint8_t op, const uint8_t *payload, uint32_t count, server_reply_t *reply) {
    wire_prepare_request_t preparation;
    wire_invoke_request_t invocation;
    wire_read_request_t range;
    switch (op) {
    case WIRE_OP_LOAD_MODEL:
        return load_model(payload, count, reply);
    case WIRE_OP_PREPARE:
        return SERVER_READ(preparation, payload, count) ? prepare(&preparation, reply)
                                                        : WIRE_REASON_BAD_LENGTH;
    case WIRE_OP_LOAD_INPUT:
        return load_input(payload, count, reply);
    case WIRE_OP_INVOKE:
        return SERVER_READ(invocation, payload, count) ? invoke(&invocation, reply) : WIRE_REASON_BAD_LENGTH;
    case WIRE_OP_READ_OUTPUT:
        return SERVER_READ(range, payload, count) ? read_output(&range, reply) : WIRE_REASON_BAD_LENGTH;
    case WIRE_OP_LAYER:
        return SERVER_READ(range, payload, count) ? layer(&range, reply) : WIRE_REASON_BAD_LENGTH;
    default:
        return WIRE_REASON_UNKNOWN_OP;
    }
}

int main(void) {
    static const server_t server = {
        .kind = WIRE_KIND_TFLM,
        .board = BOARD_NAME,
        .arena_bytes = TFLM_REGION_BYTES,
        .describe =
            {
                .clock_hz = BOARD_CLOCK_HZ,
                .counter_hz = BOARD_COUNTER_HZ,
                .pool_bytes = TFLM_REGION_BYTES,
            },
        .handler = handle,
    };
    port_init();
    empty_region_ticks = measure_empty_region();
    server_run(&server);
}
