/* Memory initialization, stack painting, faults, sleep and cycle counter of an AArch64 core. */
#include <stdint.h>

#include "arch.h"
#include "board.h"
#include "chip.h"
#include "port.h"

extern uint32_t __stack_limit[], __stack_top[];
extern uint32_t __data_load[], __data_start[], __data_end[], __bss_start[], __bss_end[];

int main(void);
_Noreturn void aarch64_start(void);
_Noreturn void aarch64_record_fault(uint64_t lr, uint64_t sp);
_Noreturn void chip_reset(void);

#define SYSTEM_READ(name)                                                                                    \
    __extension__({                                                                                          \
        uint64_t value_;                                                                                     \
        __asm__ volatile("mrs %0, " #name : "=r"(value_));                                                   \
        value_;                                                                                              \
    })

_Noreturn void aarch64_start(void) {
    chip_early_init();
    for (const uint32_t *from = __data_load, *end = __data_load + (__data_end - __data_start); from < end;
         ++from) {
        __data_start[from - __data_load] = *from;
    }
    for (uint32_t *word = __bss_start; word < __bss_end; ++word) {
        *word = 0;
    }
    uint32_t *stack_pointer;
    __asm__ volatile("mov %0, sp" : "=r"(stack_pointer));
    /* volatile: no call of memset, which would paint its own frame */
    for (volatile uint32_t *word = __stack_limit; word < stack_pointer; ++word) {
        *word = STACK_PAINT;
    }
    (void)main();
    arch_reset();
}

static int at_el2(void) { return SYSTEM_READ(CurrentEL) == 8u; }

/* Addresses of this firmware fit 32 bits: the protocol carries no more. */
_Noreturn void aarch64_record_fault(uint64_t lr, uint64_t sp) {
    const int el2 = at_el2();
    fault_record.pc = (uint32_t)(el2 ? SYSTEM_READ(elr_el2) : SYSTEM_READ(elr_el1));
    fault_record.status = (uint32_t)(el2 ? SYSTEM_READ(esr_el2) : SYSTEM_READ(esr_el1));
    fault_record.address = (uint32_t)(el2 ? SYSTEM_READ(far_el2) : SYSTEM_READ(far_el1));
    fault_record.lr = (uint32_t)lr;
    fault_record.sp = (uint32_t)sp;
    fault_record.status2 = 0;
    fault_record.magic = FAULT_MAGIC;
    arch_reset();
}

#if defined(BOARD_COUNTER_PMCCNTR)
#if !defined(BOARD_COUNTER_SHIFT)
#define BOARD_COUNTER_SHIFT 0u
#endif

static uint64_t started;

/* Performance monitors (DDI0487, D13.4): enable, count cycles at every level, 64 bits. */
static void start_cycle_counter(void) {
    __asm__ volatile("msr pmccfiltr_el0, %0" ::"r"(UINT64_C(1) << 27)); /* EL2 as well */
    __asm__ volatile("msr pmcntenset_el0, %0" ::"r"(UINT64_C(1) << 31));
    __asm__ volatile("msr pmcr_el0, %0\n isb" ::"r"(UINT64_C(0x41)));
}

static uint64_t counter_now(void) { return SYSTEM_READ(pmccntr_el0) >> BOARD_COUNTER_SHIFT; }

void port_counter_start(void) { started = counter_now(); }
uint32_t port_counter_read(void) { return (uint32_t)(counter_now() - started); }
void port_counter_stop(void) {}
#else
static void start_cycle_counter(void) {}
#endif

void arch_init(void) { start_cycle_counter(); }

void arch_wait(void) { __asm__ volatile("wfi" ::: "memory"); }

_Noreturn void arch_reset(void) { chip_reset(); }
