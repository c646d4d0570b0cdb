/* Espressif ESP32-C3, started directly from flash by its ROM (ESP32-C3 technical reference manual, TRM:
 * chapters "ESP-RISC-V CPU", "Reset and Clock", "Watchdog Timers", "UART Controller", "Low-power
 * Management"). */
#include "board.h"
#include "chip.h"
#include "port.h"
#include "riscv.h"

/* The ROM maps flash and jumps behind these 8 bytes where it finds them at the start of flash. */
__attribute__((section(".boot"), used)) static const uint32_t direct_boot[2] = {BOARD_BOOT_MAGIC,
                                                                                BOARD_BOOT_MAGIC};

#define SYSTEM_CPU_PER_CONF REGISTER(0x600C0008u)
#define SYSTEM_SYSCLK_CONF REGISTER(0x600C0058u)
#define CPU_PERIOD 3u
#define CPU_PERIOD_160_MHZ 1u
#define CPU_PLL_480_MHZ (1u << 2)
#define SYSCLK_SOURCE (3u << 10)
#define SYSCLK_SOURCE_PLL (1u << 10)

#define RTC_OPTIONS0 REGISTER(0x60008000u)
#define RTC_WDT_CONFIG0 REGISTER(0x60008090u)
#define RTC_WDT_PROTECT REGISTER(0x600080A8u)
#define RTC_SWD_CONF REGISTER(0x600080ACu)
#define RTC_SWD_PROTECT REGISTER(0x600080B0u)
#define RTC_OPTIONS0_PLL_OFF (1u << 10 | 1u << 8 | 1u << 6) /* forced: PLL, its I2C, the I2C's base */
#define RTC_OPTIONS0_RESET (1u << 31)
#define RTC_SWD_AUTO_FEED (1u << 31)
#define RTC_WDT_KEY 0x50D83AA1u
#define RTC_SWD_KEY 0x8F1D312Au

#define TIMG_WDT_CONFIG0(group) REGISTER(0x6001F048u + 0x1000u * (group))
#define TIMG_WDT_PROTECT(group) REGISTER(0x6001F064u + 0x1000u * (group))
#define TIMG_WDT_KEY 0x50D83AA1u

#define UART_FIFO REGISTER(BOARD_UART_BASE + 0x00u)
#define UART_CLKDIV REGISTER(BOARD_UART_BASE + 0x14u)
#define UART_STATUS REGISTER(BOARD_UART_BASE + 0x1Cu)
#define UART_CONF0 REGISTER(BOARD_UART_BASE + 0x20u)
#define UART_FSM_STATUS REGISTER(BOARD_UART_BASE + 0x6Cu)
#define UART_CLK_CONF REGISTER(BOARD_UART_BASE + 0x78u)
#define UART_ID REGISTER(BOARD_UART_BASE + 0x80u)
#define UART_STATUS_RECEIVED 0x3FFu        /* bytes in the receive FIFO */
#define UART_STATUS_SENDING (0x3FFu << 16) /* bytes in the send FIFO */
#define UART_STATUS_FULL (127u << 16)      /* one less than it holds */
#define UART_FSM_SENDING (15u << 4)
#define UART_CONF0_8N1 (1u << 28 | 3u << 2 | 1u << 4) /* MEM_CLK_EN, 8 bits, 1 stop bit */
#define UART_CLK_CRYSTAL                                                                                     \
    (3u << 20 | 1u << 22 | 1u << 24 | 1u << 25) /* undivided; clocks of both directions */
#define UART_ID_UPDATE (1u << 31)               /* carries what was written into the UART's own clock */

/* Events of the performance counter (TRM, "ESP-RISC-V CPU", "mpcer") */
#define CSR_MPCER 0x7E0
#define CSR_MPCMR 0x7E1
#define CSR_MPCCR 0x7E2
#define MPCER_CYCLES 1u
#define MPCMR_ENABLE 1u

static void stop_watchdogs(void) {
    RTC_WDT_PROTECT = RTC_WDT_KEY;
    RTC_WDT_CONFIG0 = 0;
    RTC_WDT_PROTECT = 0;
    RTC_SWD_PROTECT = RTC_SWD_KEY;
    RTC_SWD_CONF |= RTC_SWD_AUTO_FEED;
    RTC_SWD_PROTECT = 0;
    for (uint32_t group = 0; group < 2u; ++group) {
        TIMG_WDT_PROTECT(group) = TIMG_WDT_KEY;
        TIMG_WDT_CONFIG0(group) = 0;
        TIMG_WDT_PROTECT(group) = 0;
    }
}

void chip_early_init(void) { stop_watchdogs(); } /* the ROM leaves them running */

/* The ROM leaves the core at half the crystal's 40 MHz, and the 480 MHz PLL running for USB. */
static void start_clock(void) {
    RTC_OPTIONS0 &= ~RTC_OPTIONS0_PLL_OFF;
    SYSTEM_CPU_PER_CONF = (SYSTEM_CPU_PER_CONF & ~CPU_PERIOD) | CPU_PERIOD_160_MHZ | CPU_PLL_480_MHZ;
    SYSTEM_SYSCLK_CONF = (SYSTEM_SYSCLK_CONF & ~SYSCLK_SOURCE) | SYSCLK_SOURCE_PLL;
}

static void update_uart(void) {
    UART_ID |= UART_ID_UPDATE;
    while (UART_ID & UART_ID_UPDATE) {
    }
}

/* Its pins and its clock are on: the ROM reports on it. */
static void start_uart(void) {
    const uint32_t sixteenths = (BOARD_CRYSTAL_HZ * 16u + BOARD_UART_BAUD / 2u) / BOARD_UART_BAUD;
    while (UART_STATUS & UART_STATUS_SENDING || UART_FSM_STATUS & UART_FSM_SENDING) {
    }
    UART_CLK_CONF = UART_CLK_CRYSTAL;
    UART_CLKDIV = sixteenths >> 4 | (sixteenths & 15u) << 20;
    UART_CONF0 = UART_CONF0_8N1;
    update_uart();
}

static void start_counter(void) {
    CSR_WRITE(CSR_MPCER, MPCER_CYCLES);
    CSR_WRITE(CSR_MPCMR, MPCMR_ENABLE);
}

void chip_init(void) {
    start_clock();
    start_uart();
    start_counter();
}

int chip_uart_readable(void) { return (UART_STATUS & UART_STATUS_RECEIVED) != 0u; }

uint8_t chip_uart_get(void) { return (uint8_t)UART_FIFO; }

void chip_uart_put(uint8_t byte) {
    while ((UART_STATUS & UART_STATUS_SENDING) >= UART_STATUS_FULL) {
    }
    UART_FIFO = byte;
}

void chip_uart_wait(void) {}

static uint32_t started;

void port_counter_start(void) { started = CSR_READ(CSR_MPCCR); }
uint32_t port_counter_read(void) { return CSR_READ(CSR_MPCCR) - started; }
void port_counter_stop(void) {}

_Noreturn void chip_reset(void) {
    while (UART_STATUS & UART_STATUS_SENDING || UART_FSM_STATUS & UART_FSM_SENDING) {
    }
    for (;;) {
        RTC_OPTIONS0 |= RTC_OPTIONS0_RESET;
    }
}
