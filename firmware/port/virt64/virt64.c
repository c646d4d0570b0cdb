/* QEMU's Arm machine `virt` with an AArch64 core (QEMU docs/system/arm/virt, hw/arm/virt.c memory map). */
#include "arch.h"
#include "board.h"
#include "chip.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* PL011 UART (Arm DDI0183) */
#define UART_DR REGISTER(BOARD_UART_BASE + 0x00u)
#define UART_FR REGISTER(BOARD_UART_BASE + 0x18u)
#define UART_LCRH REGISTER(BOARD_UART_BASE + 0x2Cu)
#define UART_CR REGISTER(BOARD_UART_BASE + 0x30u)
#define UART_IFLS REGISTER(BOARD_UART_BASE + 0x34u)
#define UART_IMSC REGISTER(BOARD_UART_BASE + 0x38u)
#define UART_FR_RX_EMPTY (1u << 4)
#define UART_FR_TX_FULL (1u << 5)
#define UART_INT_RX (1u << 4)

/* GICv2 (Arm IHI0048): distributor and processor interface */
#define GICD_CTLR REGISTER(BOARD_GICD_BASE)
#define GICD_ISENABLER(irq) REGISTER(BOARD_GICD_BASE + 0x100u + 4u * ((irq) / 32u))
#define GICD_ITARGETSR(irq) (*(volatile uint8_t *)(uintptr_t)(BOARD_GICD_BASE + 0x800u + (irq)))
#define GICC_CTLR REGISTER(BOARD_GICC_BASE)
#define GICC_PMR REGISTER(BOARD_GICC_BASE + 4u)

_Noreturn void chip_reset(void);
_Noreturn void Reset_Handler(void);

void chip_early_init(void) {}

void chip_init(void) {
    UART_CR = 0;
    UART_LCRH = 3u << 5; /* 8 bits, no FIFO: an interrupt for each byte; QEMU has no line rate */
    UART_IMSC = UART_INT_RX;
    UART_CR = 1u << 9 | 1u << 8 | 1u;
    GICD_ITARGETSR(BOARD_UART_IRQ) = 1u;
    GICD_ISENABLER(BOARD_UART_IRQ) = 1u << (BOARD_UART_IRQ % 32u);
    GICD_CTLR = 1u;
    GICC_PMR = 0xFFu;
    GICC_CTLR = 1u; /* signals the core, which masks it: pending it ends a WFI */
}

int chip_uart_readable(void) { return !(UART_FR & UART_FR_RX_EMPTY); }

uint8_t chip_uart_get(void) { return (uint8_t)UART_DR; }

void chip_uart_wait(void) { arch_wait(); /* the UART's interrupt is a level: a byte that is there wakes */ }

void chip_uart_put(uint8_t byte) {
    while (UART_FR & UART_FR_TX_FULL) {
    }
    UART_DR = byte;
}

/* The machine's own reset would start at address 0, where nothing is: the program starts itself again. */
_Noreturn void chip_reset(void) { Reset_Handler(); }
