/* Clock tree of the STM32F4 and F7, whose RCC and PWR agree in all that is used here
 * (RM0390, RM0090, RM0410: chapters PWR and RCC). */
#ifndef EDGENAS_STM32_F4_CLOCK_H
#define EDGENAS_STM32_F4_CLOCK_H

#include "stm32.h"

#define RCC_CR REGISTER(STM32_RCC_BASE + 0x00u)
#define RCC_PLLCFGR REGISTER(STM32_RCC_BASE + 0x04u)
#define RCC_CFGR REGISTER(STM32_RCC_BASE + 0x08u)
#define RCC_APB1ENR (STM32_RCC_BASE + 0x40u)
#define RCC_APB1ENR_PWR 28u
#define RCC_CR_HSION (1u << 0)
#define RCC_CR_HSIRDY (1u << 1)
#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
#define RCC_CR_HSEBYP (1u << 18)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_PLLCFGR_HSE (1u << 22)
#define RCC_PLLCFGR_USED 0x0F437FFFu /* M, N, P, source, Q; the rest keeps its reset value */
#define RCC_CFGR_SW 3u
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_SWS (3u << 2)
#define RCC_CFGR_SWS_PLL (2u << 2)
#define RCC_CFGR_PRESCALERS (7u << 13 | 7u << 10 | 15u << 4)

#define PWR_CR REGISTER(0x40007000u)
#define PWR_CSR REGISTER(0x40007004u)
#define PWR_CR_SCALE_1 (3u << 14)
#define PWR_CSR_VOSRDY (1u << 14)
#define PWR_OVERDRIVE (1u << 16)        /* ODEN and ODRDY */
#define PWR_OVERDRIVE_SWITCH (1u << 17) /* ODSWEN and ODSWRDY */

#define FLASH_ACR REGISTER(0x40023C00u)

/* A ROM bootloader may have left the PLL running. */
static inline void stm32_f4_back_to_reset_clock(void) {
    RCC_CR |= RCC_CR_HSION;
    stm32_wait_for(&RCC_CR, RCC_CR_HSIRDY, RCC_CR_HSIRDY);
    stm32_modify(&RCC_CFGR, RCC_CFGR_SW, 0u);
    stm32_wait_for(&RCC_CFGR, RCC_CFGR_SWS, 0u);
    RCC_CR &= ~(RCC_CR_PLLON | RCC_CR_HSEON);
    stm32_wait_for(&RCC_CR, RCC_CR_PLLRDY | RCC_CR_HSERDY, 0u);
}

/* HSE -> PLL -> BOARD_CLOCK_HZ; `accelerator`: the family's prefetch and cache bits of FLASH_ACR. */
static inline void stm32_f4_clock_start(uint32_t accelerator) {
    stm32_f4_back_to_reset_clock();
    stm32_clock_on(RCC_APB1ENR, RCC_APB1ENR_PWR);
    PWR_CR |= PWR_CR_SCALE_1;
    if (BOARD_HSE_BYPASS) {
        RCC_CR |= RCC_CR_HSEBYP;
    }
    RCC_CR |= RCC_CR_HSEON;
    stm32_wait_for(&RCC_CR, RCC_CR_HSERDY, RCC_CR_HSERDY);
    stm32_modify(&RCC_PLLCFGR, RCC_PLLCFGR_USED,
                 BOARD_PLL_Q << 24 | RCC_PLLCFGR_HSE | (BOARD_PLL_P / 2u - 1u) << 16 | BOARD_PLL_N << 6 |
                     BOARD_PLL_M);
    RCC_CR |= RCC_CR_PLLON;
    stm32_wait_for(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY);
    stm32_wait_for(&PWR_CSR, PWR_CSR_VOSRDY, PWR_CSR_VOSRDY);
    if (BOARD_OVERDRIVE) {
        PWR_CR |= PWR_OVERDRIVE;
        stm32_wait_for(&PWR_CSR, PWR_OVERDRIVE, PWR_OVERDRIVE);
        PWR_CR |= PWR_OVERDRIVE_SWITCH;
        stm32_wait_for(&PWR_CSR, PWR_OVERDRIVE_SWITCH, PWR_OVERDRIVE_SWITCH);
    }
    FLASH_ACR = BOARD_FLASH_LATENCY | accelerator;
    stm32_wait_for(&FLASH_ACR, 15u, BOARD_FLASH_LATENCY);
    stm32_modify(&RCC_CFGR, RCC_CFGR_PRESCALERS,
                 STM32_APB_DIVIDE(BOARD_APB2_DIVIDER) << 13 | STM32_APB_DIVIDE(BOARD_APB1_DIVIDER) << 10);
    stm32_modify(&RCC_CFGR, RCC_CFGR_SW, RCC_CFGR_SW_PLL);
    stm32_wait_for(&RCC_CFGR, RCC_CFGR_SWS, RCC_CFGR_SWS_PLL);
}

#endif
