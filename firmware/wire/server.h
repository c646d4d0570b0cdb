/* Answers requests from the host, one at a time, for ever. */
#ifndef EDGENAS_SERVER_H
#define EDGENAS_SERVER_H

#include <stdint.h>

#include "wire.h"

typedef struct {
    uint8_t *payload;       /* room for WIRE_MAX_PAYLOAD_BYTES */
    uint32_t payload_bytes; /* what the handler wrote there */
    uint32_t detail;        /* goes into the NAK where the handler refuses */
} server_reply_t;

/* Handles one request; returns 0, or one of WIRE_REASON_*. */
typedef uint32_t (*server_handler_t)(uint8_t op, const uint8_t *payload, uint32_t payload_bytes,
                                     server_reply_t *reply);

typedef struct {
    uint8_t kind; /* WIRE_KIND_* */
    const char *board;
    uint32_t arena_bytes;
    wire_describe_reply_t describe;
    server_handler_t handler; /* for all requests but HELLO, DESCRIBE, MEMORY, FAULT and RESET */
} server_t;

_Noreturn void server_run(const server_t *server);

/* Copies a message out of a payload of exactly its size; 0 where the size differs. */
#define SERVER_READ(message, payload, payload_bytes)                                                         \
    ((payload_bytes) == sizeof(message) && (memcpy(&(message), (payload), sizeof(message)), 1))

/* Makes a message the reply. */
#define SERVER_REPLY(reply, message)                                                                         \
    (memcpy((reply)->payload, &(message), sizeof(message)), (reply)->payload_bytes = sizeof(message))

#endif
