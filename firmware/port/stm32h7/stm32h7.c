/* STM32H742/743/753 (RM0433: chapters FLASH, PWR, RCC). */
#include "chip.h"
#include "cortexm7.h"
#include "stm32.h"

#define RCC_CR REGISTER(STM32_RCC_BASE + 0x00u)
#define RCC_CFGR REGISTER(STM32_RCC_BASE + 0x10u)
#define RCC_D1CFGR REGISTER(STM32_RCC_BASE + 0x18u)
#define RCC_D2CFGR REGISTER(STM32_RCC_BASE + 0x1Cu)
#define RCC_D3CFGR REGISTER(STM32_RCC_BASE + 0x20u)
#define RCC_PLLCKSELR REGISTER(STM32_RCC_BASE + 0x28u)
#define RCC_PLLCFGR REGISTER(STM32_RCC_BASE + 0x2Cu)
#define RCC_PLL1DIVR REGISTER(STM32_RCC_BASE + 0x30u)
#define RCC_APB4ENR (STM32_RCC_BASE + 0xF4u)
#define RCC_APB4ENR_SYSCFG 1u
#define RCC_CR_HSION (1u << 0)
#define RCC_CR_HSIRDY (1u << 2)
#define RCC_CR_HSEON (1u << 16)
#define RCC_CR_HSERDY (1u << 17)
#define RCC_CR_HSEBYP (1u << 18)
#define RCC_CR_PLL1ON (1u << 24)
#define RCC_CR_PLL1RDY (1u << 25)
#define RCC_PLLCKSELR_HSE 2u
#define RCC_PLLCFGR_PLL1 (1u << 16 | 15u) /* DIVP1EN; RGE, VCOSEL, FRACEN */
#define RCC_PLLCFGR_DIVP1EN (1u << 16)
#define RCC_CFGR_SW 7u
#define RCC_CFGR_SW_PLL1 3u
#define RCC_CFGR_SWS (7u << 3)
#define RCC_CFGR_SWS_PLL1 (3u << 3)
#define HPRE_BY_2 8u

#define PWR_CSR1 REGISTER(0x58024804u)
#define PWR_CR3 REGISTER(0x5802480Cu)
#define PWR_D3CR REGISTER(0x58024818u)
#define PWR_CSR1_ACTVOSRDY (1u << 13)
#define PWR_CR3_SUPPLY 7u /* SCUEN, LDOEN, BYPASS */
#define PWR_CR3_LDOEN 2u
#define PWR_D3CR_VOS (3u << 14)
#define PWR_D3CR_VOS1 (3u << 14)
#define PWR_D3CR_VOSRDY (1u << 13)
#define SYSCFG_PWRCR REGISTER(0x5800042Cu)
#define SYSCFG_PWRCR_ODEN 1u

#define FLASH_ACR REGISTER(0x52002000u)

/* Reference clock of the PLL: range 0 below 2 MHz, 1 to 4, 2 to 8, 3 to 16 (RM0433, RCC_PLLCFGR). */
#define PLL_IN_HZ (BOARD_HSE_HZ / BOARD_PLL_M)
#define PLL_RANGE (PLL_IN_HZ < 2000000u ? 0u : PLL_IN_HZ < 4000000u ? 1u : PLL_IN_HZ < 8000000u ? 2u : 3u)

/* A ROM bootloader may have left the PLL running. */
static void back_to_reset_clock(void) {
    RCC_CR |= RCC_CR_HSION;
    stm32_wait_for(&RCC_CR, RCC_CR_HSIRDY, RCC_CR_HSIRDY);
    stm32_modify(&RCC_CFGR, RCC_CFGR_SW, 0u);
    stm32_wait_for(&RCC_CFGR, RCC_CFGR_SWS, 0u);
    RCC_CR &= ~(RCC_CR_PLL1ON | RCC_CR_HSEON);
    stm32_wait_for(&RCC_CR, RCC_CR_PLL1RDY | RCC_CR_HSERDY, 0u);
}

/* The supply must be declared once before the voltage may change; VOS0 lies above VOS1 (RM0433, "Voltage
 * scaling"). */
static void raise_voltage(void) {
    stm32_modify(&PWR_CR3, PWR_CR3_SUPPLY, PWR_CR3_LDOEN);
    stm32_wait_for(&PWR_CSR1, PWR_CSR1_ACTVOSRDY, PWR_CSR1_ACTVOSRDY);
    stm32_modify(&PWR_D3CR, PWR_D3CR_VOS, PWR_D3CR_VOS1);
    stm32_wait_for(&PWR_D3CR, PWR_D3CR_VOSRDY, PWR_D3CR_VOSRDY);
    if (BOARD_VOS0) {
        stm32_clock_on(RCC_APB4ENR, RCC_APB4ENR_SYSCFG);
        SYSCFG_PWRCR |= SYSCFG_PWRCR_ODEN;
        stm32_wait_for(&PWR_D3CR, PWR_D3CR_VOSRDY, PWR_D3CR_VOSRDY);
    }
}

/* HSE -> PLL1 -> core at BOARD_CLOCK_HZ, buses at half of it, peripherals at a quarter */
static void start_clock(void) {
    if (BOARD_HSE_BYPASS) {
        RCC_CR |= RCC_CR_HSEBYP;
    }
    RCC_CR |= RCC_CR_HSEON;
    stm32_wait_for(&RCC_CR, RCC_CR_HSERDY, RCC_CR_HSERDY);
    stm32_modify(&RCC_PLLCKSELR, 63u << 4 | 3u, BOARD_PLL_M << 4 | RCC_PLLCKSELR_HSE);
    stm32_modify(&RCC_PLLCFGR, RCC_PLLCFGR_PLL1,
                 RCC_PLLCFGR_DIVP1EN | PLL_RANGE << 2); /* wide VCO, no fraction */
    RCC_PLL1DIVR = 1u << 24 | 1u << 16 | (BOARD_PLL_P - 1u) << 9 | (BOARD_PLL_N - 1u);
    RCC_CR |= RCC_CR_PLL1ON;
    stm32_wait_for(&RCC_CR, RCC_CR_PLL1RDY, RCC_CR_PLL1RDY);
    FLASH_ACR = BOARD_FLASH_PROGRAMMING_DELAY << 4 | BOARD_FLASH_LATENCY;
    stm32_wait_for(&FLASH_ACR, 15u, BOARD_FLASH_LATENCY);
    RCC_D1CFGR = STM32_APB_DIVIDE(2u) << 4 | HPRE_BY_2;
    RCC_D2CFGR = STM32_APB_DIVIDE(2u) << 8 | STM32_APB_DIVIDE(2u) << 4;
    RCC_D3CFGR = STM32_APB_DIVIDE(2u) << 4;
    stm32_modify(&RCC_CFGR, RCC_CFGR_SW, RCC_CFGR_SW_PLL1);
    stm32_wait_for(&RCC_CFGR, RCC_CFGR_SWS, RCC_CFGR_SWS_PLL1);
}

void chip_early_init(void) {}

void chip_init(void) {
    back_to_reset_clock();
    raise_voltage();
    start_clock();
    cortexm7_caches_on();
    stm32_debug_in_sleep();
    stm32_uart_init();
}
