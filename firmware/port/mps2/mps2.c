/* UART and timer of the Arm MPS2. */
#include "mps2.h"

#include "arch.h"
#include "chip.h"
#include "port.h"

void chip_early_init(void) {}

void chip_init(void) {
    UART_BAUDDIV = BOARD_PERIPHERAL_HZ / BOARD_UART_BAUD;
    UART_CTRL = UART_CTRL_TX_ENABLE | UART_CTRL_RX_ENABLE | UART_CTRL_RX_INTERRUPT;
    cortexm_wake_on(BOARD_UART_IRQ);
    TIMER_CTRL = 0;
    TIMER_RELOAD = 0xFFFFFFFFu;
}

int chip_uart_readable(void) { return (UART_STATE & UART_STATE_RX_FULL) != 0u; }

uint8_t chip_uart_get(void) {
    const uint8_t byte = (uint8_t)UART_DATA;
    UART_INTSTATUS = UART_INT_RX;
    return byte;
}

void chip_uart_wait(void) {
    cortexm_clear_pending(BOARD_UART_IRQ);
    if (!chip_uart_readable()) { /* else it came before the line above, and would not wake */
        arch_wait();
    }
}

void chip_uart_put(uint8_t byte) {
    while (UART_STATE & UART_STATE_TX_FULL) {
    }
    UART_DATA = byte;
}

void port_counter_start(void) {
    TIMER_CTRL = 0;
    TIMER_VALUE = 0xFFFFFFFFu;
    TIMER_CTRL = 1u;
}

uint32_t port_counter_read(void) { return 0xFFFFFFFFu - TIMER_VALUE; }

void port_counter_stop(void) { TIMER_CTRL = 0; }
