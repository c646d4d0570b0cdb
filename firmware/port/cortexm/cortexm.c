/* Stack guard, sleep and cycle counter of a Cortex-M. */
#include "cortexm.h"

#include "arch.h"
#include "board.h"
#include "port.h"

extern uint32_t __stack_limit[];

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

#if defined(BOARD_COUNTER_DWT)
static uint32_t started;

static void start_cycle_counter(void) {
    DEMCR |= DEMCR_TRCENA;
    DWT_LAR = DWT_LAR_KEY;
    DWT_CYCCNT = 0;
    DWT_CTRL |= DWT_CTRL_CYCCNTENA;
}

void port_counter_start(void) { started = DWT_CYCCNT; }
uint32_t port_counter_read(void) { return DWT_CYCCNT - started; }
void port_counter_stop(void) {}
#else
static void start_cycle_counter(void) {}
#endif

void arch_init(void) {
    guard_stack();
    start_cycle_counter();
}

void arch_wait(void) { __asm__ volatile("wfi" ::: "memory"); }
