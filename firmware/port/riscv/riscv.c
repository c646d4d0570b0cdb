/* Stack guard, sleep and cycle counter of a RISC-V core. */
#include "riscv.h"

#include "arch.h"
#include "board.h"
#include "port.h"

#if defined(BOARD_PMP)
/* The 64 kB below SRAM, which the stack would grow into, fault on access: a locked entry of the physical
 * memory protection binds machine mode too (privileged architecture, 3.7.1). */
static void guard_stack(void) {
    extern uint32_t __stack_limit[];
    CSR_WRITE(pmpaddr0, (((uint32_t)(uintptr_t)__stack_limit - 0x10000u) >> 2) | 0x1FFFu);
    CSR_WRITE(pmpcfg0, 0x98u); /* locked, NAPOT, no access */
}
#else
static void guard_stack(void) {}
#endif

#if defined(BOARD_COUNTER_MCYCLE)
#if !defined(BOARD_COUNTER_SHIFT)
#define BOARD_COUNTER_SHIFT 0u
#endif

static uint32_t started;

/* mcycle, divided where an emulator counts too finely for 32 bits. */
static uint32_t counter_now(void) {
    uint32_t high, low;
    do {
        high = CSR_READ(mcycleh);
        low = CSR_READ(mcycle);
    } while (BOARD_COUNTER_SHIFT != 0u && high != CSR_READ(mcycleh));
    return (uint32_t)(((uint64_t)high << 32 | low) >> BOARD_COUNTER_SHIFT);
}

static void start_cycle_counter(void) {
#if defined(BOARD_MCOUNTINHIBIT)
    CSR_WRITE(0x320, 0u); /* mcountinhibit: some cores come up with their counters stopped */
#endif
}

void port_counter_start(void) { started = counter_now(); }
uint32_t port_counter_read(void) { return counter_now() - started; }
void port_counter_stop(void) {}
#else
static void start_cycle_counter(void) {}
#endif

void arch_init(void) {
    guard_stack();
    start_cycle_counter();
}

void arch_wait(void) { __asm__ volatile("wfi" ::: "memory"); }
