/* The port of every board without an operating system, over chip.h and arch.h. */
#include "arch.h"
#include "chip.h"
#include "port.h"

volatile fault_record_t fault_record __attribute__((section(".noinit")));

static fault_record_t last_fault; /* as found at the start */

extern uint32_t __stack_limit[], __stack_top[];
extern uint8_t __static_start[], __static_end[], __flash_start[], __flash_end[];

void port_init(void) {
    if (fault_record.magic == FAULT_MAGIC) {
        last_fault = fault_record;
    }
    fault_record.magic = 0;
    chip_init();
    arch_init();
}

uint8_t port_uart_read(void) {
    while (!chip_uart_readable()) {
        chip_uart_wait();
    }
    return chip_uart_get();
}

void port_uart_write(const uint8_t *data, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        chip_uart_put(data[i]);
    }
}

uint32_t port_static_bytes(void) { return (uint32_t)(__static_end - __static_start); }

uint32_t port_stack_reserve(void) { return (uint32_t)((uintptr_t)__stack_top - (uintptr_t)__stack_limit); }

uint32_t port_stack_used(void) {
    const uint32_t *word = __stack_limit;
    while (word < __stack_top && *word == STACK_PAINT) {
        ++word;
    }
    return (uint32_t)((uintptr_t)__stack_top - (uintptr_t)word);
}

uint32_t port_flash_bytes(void) { return (uint32_t)(__flash_end - __flash_start); }

const port_fault_t *port_fault(void) {
    static port_fault_t fault;
    if (last_fault.magic == FAULT_MAGIC) {
        fault = (port_fault_t){last_fault.pc,     last_fault.lr,      last_fault.sp,
                               last_fault.status, last_fault.status2, last_fault.address};
    }
    return &fault;
}

_Noreturn void port_reset(void) { arch_reset(); }
