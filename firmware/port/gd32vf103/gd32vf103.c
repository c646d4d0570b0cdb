/* GigaDevice GD32VF103 (GD32VF103 user manual: chapters RCU, FMC, GPIO, USART, FWDGT). The clock comes from
 * the board's crystal through the PLL. */
#include "board.h"
#include "chip.h"
#include "riscv.h"

#define RCU_CTL REGISTER(0x40021000u)
#define RCU_CFG0 REGISTER(0x40021004u)
#define RCU_APB2EN REGISTER(0x40021018u)
#define RCU_CFG1 REGISTER(0x4002102Cu)
#define RCU_CTL_IRC8MEN (1u << 0)
#define RCU_CTL_IRC8MSTB (1u << 1)
#define RCU_CTL_HXTALEN (1u << 16)
#define RCU_CTL_HXTALSTB (1u << 17)
#define RCU_CTL_PLLEN (1u << 24)
#define RCU_CTL_PLLSTB (1u << 25)
#define RCU_CFG0_SCS 3u
#define RCU_CFG0_SCS_PLL 2u
#define RCU_CFG0_SCSS (3u << 2)
#define RCU_CFG0_APB1_BY_2 (4u << 8) /* half the greatest clock is APB1's limit */
#define RCU_CFG0_PLL_FROM_PREDV0 (1u << 16)
#define RCU_CFG0_PLLMF(factor)                                                                               \
    ((((factor) - 1u) & 15u) << 18 | (((factor) - 1u) >> 4) << 29) /* codes of factors above 16 */
#define RCU_CFG1_PREDV0(divider) ((divider) - 1u)                  /* of the crystal: PREDV0SEL is 0 */
#define RCU_APB2EN_PORT_A (1u << 2)
#define RCU_APB2EN_USART0 (1u << 14)

#define FMC_WS REGISTER(0x40022000u)

#define GPIOA_CTL1 REGISTER(0x40010804u) /* pins 8 to 15, 4 bits each */
#define GPIOA_BOP REGISTER(0x40010810u)
#define GPIO_ALTERNATE_PUSH_PULL_50M 0xBu
#define GPIO_INPUT_PULLED 8u

#define USART_STAT REGISTER(BOARD_UART_BASE + 0x00u)
#define USART_DATA REGISTER(BOARD_UART_BASE + 0x04u)
#define USART_BAUD REGISTER(BOARD_UART_BASE + 0x08u)
#define USART_CTL0 REGISTER(BOARD_UART_BASE + 0x0Cu)
#define USART_STAT_RBNE (1u << 5)
#define USART_STAT_TC (1u << 6)
#define USART_STAT_TBE (1u << 7)
#define USART_CTL0_ON (1u << 13 | 1u << 3 | 1u << 2) /* UEN, TEN, REN */

#define FWDGT_CTL REGISTER(0x40003000u)
#define FWDGT_RLD REGISTER(0x40003008u)
#define FWDGT_STAT REGISTER(0x4000300Cu)
#define FWDGT_UNLOCK 0x5555u
#define FWDGT_RELOAD 0xAAAAu
#define FWDGT_START 0xCCCCu
#define FWDGT_TICKS 8u /* of 10 kHz */

static void wait_for(volatile uint32_t *address, uint32_t mask, uint32_t value) {
    while ((*address & mask) != value) {
    }
}

void chip_early_init(void) {}

/* Crystal -> divider -> PLL -> BOARD_CLOCK_HZ */
static void start_clock(void) {
    RCU_CTL |= RCU_CTL_IRC8MEN;
    wait_for(&RCU_CTL, RCU_CTL_IRC8MSTB, RCU_CTL_IRC8MSTB);
    RCU_CFG0 &= ~RCU_CFG0_SCS; /* the ROM bootloader may have left the PLL running */
    wait_for(&RCU_CFG0, RCU_CFG0_SCSS, 0u);
    RCU_CTL &= ~RCU_CTL_PLLEN;
    wait_for(&RCU_CTL, RCU_CTL_PLLSTB, 0u);
    RCU_CTL |= RCU_CTL_HXTALEN;
    wait_for(&RCU_CTL, RCU_CTL_HXTALSTB, RCU_CTL_HXTALSTB);
    RCU_CFG1 = RCU_CFG1_PREDV0(BOARD_PLL_DIVIDER);
    RCU_CFG0 = RCU_CFG0_APB1_BY_2 | RCU_CFG0_PLL_FROM_PREDV0 | RCU_CFG0_PLLMF(BOARD_PLL_FACTOR);
    RCU_CTL |= RCU_CTL_PLLEN;
    wait_for(&RCU_CTL, RCU_CTL_PLLSTB, RCU_CTL_PLLSTB);
    FMC_WS = BOARD_FLASH_WAIT_STATES;
    RCU_CFG0 |= RCU_CFG0_SCS_PLL;
    wait_for(&RCU_CFG0, RCU_CFG0_SCSS, RCU_CFG0_SCS_PLL << 2);
}

static void start_uart(void) {
    RCU_APB2EN |= RCU_APB2EN_PORT_A | RCU_APB2EN_USART0;
    GPIOA_BOP = 1u << 10; /* PA10, receive, is pulled up; PA9 sends */
    GPIOA_CTL1 = (GPIOA_CTL1 & ~0xFF0u) | GPIO_ALTERNATE_PUSH_PULL_50M << 4 | GPIO_INPUT_PULLED << 8;
    USART_BAUD = (BOARD_CLOCK_HZ + BOARD_UART_BAUD / 2u) / BOARD_UART_BAUD;
    USART_CTL0 = USART_CTL0_ON;
}

void chip_init(void) {
    start_clock();
    start_uart();
}

int chip_uart_readable(void) { return (USART_STAT & USART_STAT_RBNE) != 0u; }

uint8_t chip_uart_get(void) { return (uint8_t)USART_DATA; }

void chip_uart_put(uint8_t byte) {
    wait_for(&USART_STAT, USART_STAT_TBE, USART_STAT_TBE);
    USART_DATA = byte;
}

void chip_uart_wait(void) {}

/* The core has no reset of its own that is documented: the free watchdog, from its 40 kHz oscillator, does
 * it. */
_Noreturn void chip_reset(void) {
    if (USART_CTL0 & USART_CTL0_ON) {
        wait_for(&USART_STAT, USART_STAT_TC, USART_STAT_TC);
    }
    FWDGT_CTL = FWDGT_START; /* turns the oscillator on too, without which STAT never settles */
    FWDGT_CTL = FWDGT_UNLOCK;
    wait_for(&FWDGT_STAT, 2u, 0u); /* RUD */
    FWDGT_RLD = FWDGT_TICKS;
    wait_for(&FWDGT_STAT, 2u, 0u);
    FWDGT_CTL = FWDGT_RELOAD;
    for (;;) {
    }
}
