/* Addresses of the STM32L4 and L4+ (RM0432, "Memory map"). */
#ifndef EDGENAS_STM32_FAMILY_H
#define EDGENAS_STM32_FAMILY_H

#define STM32_RCC_BASE 0x40021000u
#define STM32_GPIO_BASE 0x48000000u
#define STM32_GPIO_ENABLE (STM32_RCC_BASE + 0x4Cu) /* AHB2ENR */
#define STM32_DBGMCU_CR 0xE0042004u

#include "stm32_usart_v2.h"

#endif
