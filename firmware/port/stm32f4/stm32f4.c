/* STM32F4. */
#include "chip.h"
#include "stm32.h"
#include "stm32_f4_clock.h"

#define ACR_PREFETCH (1u << 8)
#define ACR_INSTRUCTION_CACHE (1u << 9)
#define ACR_DATA_CACHE (1u << 10)

void chip_early_init(void) {}

void chip_init(void) {
    stm32_f4_clock_start(ACR_PREFETCH | ACR_INSTRUCTION_CACHE | ACR_DATA_CACHE);
    stm32_debug_in_sleep();
    stm32_uart_init();
}
