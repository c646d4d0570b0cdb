/* SiFive FE310-G002 (FE310-G002 manual: chapters "Power, Reset, Clock, Interrupt (PRCI)", "Watchdog Timer",
 * "GPIO", "UART" and "SPI"). The clock comes from the board's crystal through the PLL. */
#include "arch.h"
#include "board.h"
#include "chip.h"
#include "plic.h"
#include "riscv.h"

#define PRCI_HFROSCCFG REGISTER(0x10008000u)
#define PRCI_HFXOSCCFG REGISTER(0x10008004u)
#define PRCI_PLLCFG REGISTER(0x10008008u)
#define PRCI_PLLOUTDIV REGISTER(0x1000800Cu)
#define OSCILLATOR_ENABLE (1u << 30)
#define OSCILLATOR_READY (1u << 31)
#define PLL_SELECT (1u << 16) /* hfclk comes from the PLL, else from the ring oscillator */
#define PLL_FROM_CRYSTAL (1u << 17)
#define PLL_BYPASS (1u << 18)
#define PLL_LOCKED (1u << 31)
#define PLL_OUT_UNDIVIDED (1u << 8)

/* SPI 0, through which the core runs from flash */
#define SPI0_SCKDIV REGISTER(0x10014000u)

#define GPIO_IOF_EN REGISTER(0x10012038u)
#define GPIO_IOF_SEL REGISTER(0x1001203Cu)

#define UART_TXDATA REGISTER(BOARD_UART_BASE + 0x00u)
#define UART_RXDATA REGISTER(BOARD_UART_BASE + 0x04u)
#define UART_TXCTRL REGISTER(BOARD_UART_BASE + 0x08u)
#define UART_RXCTRL REGISTER(BOARD_UART_BASE + 0x0Cu)
#define UART_IE REGISTER(BOARD_UART_BASE + 0x10u)
#define UART_IP REGISTER(BOARD_UART_BASE + 0x14u)
#define UART_DIV REGISTER(BOARD_UART_BASE + 0x18u)
#define UART_ENABLE 1u       /* one stop bit; in rxctrl the watermark is 0: one byte is enough */
#define UART_RECEIVED 2u     /* rxwm */
#define UART_FULL (1u << 31) /* of txdata */

#define WDOG_CFG REGISTER(0x10000000u)
#define WDOG_COUNT REGISTER(0x10000008u)
#define WDOG_KEY REGISTER(0x1000001Cu)
#define WDOG_CMP REGISTER(0x10000020u)
#define WDOG_UNLOCK 0x51F15Eu /* for one write */
#define WDOG_RESETS (1u << 8)
#define WDOG_ALWAYS (1u << 12)
#define WDOG_TICKS 64u /* of 32 kHz: 2 ms, in which the UART sends what it still holds */

static void spend(uint32_t turns) {
    for (uint32_t turn = 0; turn < turns; ++turn) {
        __asm__ volatile("nop");
    }
}

static void watchdog_write(volatile uint32_t *address, uint32_t value) {
    WDOG_KEY = WDOG_UNLOCK;
    *address = value;
}

void chip_early_init(void) {}

/* Crystal -> PLL -> BOARD_CLOCK_HZ. The core runs from the ring oscillator while the PLL changes. */
static void start_clock(void) {
    PRCI_HFROSCCFG |= OSCILLATOR_ENABLE;
    while (!(PRCI_HFROSCCFG & OSCILLATOR_READY)) {
    }
    PRCI_PLLCFG &= ~PLL_SELECT;
    PRCI_HFXOSCCFG = OSCILLATOR_ENABLE;
    while (!(PRCI_HFXOSCCFG & OSCILLATOR_READY)) {
    }
    SPI0_SCKDIV = BOARD_FLASH_SCKDIV; /* before the clock rises */
    const uint32_t factors = (BOARD_PLL_R - 1u) | (BOARD_PLL_F / 2u - 1u) << 4 | BOARD_PLL_Q_LOG2 << 10;
    PRCI_PLLOUTDIV = PLL_OUT_UNDIVIDED;
    PRCI_PLLCFG = PLL_FROM_CRYSTAL | PLL_BYPASS | factors;
    PRCI_PLLCFG = PLL_FROM_CRYSTAL | factors;
    /* lock may flicker for 100 us (PRCI, "pllcfg"); the ring oscillator is below 72 MHz as of reset */
    spend(72u * 100u);
    while (!(PRCI_PLLCFG & PLL_LOCKED)) {
    }
    PRCI_PLLCFG |= PLL_SELECT;
    PRCI_HFROSCCFG &= ~OSCILLATOR_ENABLE;
}

static void start_uart(void) {
    GPIO_IOF_SEL &= ~(BOARD_UART_PINS);
    GPIO_IOF_EN |= BOARD_UART_PINS;
    UART_DIV = (BOARD_CLOCK_HZ + BOARD_UART_BAUD / 2u) / BOARD_UART_BAUD - 1u;
    UART_TXCTRL = UART_ENABLE;
    UART_RXCTRL = UART_ENABLE;
    UART_IE = UART_RECEIVED;
    plic_wake_on(BOARD_UART_IRQ);
}

void chip_init(void) {
    watchdog_write(&WDOG_CFG, 0); /* it may be what restarted the chip, and outlives that */
    start_clock();
    start_uart();
}

int chip_uart_readable(void) { return (UART_IP & UART_RECEIVED) != 0u; }

uint8_t chip_uart_get(void) { return (uint8_t)UART_RXDATA; }

void chip_uart_put(uint8_t byte) {
    while (UART_TXDATA & UART_FULL) {
    }
    UART_TXDATA = byte;
}

void chip_uart_wait(void) {
    plic_clear_pending();
    if (!chip_uart_readable()) {
        arch_wait();
    }
}

_Noreturn void chip_reset(void) {
    watchdog_write(&WDOG_CFG, 0);
    watchdog_write(&WDOG_COUNT, 0);
    watchdog_write(&WDOG_CMP, WDOG_TICKS);
    watchdog_write(&WDOG_CFG, WDOG_RESETS | WDOG_ALWAYS); /* scale 1 */
    for (;;) {
    }
}
