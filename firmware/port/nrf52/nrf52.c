/* nRF52840 (product specification v1.8): 64 MHz from the crystal, instruction cache, UART without DMA. */
#include "arch.h"
#include "board.h"
#include "chip.h"
#include "cortexm.h"

/* CLOCK */
#define CLOCK_HFCLKSTART REGISTER(0x40000000u)
#define CLOCK_HFCLKSTARTED REGISTER(0x40000100u)

/* NVMC */
#define NVMC_ICACHECNF REGISTER(0x4001E540u)

/* GPIO: a pin is 32 times its port plus its number, as in PSEL */
#define GPIO_PORT(pin) (0x50000000u + 0x300u * ((pin) / 32u))
#define GPIO_OUTSET(pin) REGISTER(GPIO_PORT(pin) + 0x508u)
#define GPIO_PIN_CNF(pin) REGISTER(GPIO_PORT(pin) + 0x700u + 4u * ((pin) % 32u))
#define PIN_CNF_OUTPUT 3u /* output, input buffer disconnected */
#define PIN_CNF_INPUT_PULLUP 0x0Cu

/* UART */
#define UART_STARTRX REGISTER(BOARD_UART_BASE + 0x000u)
#define UART_STARTTX REGISTER(BOARD_UART_BASE + 0x008u)
#define UART_RXDRDY REGISTER(BOARD_UART_BASE + 0x108u)
#define UART_TXDRDY REGISTER(BOARD_UART_BASE + 0x11Cu)
#define UART_INTENSET REGISTER(BOARD_UART_BASE + 0x304u)
#define UART_INTENCLR REGISTER(BOARD_UART_BASE + 0x308u)
#define UART_ENABLE REGISTER(BOARD_UART_BASE + 0x500u)
#define UART_PSELRTS REGISTER(BOARD_UART_BASE + 0x508u)
#define UART_PSELTXD REGISTER(BOARD_UART_BASE + 0x50Cu)
#define UART_PSELCTS REGISTER(BOARD_UART_BASE + 0x510u)
#define UART_PSELRXD REGISTER(BOARD_UART_BASE + 0x514u)
#define UART_RXD REGISTER(BOARD_UART_BASE + 0x518u)
#define UART_TXD REGISTER(BOARD_UART_BASE + 0x51Cu)
#define UART_BAUDRATE REGISTER(BOARD_UART_BASE + 0x524u)
#define UART_CONFIG REGISTER(BOARD_UART_BASE + 0x56Cu)
#define UART_ENABLED 4u
#define UART_DISCONNECTED 0xFFFFFFFFu
#define UART_INT_RXDRDY (1u << 2)

#define NVIC_ICER(bank) REGISTER(0xE000E180u + 4u * (bank))

void chip_early_init(void) {
    NVIC_ICER(0) = 0xFFFFFFFFu; /* what a bootloader left enabled would end every sleep at once */
    NVIC_ICER(1) = 0xFFFFFFFFu;
}

static void start_uart(void) {
    UART_ENABLE = 0;
    UART_INTENCLR = 0xFFFFFFFFu;
    GPIO_OUTSET(BOARD_UART_TX) = 1u << (BOARD_UART_TX % 32u); /* idles high */
    GPIO_PIN_CNF(BOARD_UART_TX) = PIN_CNF_OUTPUT;
    GPIO_PIN_CNF(BOARD_UART_RX) = PIN_CNF_INPUT_PULLUP;
    UART_PSELTXD = BOARD_UART_TX;
    UART_PSELRXD = BOARD_UART_RX;
    UART_PSELRTS = UART_DISCONNECTED;
    UART_PSELCTS = UART_DISCONNECTED;
    UART_CONFIG = 0; /* no parity, no flow control, one stop bit */
    UART_BAUDRATE = BOARD_UART_BAUD_REGISTER;
    UART_ENABLE = UART_ENABLED;
    UART_RXDRDY = 0;
    UART_INTENSET = UART_INT_RXDRDY;
    UART_STARTRX = 1;
    UART_STARTTX = 1;
    cortexm_wake_on(BOARD_UART_IRQ);
}

void chip_init(void) {
    CLOCK_HFCLKSTARTED = 0;
    CLOCK_HFCLKSTART = 1;
    while (CLOCK_HFCLKSTARTED == 0u) {
    }
    NVMC_ICACHECNF = 1;
    start_uart();
}

int chip_uart_readable(void) { return UART_RXDRDY != 0u; }

/* The event goes before the byte: taking it may bring the next one from the FIFO (UART, "Reception"). */
uint8_t chip_uart_get(void) {
    UART_RXDRDY = 0;
    (void)UART_RXDRDY;
    return (uint8_t)UART_RXD;
}

void chip_uart_put(uint8_t byte) {
    UART_TXDRDY = 0;
    UART_TXD = byte;
    while (UART_TXDRDY == 0u) {
    }
}

void chip_uart_wait(void) {
    cortexm_clear_pending(BOARD_UART_IRQ);
    if (!chip_uart_readable()) { /* else it came before the line above, and would not wake */
        arch_wait();
    }
}
