/* QEMU's RISC-V machine `virt` (QEMU docs/system/riscv/virt; memory map: hw/riscv/virt.c). */
#include "arch.h"
#include "board.h"
#include "chip.h"
#include "plic.h"
#include "riscv.h"

/* 16550 UART with FIFO (TI TL16C550C, "Register description") */
#define UART(offset) (*(volatile uint8_t *)(uintptr_t)(BOARD_UART_BASE + (offset)))
#define UART_DATA UART(0)
#define UART_IER UART(1)
#define UART_DIVISOR_LOW UART(0) /* while UART_LCR_DLAB is set */
#define UART_DIVISOR_HIGH UART(1)
#define UART_FCR UART(2)
#define UART_LCR UART(3)
#define UART_LSR UART(5)
#define UART_IER_RECEIVED 1u
#define UART_FCR_TRIGGER_14 0xC1u /* FIFO on; also tells after four silent characters */
#define UART_LCR_8N1 3u
#define UART_LCR_DLAB 0x80u
#define UART_LSR_DATA_READY 1u
#define UART_LSR_THR_EMPTY 0x20u

#define TEST_RESET 0x7777u /* SiFive test device: QEMU hw/misc/sifive_test.c */

void chip_early_init(void) {}

void chip_init(void) {
    const uint32_t divisor = BOARD_UART_CLOCK_HZ / (16u * BOARD_UART_BAUD);
    UART_LCR = UART_LCR_DLAB;
    UART_DIVISOR_LOW = (uint8_t)divisor;
    UART_DIVISOR_HIGH = (uint8_t)(divisor >> 8);
    UART_LCR = UART_LCR_8N1;
    UART_FCR = UART_FCR_TRIGGER_14;
    UART_IER = UART_IER_RECEIVED;
    plic_wake_on(BOARD_UART_IRQ);
}

int chip_uart_readable(void) { return (UART_LSR & UART_LSR_DATA_READY) != 0u; }

uint8_t chip_uart_get(void) { return UART_DATA; }

void chip_uart_wait(void) {
    plic_clear_pending();
    if (!chip_uart_readable()) {
        arch_wait();
    }
}

void chip_uart_put(uint8_t byte) {
    while (!(UART_LSR & UART_LSR_THR_EMPTY)) {
    }
    UART_DATA = byte;
}

_Noreturn void chip_reset(void) {
    for (;;) {
        REGISTER(BOARD_TEST_BASE) = TEST_RESET;
    }
}
