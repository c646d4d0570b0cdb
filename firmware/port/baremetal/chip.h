/* What a chip family implements for the bare-metal port; one folder beside this one for each. */
#ifndef EDGENAS_CHIP_H
#define EDGENAS_CHIP_H

#include <stdint.h>

/* First thing after a reset, before .data and .bss exist; usually empty. */
void chip_early_init(void);

/* Clock tree to BOARD_CLOCK_HZ, flash wait states, caches on, UART at BOARD_UART_BAUD, 8 bits, no parity. */
void chip_init(void);

/* Whether a received byte is waiting, and that byte. */
int chip_uart_readable(void);
uint8_t chip_uart_get(void);

/* Sends a byte; waits for room. */
void chip_uart_put(uint8_t byte);

/* May sleep until a byte is there, may return early. Interrupts are masked and never taken: a pending one
 * that is enabled only ends the sleep (arch_wait). */
void chip_uart_wait(void);

#endif
