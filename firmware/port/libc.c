/* The four functions that the compiler itself may call; with them no C library is linked. Compiled with
 * -fno-tree-loop-distribute-patterns, else the loops would become calls of themselves. */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t count);
void *memmove(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);
int memcmp(const void *a, const void *b, size_t count);

static void copy_forward(uint8_t *to, const uint8_t *from, size_t count) {
    if ((((uintptr_t)to | (uintptr_t)from) & 3u) == 0u) {
        uint32_t *to32 = (uint32_t *)(void *)to;
        const uint32_t *from32 = (const uint32_t *)(const void *)from;
        for (; count >= 4u; count -= 4u) {
            *to32++ = *from32++;
        }
        to = (uint8_t *)to32;
        from = (const uint8_t *)from32;
    }
    for (; count > 0u; --count) {
        *to++ = *from++;
    }
}

void *memcpy(void *restrict to, const void *restrict from, size_t count) {
    copy_forward(to, from, count);
    return to;
}

void *memmove(void *to, const void *from, size_t count) {
    if ((uintptr_t)to - (uintptr_t)from >= count) {
        copy_forward(to, from, count);
    } else {
        uint8_t *end = (uint8_t *)to + count;
        const uint8_t *source = (const uint8_t *)from + count;
        for (; count > 0u; --count) {
            *--end = *--source;
        }
    }
    return to;
}

void *memset(void *to, int value, size_t count) {
    uint8_t *byte = to;
    for (; count > 0u && ((uintptr_t)byte & 3u) != 0u; --count) {
        *byte++ = (uint8_t)value;
    }
    const uint32_t word = (uint8_t)value * 0x01010101u;
    uint32_t *words = (uint32_t *)(void *)byte;
    for (; count >= 4u; count -= 4u) {
        *words++ = word;
    }
    byte = (uint8_t *)words;
    for (; count > 0u; --count) {
        *byte++ = (uint8_t)value;
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t count) {
    const uint8_t *left = a, *right = b;
    for (; count > 0u; --count, ++left, ++right) {
        if (*left != *right) {
            return *left < *right ? -1 : 1;
        }
    }
    return 0;
}
