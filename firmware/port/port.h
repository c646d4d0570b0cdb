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

/* Ticks of the counter (BOARD_COUNTER_HZ) between start and read; valid up to 2^32 ticks. Interrupts are held
 * off in between, so that nothing but the measured code is counted. */
void port_counter_start(void);
uint32_t port_counter_read(void);
void port_counter_stop(void);

/* Linker-script figures, in bytes. */
uint32_t port_static_bytes(void);
uint32_t port_stack_reserve(void);
uint32_t port_stack_used(void);
uint32_t port_flash_bytes(void);

/* Fault that caused the last restart: program counter and status, or 0 and 0. */
uint32_t port_fault_pc(void);
uint32_t port_fault_status(void);

/* Restarts the device. */
_Noreturn void port_reset(void);

#endif
