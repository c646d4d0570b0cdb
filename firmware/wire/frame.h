/* Frames on the wire: 0x00 | COBS(op u8, seq u16, payload, CRC-32 little-endian) | 0x00. */
#ifndef EDGENAS_FRAME_H
#define EDGENAS_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "wire.h"

#define FRAME_HEADER_BYTES 3u
#define FRAME_OVERHEAD_BYTES (FRAME_HEADER_BYTES + 4u)
#define FRAME_BODY_BYTES (WIRE_MAX_PAYLOAD_BYTES + FRAME_OVERHEAD_BYTES)

enum { FRAME_PENDING, FRAME_COMPLETE, FRAME_BROKEN, FRAME_CRC_DIFFERS };

/* One frame on its way in; zero-initialize. After FRAME_COMPLETE body holds op, seq and payload until the
 * next byte is fed. */
typedef struct {
    uint8_t body[FRAME_BODY_BYTES];
    uint32_t length;        /* decoded bytes so far */
    uint32_t payload_bytes; /* set by FRAME_COMPLETE */
    uint8_t block_left;     /* bytes left of the current COBS block */
    uint8_t zero_due;       /* the block that just ended stands before a zero */
    uint8_t started;
    uint8_t broken;
} frame_decoder_t;

/* Takes one byte of the stream; never writes beyond body. */
int frame_feed(frame_decoder_t *decoder, uint8_t byte);

/* Completes a body of FRAME_OVERHEAD_BYTES + payload_bytes whose payload is already in place (from
 * FRAME_HEADER_BYTES on), encodes it and hands it to `write` in pieces. */
void frame_send(uint8_t *body, uint8_t op, uint16_t seq, uint32_t payload_bytes,
                void (*write)(const uint8_t *data, size_t count));

/* Reads `fields` LEB128 numbers (seven bits a byte, lowest first, bit 7 set in all but the last), which must
 * fill the payload exactly and fit 32 bits each; 0 where they do not. */
int varint_read(const uint8_t *payload, uint32_t payload_bytes, uint32_t *values, uint32_t fields);

/* Writes one, of up to 10 bytes; returns where the next goes. */
uint8_t *varint_write(uint8_t *to, uint64_t value);

/* CRC-32 (IEEE 802.3, as zlib's) of `count` bytes; start with crc = 0 and chain. */
uint32_t frame_crc32(uint32_t crc, const uint8_t *data, size_t count);

#endif
