/* What the STM32 families share: pins, the polled UART, waiting for a flag. Each family's folder has a
 * stm32_family.h with its base addresses and the generation of its USART. */
#ifndef EDGENAS_STM32_H
#define EDGENAS_STM32_H

#include "board.h"
#include "cortexm.h"
#include "stm32_family.h"

/* Writes the bits of `mask` to `value`. */
static inline void stm32_modify(volatile uint32_t *address, uint32_t mask, uint32_t value) {
    *address = (*address & ~mask) | value;
}

static inline void stm32_wait_for(volatile uint32_t *address, uint32_t mask, uint32_t value) {
    while ((*address & mask) != value) {
    }
}

/* Turns a peripheral's clock on; the read lets it arrive (errata: delay after a clock is enabled). */
static inline void stm32_clock_on(uint32_t enable_register, uint32_t bit) {
    REGISTER(enable_register) |= 1u << bit;
    (void)REGISTER(enable_register);
}

/* Field of an APB prescaler: divide by 1, 2, 4, 8 or 16. */
#define STM32_APB_DIVIDE(by) ((by) == 1u ? 0u : (by) == 2u ? 4u : (by) == 4u ? 5u : (by) == 8u ? 6u : 7u)

/* Keeps the debug port alive while the core sleeps. */
static inline void stm32_debug_in_sleep(void) { REGISTER(STM32_DBGMCU_CR) |= 1u; }

/* Pins, baud rate and wake-up interrupt of the UART that the board file names; the clock tree is up. */
void stm32_uart_init(void);

#endif
