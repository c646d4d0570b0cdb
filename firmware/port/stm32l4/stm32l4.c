/* STM32L4 and L4+ (RM0432: chapters FLASH, PWR, RCC). The PLL runs from the internal 16 MHz oscillator, which
 * every board has. */
#include "chip.h"
#include "stm32.h"

#define RCC_CR REGISTER(STM32_RCC_BASE + 0x00u)
#define RCC_CFGR REGISTER(STM32_RCC_BASE + 0x08u)
#define RCC_PLLCFGR REGISTER(STM32_RCC_BASE + 0x0Cu)
#define RCC_APB1ENR1 (STM32_RCC_BASE + 0x58u)
#define RCC_APB1ENR1_PWR 28u
#define RCC_CR_HSION (1u << 8)
#define RCC_CR_HSIRDY (1u << 10)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_PLLCFGR_HSI16 2u
#define RCC_PLLCFGR_PLLREN (1u << 24)
#define RCC_CFGR_SW 3u
#define RCC_CFGR_SW_HSI16 1u
#define RCC_CFGR_SW_PLL 3u
#define RCC_CFGR_SWS (3u << 2)
#define RCC_CFGR_HPRE (15u << 4)
#define RCC_CFGR_HPRE_BY_2 (8u << 4)
#define RCC_CFGR_PPRE (7u << 11 | 7u << 8)

#define PWR_CR1 REGISTER(0x40007000u)
#define PWR_CR2 REGISTER(0x40007004u)
#define PWR_SR2 REGISTER(0x40007014u)
#define PWR_CR5 REGISTER(0x40007080u)
#define PWR_CR1_VOS (3u << 9)
#define PWR_CR1_VOS_RANGE_1 (1u << 9)
#define PWR_CR2_IOSV (1u << 9)
#define PWR_SR2_VOSF (1u << 10)
#define PWR_CR5_R1MODE (1u << 8) /* cleared: boost, for more than 80 MHz; there on the L4+ only */

#define FLASH_ACR REGISTER(0x40022000u)
#define ACR_PREFETCH (1u << 8)
#define ACR_INSTRUCTION_CACHE (1u << 9)
#define ACR_DATA_CACHE (1u << 10)

static void select_clock(uint32_t source) {
    stm32_modify(&RCC_CFGR, RCC_CFGR_SW, source);
    stm32_wait_for(&RCC_CFGR, RCC_CFGR_SWS, source << 2);
}

/* HSI16 -> PLL -> BOARD_CLOCK_HZ */
static void start_clock(void) {
    RCC_CR |= RCC_CR_HSION;
    stm32_wait_for(&RCC_CR, RCC_CR_HSIRDY, RCC_CR_HSIRDY);
    select_clock(RCC_CFGR_SW_HSI16); /* a ROM bootloader may have left the PLL running */
    RCC_CR &= ~RCC_CR_PLLON;
    stm32_wait_for(&RCC_CR, RCC_CR_PLLRDY, 0u);
    stm32_clock_on(RCC_APB1ENR1, RCC_APB1ENR1_PWR);
    stm32_modify(&PWR_CR1, PWR_CR1_VOS, PWR_CR1_VOS_RANGE_1);
    stm32_wait_for(&PWR_SR2, PWR_SR2_VOSF, 0u);
    if (BOARD_RANGE_1_BOOST) {
        PWR_CR5 &= ~PWR_CR5_R1MODE;
    }
    RCC_PLLCFGR = (BOARD_PLL_R / 2u - 1u) << 25 | RCC_PLLCFGR_PLLREN | BOARD_PLL_N << 8 |
                  (BOARD_PLL_M - 1u) << 4 | RCC_PLLCFGR_HSI16;
    RCC_CR |= RCC_CR_PLLON;
    stm32_wait_for(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY);
    FLASH_ACR = BOARD_FLASH_LATENCY | ACR_PREFETCH | ACR_INSTRUCTION_CACHE | ACR_DATA_CACHE;
    stm32_wait_for(&FLASH_ACR, 15u, BOARD_FLASH_LATENCY);
    /* above 80 MHz the step goes over half the clock, for at least 1 us (RM0432, "System clock (SYSCLK)
     * selection") */
    stm32_modify(&RCC_CFGR, RCC_CFGR_HPRE | RCC_CFGR_PPRE, RCC_CFGR_HPRE_BY_2);
    select_clock(RCC_CFGR_SW_PLL);
    for (uint32_t turn = 0; turn < BOARD_CLOCK_HZ / 1000000u; ++turn) {
        __asm__ volatile("nop");
    }
    stm32_modify(&RCC_CFGR, RCC_CFGR_HPRE, 0u);
}

void chip_early_init(void) {}

void chip_init(void) {
    start_clock();
    stm32_debug_in_sleep();
    if (BOARD_VDDIO2) { /* port G, pins 2 to 15, has a supply of its own (RM0432, PWR) */
        PWR_CR2 |= PWR_CR2_IOSV;
    }
    stm32_uart_init();
}
