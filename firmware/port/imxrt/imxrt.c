/* i.MX RT1060 (IMXRT1060RM rev. 3): all FlexRAM as DTCM, 24 MHz crystal -> ARM PLL -> core, LPUART. */
#include "board.h"
#include "chip.h"
#include "cortexm7.h"

/* IOMUXC_GPR */
#define GPR14 REGISTER(0x400AC038u)
#define GPR16 REGISTER(0x400AC040u)
#define GPR17 REGISTER(0x400AC044u)
#define GPR14_TCM_SIZES (15u << 20 | 15u << 16)
#define GPR14_DTCM_512K (10u << 20) /* and no ITCM */
#define GPR16_ITCM_ENABLE 1u
#define GPR16_DTCM_ENABLE 2u
#define GPR16_BANKS_FROM_GPR17 4u
#define GPR17_ALL_DTCM 0xAAAAAAAAu /* two bits for each of 16 banks of 32 kB; 2: DTCM */

/* CCM */
#define CCM(offset) REGISTER(0x400FC000u + (offset))
#define CCM_CACRR CCM(0x10u)
#define CCM_CBCDR CCM(0x14u)
#define CCM_CBCMR CCM(0x18u)
#define CCM_CSCDR1 CCM(0x24u)
#define CCM_CDHIPR CCM(0x48u)
#define CCM_CCGR3 CCM(0x74u)
#define CCM_CCGR6 CCM(0x80u)
#define CBCDR_PERIPH_CLK2_PODF (7u << 27)
#define CBCDR_PERIPH_CLK_SEL (1u << 25) /* set: from PERIPH_CLK2 */
#define CBCDR_AHB_PODF (7u << 10)
#define CBCDR_IPG_PODF (3u << 8)
#define CBCMR_PRE_PERIPH_CLK_SEL (3u << 18) /* 3: the ARM PLL, divided */
#define CBCMR_PERIPH_CLK2_SEL (3u << 12)
#define CBCMR_PERIPH_CLK2_OSC (1u << 12)
#define CSCDR1_UART_CLK (1u << 6 | 63u)
#define CSCDR1_UART_OSC (1u << 6)
#define CCGR_ON 3u

/* CCM_ANALOG, PMU */
#define PLL_ARM REGISTER(0x400D8000u)
#define PLL_ARM_LOCK (1u << 31)
#define PLL_ARM_ENABLE (1u << 13)
#define PLL_ARM_POWERDOWN (1u << 12)
#define MISC0_SET REGISTER(0x400D8154u)
#define MISC0_REFTOP_SELFBIASOFF (1u << 3)

/* DCDC */
#define DCDC_REG0 REGISTER(0x40080000u)
#define DCDC_REG3 REGISTER(0x4008000Cu)
#define DCDC_REG0_OK (1u << 31)
#define DCDC_REG3_TARGET 31u /* 0.8 V and 25 mV a step */

/* LPUART */
#define LPUART_BAUD REGISTER(BOARD_UART_BASE + 0x10u)
#define LPUART_STAT REGISTER(BOARD_UART_BASE + 0x14u)
#define LPUART_CTRL REGISTER(BOARD_UART_BASE + 0x18u)
#define LPUART_DATA REGISTER(BOARD_UART_BASE + 0x1Cu)
#define LPUART_FIFO REGISTER(BOARD_UART_BASE + 0x28u)
#define STAT_TDRE (1u << 23)
#define STAT_TC (1u << 22)
#define STAT_RDRF (1u << 21)
#define STAT_OVERRUN (1u << 19)
#define CTRL_TE (1u << 19)
#define CTRL_RE (1u << 18)
#define FIFO_ON (1u << 7 | 1u << 3)
#define FIFO_FLUSH (1u << 15 | 1u << 14)

#define OVERSAMPLING 16u
#define UART_SBR ((BOARD_UART_HZ + OVERSAMPLING * BOARD_UART_BAUD / 2u) / (OVERSAMPLING * BOARD_UART_BAUD))

#define PAD_MUX(offset) REGISTER(0x401F8000u + (offset))
#define PAD_PULLUP_22K (1u << 16 | 3u << 14 | 1u << 13 | 1u << 12) /* with hysteresis */

static void modify(volatile uint32_t *address, uint32_t mask, uint32_t value) {
    *address = (*address & ~mask) | value;
}

static void wait_for_handshake(void) {
    while (CCM_CDHIPR != 0u) {
    }
}

/* Runs before anything lies in RAM, and touches no stack: the banks that hold it change their place. */
void chip_early_init(void) {
    GPR17 = GPR17_ALL_DTCM;
    modify(&GPR14, GPR14_TCM_SIZES, GPR14_DTCM_512K);
    modify(&GPR16, GPR16_ITCM_ENABLE, GPR16_BANKS_FROM_GPR17 | GPR16_DTCM_ENABLE);
    __asm__ volatile("dsb\n isb" ::: "memory");
}

static void raise_voltage(void) {
    CCM_CCGR6 |= CCGR_ON << 6;
    modify(&DCDC_REG3, DCDC_REG3_TARGET, (BOARD_CORE_MILLIVOLTS - 800u) / 25u);
    while ((DCDC_REG0 & DCDC_REG0_OK) == 0u) {
    }
}

/* The core waits on the crystal while its PLL changes (IMXRT1060RM, CCM_CBCDR). The flash keeps the clock
 * that the ROM gave it. */
static void start_clock(void) {
    MISC0_SET = MISC0_REFTOP_SELFBIASOFF;
    modify(&CCM_CBCMR, CBCMR_PERIPH_CLK2_SEL, CBCMR_PERIPH_CLK2_OSC);
    wait_for_handshake();
    modify(&CCM_CBCDR, CBCDR_PERIPH_CLK2_PODF, 0u);
    modify(&CCM_CBCDR, CBCDR_PERIPH_CLK_SEL, CBCDR_PERIPH_CLK_SEL);
    wait_for_handshake();
    PLL_ARM = PLL_ARM_POWERDOWN;
    PLL_ARM = PLL_ARM_ENABLE | BOARD_PLL_DIV_SELECT;
    while ((PLL_ARM & PLL_ARM_LOCK) == 0u) {
    }
    CCM_CACRR = BOARD_ARM_DIVIDER - 1u;
    wait_for_handshake();
    modify(&CCM_CBCDR, CBCDR_AHB_PODF | CBCDR_IPG_PODF, (BOARD_IPG_DIVIDER - 1u) << 8);
    wait_for_handshake();
    modify(&CCM_CBCMR, CBCMR_PRE_PERIPH_CLK_SEL, CBCMR_PRE_PERIPH_CLK_SEL);
    modify(&CCM_CBCDR, CBCDR_PERIPH_CLK_SEL, 0u);
    wait_for_handshake();
}

static void start_uart(void) {
    modify(&CCM_CSCDR1, CSCDR1_UART_CLK, CSCDR1_UART_OSC);
    CCM_CCGR3 |= CCGR_ON << BOARD_UART_CCGR3_SHIFT;
    PAD_MUX(BOARD_UART_TX_MUX) = BOARD_UART_ALT;
    PAD_MUX(BOARD_UART_RX_MUX) = BOARD_UART_ALT;
    PAD_MUX(BOARD_UART_RX_PAD) = PAD_PULLUP_22K;
    PAD_MUX(BOARD_UART_RX_SELECT) = BOARD_UART_RX_DAISY;
    PAD_MUX(BOARD_UART_TX_SELECT) = BOARD_UART_TX_DAISY;
    LPUART_CTRL = 0;
    LPUART_BAUD = (OVERSAMPLING - 1u) << 24 | UART_SBR;
    LPUART_FIFO = FIFO_ON | FIFO_FLUSH;
    LPUART_CTRL = CTRL_TE | CTRL_RE;
}

void chip_init(void) {
    raise_voltage();
    start_clock();
    cortexm7_caches_on();
    start_uart();
}

int chip_uart_readable(void) {
    const uint32_t status = LPUART_STAT;
    if (status & STAT_OVERRUN) {
        LPUART_STAT = STAT_OVERRUN; /* else nothing more arrives; the frame's CRC tells what was lost */
    }
    return (status & STAT_RDRF) != 0u;
}

uint8_t chip_uart_get(void) { return (uint8_t)LPUART_DATA; }

/* Until the byte has left: a restart, which stops the LPUART, may come next. */
void chip_uart_put(uint8_t byte) {
    while ((LPUART_STAT & STAT_TDRE) == 0u) {
    }
    LPUART_DATA = byte; /* clears TC */
    while ((LPUART_STAT & STAT_TC) == 0u) {
    }
}

/* No sleep: after a reset, WFI would stop the clocks (CLPCR, erratum ERR007265). */
void chip_uart_wait(void) {}
