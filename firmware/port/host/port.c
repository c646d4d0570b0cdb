/* The firmware as a process on the host: the UART is the file descriptor in EDGENAS_WIRE_FD, or standard
 * input. There is no time base: every duration is 0. */
#include "port.h"

#include <stdlib.h>
#include <unistd.h>

static int wire_fd = -1;

void port_init(void) {
    const char *number = getenv("EDGENAS_WIRE_FD");
    wire_fd = number != NULL ? atoi(number) : 0;
}

uint8_t port_uart_read(void) {
    static uint8_t buffer[4096];
    static ssize_t held, next;
    if (next == held) {
        held = read(wire_fd, buffer, sizeof buffer);
        next = 0;
        if (held <= 0) {
            exit(0); /* the other end is gone */
        }
    }
    return buffer[next++];
}

void port_uart_write(const uint8_t *data, size_t count) {
    while (count > 0u) {
        const ssize_t sent = write(wire_fd, data, count);
        if (sent <= 0) {
            exit(0);
        }
        data += sent;
        count -= (size_t)sent;
    }
}

void port_counter_start(void) {}
uint32_t port_counter_read(void) { return 0; }
void port_counter_stop(void) {}
uint32_t port_static_bytes(void) { return 0; }
uint32_t port_stack_reserve(void) { return 1; }
uint32_t port_stack_used(void) { return 0; }
uint32_t port_flash_bytes(void) { return 0; }
const port_fault_t *port_fault(void) {
    static const port_fault_t none;
    return &none;
}
_Noreturn void port_reset(void) { exit(0); }
