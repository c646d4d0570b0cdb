/* Addresses of the STM32H742/743/753 (RM0433, "Memory map"). */
#ifndef EDGENAS_STM32_FAMILY_H
#define EDGENAS_STM32_FAMILY_H

#define STM32_RCC_BASE 0x58024400u
#define STM32_GPIO_BASE 0x58020000u
#define STM32_GPIO_ENABLE (STM32_RCC_BASE + 0xE0u) /* AHB4ENR */
#define STM32_DBGMCU_CR 0x5C001004u

#include "stm32_usart_v2.h"

#endif
