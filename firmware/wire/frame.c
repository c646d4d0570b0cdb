#include "frame.h"

uint32_t frame_crc32(uint32_t crc, const uint8_t *data, size_t count) {
    /* half a byte at a time: 64 bytes of table */
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u,
        0x4DB26158u, 0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu,
        0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    crc = ~crc;
    for (size_t i = 0; i < count; ++i) {
        crc ^= data[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}

static void push(frame_decoder_t *d, uint8_t byte) {
    if (d->length < FRAME_BODY_BYTES) {
        d->body[d->length++] = byte;
    } else {
        d->broken = 1;
    }
}

static int finish(frame_decoder_t *d) {
    const uint32_t length = d->length;
    const int broken = d->broken || d->block_left != 0u || length < FRAME_OVERHEAD_BYTES;
    d->length = 0;
    d->block_left = d->zero_due = d->started = d->broken = 0;
    if (broken) {
        return FRAME_BROKEN;
    }
    const uint8_t *tail = d->body + length - 4u;
    const uint32_t sent =
        (uint32_t)tail[0] | (uint32_t)tail[1] << 8 | (uint32_t)tail[2] << 16 | (uint32_t)tail[3] << 24;
    if (frame_crc32(0, d->body, length - 4u) != sent) {
        return FRAME_CRC_DIFFERS;
    }
    d->payload_bytes = length - FRAME_OVERHEAD_BYTES;
    return FRAME_COMPLETE;
}

int frame_feed(frame_decoder_t *d, uint8_t byte) {
    if (byte == 0u) {
        return d->started ? finish(d) : FRAME_PENDING; /* delimiters in a row */
    }
    d->started = 1;
    if (d->block_left > 0u) {
        push(d, byte);
        --d->block_left;
        return FRAME_PENDING;
    }
    if (d->zero_due) {
        push(d, 0);
    }
    d->block_left = (uint8_t)(byte - 1u);
    d->zero_due = byte != 0xFFu;
    return FRAME_PENDING;
}

void frame_send(uint8_t *body, uint8_t op, uint16_t seq, uint32_t payload_bytes,
                void (*write)(const uint8_t *data, size_t count)) {
    body[0] = op;
    body[1] = (uint8_t)seq;
    body[2] = (uint8_t)(seq >> 8);
    uint32_t length = FRAME_HEADER_BYTES + payload_bytes;
    const uint32_t crc = frame_crc32(0, body, length);
    for (uint32_t shift = 0; shift < 32u; shift += 8u) {
        body[length++] = (uint8_t)(crc >> shift);
    }
    static const uint8_t delimiter = 0;
    write(&delimiter, 1);
    uint32_t start = 0;
    for (;;) {
        uint32_t end = start;
        while (end < length && end - start < 254u && body[end] != 0u) {
            ++end;
        }
        const uint8_t code = (uint8_t)(end - start + 1u);
        write(&code, 1);
        write(body + start, end - start);
        if (end == length) {
            break;
        }
        /* a full block stands before no zero; any other swallows the one it stopped at */
        start = code == 0xFFu ? end : end + 1u;
    }
    write(&delimiter, 1);
}

int varint_read(const uint8_t *payload, uint32_t payload_bytes, uint32_t *values, uint32_t fields) {
    uint32_t at = 0;
    for (uint32_t i = 0; i < fields; ++i) {
        uint64_t value = 0;
        uint32_t shift = 0;
        uint8_t byte;
        do {
            if (at == payload_bytes || shift > 28u) {
                return 0;
            }
            byte = payload[at++];
            value |= (uint64_t)(byte & 0x7Fu) << shift;
            shift += 7u;
        } while (byte & 0x80u);
        if (value > UINT32_MAX) {
            return 0;
        }
        values[i] = (uint32_t)value;
    }
    return at == payload_bytes;
}

uint8_t *varint_write(uint8_t *to, uint64_t value) {
    for (; value > 0x7Fu; value >>= 7) {
        *to++ = (uint8_t)(value | 0x80u);
    }
    *to++ = (uint8_t)value;
    return to;
}
