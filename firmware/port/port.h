/* What a board offers to the firmware. One folder beside this file implements it per board family. */
#ifndef EDGENAS_PORT_H
#define EDGENAS_PORT_H

#include <stddef.h>
#include <stdint.h>

/* UART, counter and interrupts; called once, before anything else here. */
void port_init(void);

/* Next received byte; sleeps until there is one. */
uint8_t port_uart_read(void);

/* Sends `count` bytes; returns when the last is on its way. */
void port_uart_write(const uint8_t *data, size_t count);

/* Ticks of the counter (BOARD_COUNTER_HZ) between start and read; valid up to 2^32 ticks. Nothing but the
 * measured code runs in between. */
void port_counter_start(void);
uint32_t port_counter_read(void);
void port_counter_stop(void);

/* Linker-script figures, in bytes. */
uint32_t port_static_bytes(void);
uint32_t port_stack_reserve(void);
uint32_t port_stack_used(void);
uint32_t port_flash_bytes(void);

/* The fault that caused the last restart, all 0 where none did. Meaning of the last three: wire.h,
 * fault_reply. */
typedef struct {
    uint32_t pc, lr, sp, status, status2, address;
} port_fault_t;
const port_fault_t *port_fault(void);

/* Restarts the device. */
_Noreturn void port_reset(void);

#endif
