/* The polled UART of every STM32. */
#include "arch.h"
#include "chip.h"
#include "stm32.h"

#define CR1_RECEIVER (1u << 2)
#define CR1_TRANSMITTER (1u << 3)
#define CR1_RXNE_INTERRUPT (1u << 5)
#define ISR_RXNE (1u << 5)
#define ISR_TC (1u << 6)
#define ISR_TXE (1u << 7)

#define GPIO_MODER 0x00u
#define GPIO_OSPEEDR 0x08u
#define GPIO_PUPDR 0x0Cu
#define GPIO_AFRL 0x20u

#define UART_HZ (BOARD_CLOCK_HZ / BOARD_UART_CLOCK_DIVIDER)

/* Rounded to the nearest; an LPUART counts in 1/256 of its clock (BOARD_UART_BRR_SCALE). */
#define UART_BRR                                                                                             \
    ((uint32_t)(((uint64_t)UART_HZ * BOARD_UART_BRR_SCALE + BOARD_UART_BAUD / 2u) / BOARD_UART_BAUD))

static void alternate_function(uint32_t port, uint32_t pin, uint32_t function) {
    const uint32_t gpio = STM32_GPIO_BASE + 0x400u * port;
    stm32_clock_on(STM32_GPIO_ENABLE, port);
    stm32_modify(&REGISTER(gpio + GPIO_AFRL + 4u * (pin / 8u)), 15u << 4u * (pin % 8u),
                 function << 4u * (pin % 8u));
    stm32_modify(&REGISTER(gpio + GPIO_OSPEEDR), 3u << 2u * pin, 1u << 2u * pin); /* medium */
    stm32_modify(&REGISTER(gpio + GPIO_PUPDR), 3u << 2u * pin,
                 1u << 2u * pin); /* up: a line left open idles */
    stm32_modify(&REGISTER(gpio + GPIO_MODER), 3u << 2u * pin, 2u << 2u * pin);
}

void stm32_uart_init(void) {
    alternate_function(BOARD_UART_TX_PORT, BOARD_UART_TX_PIN, BOARD_UART_TX_AF);
    alternate_function(BOARD_UART_RX_PORT, BOARD_UART_RX_PIN, BOARD_UART_RX_AF);
    stm32_clock_on(STM32_RCC_BASE + BOARD_UART_ENABLE_OFFSET, BOARD_UART_ENABLE_BIT);
    USART_CR1 = 0;
    USART_CR3 = USART_CR3_SETUP;
    USART_BRR = UART_BRR;
    USART_CR1 = USART_CR1_ENABLE | CR1_TRANSMITTER | CR1_RECEIVER | CR1_RXNE_INTERRUPT;
    cortexm_wake_on(BOARD_UART_IRQ);
}

int chip_uart_readable(void) { return (USART_ISR & ISR_RXNE) != 0u; }

uint8_t chip_uart_get(void) { return (uint8_t)USART_RDR; }

void chip_uart_wait(void) {
    cortexm_clear_pending(BOARD_UART_IRQ);
    if (!chip_uart_readable()) { /* else it came before the line above, and would not wake */
        arch_wait();
    }
}

/* Until the byte has left: a restart, which stops the USART, may come next. */
void chip_uart_put(uint8_t byte) {
    while ((USART_ISR & ISR_TXE) == 0u) {
    }
    USART_TDR = byte; /* clears TC, on the F4 together with the read of the status before */
    while ((USART_ISR & ISR_TC) == 0u) {
    }
}
