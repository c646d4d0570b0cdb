/* The firmware as a process under Linux, on this machine or another. Bytes come and go through the file
 * descriptor in EDGENAS_WIRE_FD, or through standard input and output. Time is the system's, not the core's
 * cycles. */
#define _POSIX_C_SOURCE 200809L

#include "port.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "board.h"

static int in_fd = STDIN_FILENO, out_fd = STDOUT_FILENO;
static uint64_t started;

/* set by the linker and the C library for every program */
extern char __executable_start, data_start, edata, end;

void port_init(void) {
    const char *number = getenv("EDGENAS_WIRE_FD");
    if (number != NULL) {
        in_fd = out_fd = atoi(number);
    }
}

uint8_t port_uart_read(void) {
    static uint8_t buffer[4096];
    static ssize_t held, next;
    if (next == held) {
        held = read(in_fd, buffer, sizeof buffer);
        next = 0;
        if (held <= 0) {
            exit(0); /* the other end is gone */
        }
    }
    return buffer[next++];
}

void port_uart_write(const uint8_t *data, size_t count) {
    while (count > 0u) {
        const ssize_t sent = write(out_fd, data, count);
        if (sent <= 0) {
            exit(0);
        }
        data += sent;
        count -= (size_t)sent;
    }
}

static uint64_t ticks_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * BOARD_COUNTER_HZ + (uint64_t)now.tv_nsec / (1000000000u / BOARD_COUNTER_HZ);
}

void port_counter_start(void) { started = ticks_now(); }
uint32_t port_counter_read(void) { return (uint32_t)(ticks_now() - started); }
void port_counter_stop(void) {}

/* Initialized and zeroed data together; the heap and the stack are the system's to grow. */
uint32_t port_static_bytes(void) { return (uint32_t)((uintptr_t)&end - (uintptr_t)&data_start); }

uint32_t port_flash_bytes(void) { return (uint32_t)((uintptr_t)&edata - (uintptr_t)&__executable_start); }
uint32_t port_stack_reserve(void) { return BOARD_STACK_BYTES; }
uint32_t port_stack_used(void) { return 0; }

const port_fault_t *port_fault(void) {
    static const port_fault_t none;
    return &none;
}

/* The same program again, in the same process and on the same descriptors. */
_Noreturn void port_reset(void) {
    char *arguments[] = {(char *)"firmware", NULL};
    (void)execv("/proc/self/exe", arguments);
    exit(1);
}
