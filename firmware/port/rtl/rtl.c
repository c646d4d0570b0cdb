/* The simulated RISC-V cores' only device (firmware/emulator/rtl/harness.cpp): a UART whose other end is the
 * host, and a restart. Time stands still while the firmware waits for a byte. */
#include "board.h"
#include "chip.h"
#include "riscv.h"

#define UART_DATA REGISTER(BOARD_UART_BASE + 0x0u)   /* read: take a byte, write: send one */
#define UART_STATUS REGISTER(BOARD_UART_BASE + 0x4u) /* 1 when a byte is waiting */
#define UART_WAIT REGISTER(BOARD_UART_BASE + 0x8u)   /* a read is answered when a byte is waiting */
#define RESET REGISTER(BOARD_UART_BASE + 0xCu)       /* any write restarts */

void chip_early_init(void) {}

void chip_init(void) {}

int chip_uart_readable(void) { return UART_STATUS != 0u; }

uint8_t chip_uart_get(void) { return (uint8_t)UART_DATA; }

void chip_uart_wait(void) { (void)UART_WAIT; }

void chip_uart_put(uint8_t byte) { UART_DATA = byte; }

_Noreturn void chip_reset(void) {
    for (;;) {
        RESET = 1u;
    }
}
