/* QEMU's RISC-V machine `virt` (QEMU docs/system/riscv/virt, hw/riscv/virt.c memory map). */
#include "arch.h"
#include "board.h"
#include "chip.h"
#include "riscv.h"

/* 16550 UART (TI TL16C550C, 8) */
#define UART(offset) (*(volatile uint8_t *)(uintptr_t)(BOARD_UART_BASE + (offset)))
#define UART_DATA UART(0)
#define UART_IER UART(1)
#define UART_FCR UART(2)
#define UART_LCR UART(3)
#define UART_LSR UART(5)
#define UART_LSR_DATA_READY 1u
#define UART_LSR_THR_EMPTY 0x20u

/* Platform-level interrupt controller (RISC-V PLIC specification 1.0.0, 3) */
#define PLIC_PRIORITY(irq) REGISTER(BOARD_PLIC_BASE + 4u * (irq))
#define PLIC_ENABLE REGISTER(BOARD_PLIC_BASE + 0x2000u)
#define PLIC_THRESHOLD REGISTER(BOARD_PLIC_BASE + 0x200000u)
#define PLIC_CLAIM REGISTER(BOARD_PLIC_BASE + 0x200004u)
#define MIE_EXTERNAL (1u << 11)

void chip_early_init(void) {}

void chip_init(void) {
    UART_LCR = 3u; /* 8 bits, no parity; QEMU has no line rate */
    UART_FCR = 0xC1u;
    UART_IER = 1u; /* received data */
    PLIC_PRIORITY(BOARD_UART_IRQ) = 1u;
    PLIC_ENABLE = 1u << BOARD_UART_IRQ;
    PLIC_THRESHOLD = 0;
    CSR_WRITE(mie, MIE_EXTERNAL); /* pending it ends a WFI, though mstatus.MIE masks it */
}

int chip_uart_readable(void) { return (UART_LSR & UART_LSR_DATA_READY) != 0u; }

uint8_t chip_uart_get(void) { return UART_DATA; }

void chip_uart_wait(void) {
    PLIC_CLAIM = PLIC_CLAIM; /* claims and completes what is pending, so that the next sleep lasts */
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
        REGISTER(BOARD_TEST_BASE) = 0x7777u; /* SiFive test device: reset */
    }
}
