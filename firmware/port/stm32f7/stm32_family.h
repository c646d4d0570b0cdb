/* Addresses of the STM32F7 (RM0410, "Memory map"). */
#ifndef EDGENAS_STM32_FAMILY_H
#define EDGENAS_STM32_FAMILY_H

#define STM32_RCC_BASE 0x40023800u
#define STM32_GPIO_BASE 0x40020000u
#define STM32_GPIO_ENABLE (STM32_RCC_BASE + 0x30u) /* AHB1ENR */
#define STM32_DBGMCU_CR 0xE0042004u

#include "stm32_usart_v2.h"

#endif
