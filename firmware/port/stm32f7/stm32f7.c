/* STM32F7. */
#include "chip.h"
#include "cortexm7.h"
#include "stm32.h"
#include "stm32_f4_clock.h"

/* Both serve fetches over the ITCM bus (0x00200000); code linked at 0x08000000 goes through the caches. */
#define ACR_PREFETCH (1u << 8)
#define ACR_ART (1u << 9)

void chip_early_init(void) {}

void chip_init(void) {
    stm32_f4_clock_start(ACR_PREFETCH | ACR_ART);
    cortexm7_caches_on();
    stm32_debug_in_sleep();
    stm32_uart_init();
}
