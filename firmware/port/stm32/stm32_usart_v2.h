/* USART and LPUART of the STM32L4, F7 and H7 (RM0410, RM0432, RM0433: USART and LPUART registers). */
#ifndef EDGENAS_STM32_USART_V2_H
#define EDGENAS_STM32_USART_V2_H

#define USART_CR1 REGISTER(BOARD_UART_BASE + 0x00u)
#define USART_CR3 REGISTER(BOARD_UART_BASE + 0x08u)
#define USART_BRR REGISTER(BOARD_UART_BASE + 0x0Cu)
#define USART_ISR REGISTER(BOARD_UART_BASE + 0x1Cu)
#define USART_RDR REGISTER(BOARD_UART_BASE + 0x24u)
#define USART_TDR REGISTER(BOARD_UART_BASE + 0x28u)
#define USART_CR1_ENABLE (1u << 0)
#define USART_CR3_SETUP                                                                                      \
    (1u << 12) /* OVRDIS: an overrun loses bytes (the frame's CRC tells), no flag sticks */

#endif
