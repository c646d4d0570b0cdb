#include "server.h"

#include <string.h>

#include "build_id.h"
#include "frame.h"
#include "port.h"

/* Also read from the ELF by the host. */
const uint8_t edgenas_build_id[WIRE_BUILD_ID_BYTES] __attribute__((used, section(".edgenas_build_id"))) =
    EDGENAS_BUILD_ID;

static frame_decoder_t incoming;
static uint8_t outgoing[FRAME_BODY_BYTES];

static void hello(const server_t *server, server_reply_t *reply) {
    const port_fault_t *fault = port_fault();
    const uint32_t status = fault->status != 0u ? fault->status : fault->status2;
    wire_hello_reply_t message = {
        .protocol = WIRE_PROTOCOL_VERSION,
        .kind = server->kind,
        .reset_cause = status != 0u,
        .fault_pc = fault->pc,
        .fault_status = status,
    };
    memcpy(message.build_id, edgenas_build_id, sizeof message.build_id);
    for (uint32_t i = 0; i + 1u < sizeof message.board && server->board[i] != '\0'; ++i) {
        message.board[i] = server->board[i];
    }
    SERVER_REPLY(reply, message);
}

static void memory(const server_t *server, server_reply_t *reply) {
    const wire_memory_reply_t message = {
        .arena_bytes = server->arena_bytes,
        .static_bytes = port_static_bytes(),
        .stack_reserve_bytes = port_stack_reserve(),
        .stack_used_bytes = port_stack_used(),
        .flash_bytes = port_flash_bytes(),
    };
    SERVER_REPLY(reply, message);
}

static void fault(server_reply_t *reply) {
    const port_fault_t *f = port_fault();
    const wire_fault_reply_t message = {
        .pc = f->pc,
        .lr = f->lr,
        .sp = f->sp,
        .status = f->status,
        .status2 = f->status2,
        .address = f->address,
    };
    SERVER_REPLY(reply, message);
}

static uint32_t answer(const server_t *server, uint8_t op, server_reply_t *reply) {
    const uint8_t *payload = incoming.body + FRAME_HEADER_BYTES;
    const uint32_t count = incoming.payload_bytes;
    const int own = op == WIRE_OP_HELLO || op == WIRE_OP_DESCRIBE || op == WIRE_OP_MEMORY ||
                    op == WIRE_OP_FAULT || op == WIRE_OP_RESET;
    if (!own) {
        return server->handler(op, payload, count, reply);
    }
    if (count != 0u) {
        return WIRE_REASON_BAD_LENGTH;
    }
    if (op == WIRE_OP_HELLO) {
        hello(server, reply);
    } else if (op == WIRE_OP_DESCRIBE) {
        SERVER_REPLY(reply, server->describe);
    } else if (op == WIRE_OP_MEMORY) {
        memory(server, reply);
    } else if (op == WIRE_OP_FAULT) {
        fault(reply);
    }
    return 0;
}

static void nak(uint8_t op, uint16_t seq, uint32_t reason, uint32_t detail) {
    const wire_nak_reply_t message = {.op = op, .reason = (uint8_t)reason, .detail = detail};
    uint8_t body[FRAME_OVERHEAD_BYTES +
                 sizeof message]; /* not `outgoing`: the reply kept there may be asked for */
    memcpy(body + FRAME_HEADER_BYTES, &message, sizeof message);
    frame_send(body, WIRE_OP_NAK | WIRE_RESPONSE_BIT, seq, sizeof message, port_uart_write);
}

/* What answered the last request: a reply, whose payload is in `outgoing`, or a refusal. It is kept, so that
 * a request that comes twice (its answer was lost) is answered twice and executed once. */
typedef struct {
    uint32_t key; /* the CRC covers op, seq and payload, so it names the request */
    uint32_t reason, detail, payload_bytes;
    int valid;
} answer_t;

_Noreturn void server_run(const server_t *server) {
    answer_t last = {0};
    /* Until it was greeted the device does nothing else: a host whose device restarted learns of it by its
     * next request. */
    int greeted = 0;
    for (;;) {
        const int state = frame_feed(&incoming, port_uart_read());
        if (state == FRAME_PENDING) {
            continue;
        }
        if (state != FRAME_COMPLETE) {
            nak(0, 0, state == FRAME_BROKEN ? WIRE_REASON_BAD_FRAME : WIRE_REASON_BAD_CRC, 0);
            continue;
        }
        const uint8_t op = incoming.body[0];
        const uint16_t seq = (uint16_t)(incoming.body[1] | incoming.body[2] << 8);
        const uint32_t key = frame_crc32(0, incoming.body, FRAME_HEADER_BYTES + incoming.payload_bytes);
        greeted = greeted || op == WIRE_OP_HELLO;
        if (!greeted && op != WIRE_OP_FAULT && op != WIRE_OP_RESET) {
            nak(op, seq, WIRE_REASON_NOT_GREETED, 0);
            continue;
        }
        if (!last.valid || key != last.key || op == WIRE_OP_HELLO) {
            server_reply_t reply = {.payload = outgoing + FRAME_HEADER_BYTES};
            const uint32_t reason = answer(server, op, &reply);
            last = (answer_t){key, reason, reply.detail, reply.payload_bytes, 1};
        }
        if (last.reason != 0u) {
            nak(op, seq, last.reason, last.detail);
            continue;
        }
        frame_send(outgoing, op | WIRE_RESPONSE_BIT, seq, last.payload_bytes, port_uart_write);
        if (op == WIRE_OP_RESET) {
            port_reset();
        }
    }
}
