/* UART, counter and memory figures of the Arm MPS2. */
#include "port.h"

#include "mps2.h"

#define RING_BYTES                                                                                           \
    256u /* power of two; the host waits for each reply, so this only bridges a busy moment                  \
          */

static volatile uint8_t ring[RING_BYTES];
static volatile uint32_t ring_head, ring_tail;
static uint32_t fault_pc, fault_status;

extern uint32_t __stack_limit[], __stack_top[];
extern uint8_t __static_start[], __static_end[], __flash_start[], __flash_end[];

void mps2_uart0_rx_handler(void) {
    UART_INTSTATUS = UART_INT_RX;
    while (UART_STATE & UART_STATE_RX_FULL) {
        const uint8_t byte = (uint8_t)UART_DATA;
        const uint32_t next = (ring_head + 1u) % RING_BYTES;
        if (next != ring_tail) { /* a full ring drops the byte; the frame's CRC tells */
            ring[ring_head] = byte;
            ring_head = next;
        }
    }
}

/* The 64 kB below SRAM, which the stack would grow into, fault on access; that costs no memory. */
static void guard_stack(void) {
    if (MPU_TYPE & MPU_TYPE_REGIONS) {
        MPU_RNR = 0;
        MPU_RBAR = (uint32_t)(uintptr_t)__stack_limit - 0x10000u;
        MPU_RASR = MPU_RASR_NO_ACCESS_64K;
        SCB_SHCSR |= SCB_SHCSR_MEMFAULT_ENABLE;
        MPU_CTRL = MPU_CTRL_ON;
        __asm__ volatile("dsb\n isb" ::: "memory");
    }
}

void port_init(void) {
    guard_stack();
    if (mps2_fault.magic == FAULT_MAGIC) {
        fault_pc = mps2_fault.pc;
        fault_status = mps2_fault.status;
    }
    mps2_fault.magic = 0;
    UART_BAUDDIV = MPS2_PERIPHERAL_HZ / 115200u;
    UART_CTRL = UART_CTRL_TX_ENABLE | UART_CTRL_RX_ENABLE | UART_CTRL_RX_INTERRUPT;
    NVIC_ISER0 = 1u << 0; /* UART0 receive */
    TIMER_CTRL = 0;
    TIMER_RELOAD = 0xFFFFFFFFu;
}

uint8_t port_uart_read(void) {
    for (;;) {
        /* WFI wakes on a pending interrupt even while masked, so none is missed between test and sleep */
        __asm__ volatile("cpsid i" ::: "memory");
        if (ring_tail != ring_head) {
            break;
        }
        __asm__ volatile("wfi\n cpsie i\n isb" ::: "memory");
    }
    const uint8_t byte = ring[ring_tail];
    ring_tail = (ring_tail + 1u) % RING_BYTES;
    __asm__ volatile("cpsie i" ::: "memory");
    return byte;
}

void port_uart_write(const uint8_t *data, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        while (UART_STATE & UART_STATE_TX_FULL) {
        }
        UART_DATA = data[i];
    }
}

void port_counter_start(void) {
    __asm__ volatile("cpsid i" ::: "memory");
    TIMER_CTRL = 0;
    TIMER_VALUE = 0xFFFFFFFFu;
    TIMER_CTRL = 1u;
}

uint32_t port_counter_read(void) { return 0xFFFFFFFFu - TIMER_VALUE; }

void port_counter_stop(void) {
    TIMER_CTRL = 0;
    __asm__ volatile("cpsie i" ::: "memory");
}

uint32_t port_static_bytes(void) { return (uint32_t)(__static_end - __static_start); }

uint32_t port_stack_reserve(void) { return (uint32_t)((uintptr_t)__stack_top - (uintptr_t)__stack_limit); }

uint32_t port_stack_used(void) {
    const uint32_t *word = __stack_limit;
    while (word < __stack_top && *word == STACK_PAINT) {
        ++word;
    }
    return (uint32_t)((uintptr_t)__stack_top - (uintptr_t)word);
}

uint32_t port_flash_bytes(void) { return (uint32_t)(__flash_end - __flash_start); }

uint32_t port_fault_pc(void) { return fault_pc; }

uint32_t port_fault_status(void) { return fault_status; }

_Noreturn void port_reset(void) { mps2_system_reset(); }
