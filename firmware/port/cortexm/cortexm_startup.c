/* Vector table, memory initialization, stack painting and faults of a Cortex-M. */
#include <stdint.h>

#include "arch.h"
#include "chip.h"
#include "cortexm.h"

extern uint32_t __stack_limit[], __stack_top[];
extern uint32_t __data_load[], __data_start[], __data_end[], __bss_start[], __bss_end[];

int main(void);

/* Every exception but reset leads to Fault_Handler. No external interrupt is ever taken: the table ends
 * at 16. */
__attribute__((section(".vectors"), used)) static const void *const vectors[16];

_Noreturn void Reset_Handler(void) {
    /* masked for ever: the UART is polled, and nothing disturbs what is measured */
    __asm__ volatile("cpsid i" ::: "memory");
    SCB_VTOR = (uint32_t)(uintptr_t)vectors; /* a bootloader's table may be in force */
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

/* A restart drops what the data cache has not written back, and with it what is known of a fault. */
static void save_fault_record(void) {
    if ((SCB_CCR & SCB_CCR_DC) != 0u) {
        const uint32_t start = (uint32_t)(uintptr_t)&fault_record;
        for (uint32_t line = start & ~(DATA_CACHE_LINE - 1u); line < start + sizeof fault_record;
             line += DATA_CACHE_LINE) {
            SCB_DCCMVAC = line;
        }
    }
}

_Noreturn void arch_reset(void) {
    __asm__ volatile("dsb" ::: "memory");
    save_fault_record();
    __asm__ volatile("dsb" ::: "memory");
    SCB_AIRCR = 0x05FA0004u; /* VECTKEY, SYSRESETREQ */
    for (;;) {
        __asm__ volatile("dsb" ::: "memory");
    }
}

/* Keeps where the fault happened for the next FAULT request, on a fresh stack: the old one may be what
 * overflowed. */
__attribute__((used)) _Noreturn static void record_fault(const uint32_t *frame) {
    /* the frame is only readable where the stack pointer still lies in RAM */
    const int intact = frame >= __stack_limit && frame + 8 <= __stack_top;
    fault_record.pc = intact ? frame[6] : 0u;
    fault_record.lr = intact ? frame[5] : 0u;
    fault_record.sp = (uint32_t)(uintptr_t)frame;
    fault_record.status = SCB_CFSR;
    fault_record.status2 = SCB_HFSR;
    fault_record.address = SCB_CFSR & SCB_CFSR_MMARVALID ? SCB_MMFAR : SCB_BFAR;
    fault_record.magic = FAULT_MAGIC;
    arch_reset();
}

__attribute__((naked)) static void Fault_Handler(void) {
    __asm__ volatile("mov r0, sp\n"
                     "ldr r1, =__stack_top\n"
                     "msr msp, r1\n"
                     "b record_fault\n");
}

static const void *const vectors[16] = {
    __stack_top,
    (const void *)Reset_Handler,
    Fault_Handler, /* NMI */
    Fault_Handler, /* HardFault */
    Fault_Handler, /* MemManage */
    Fault_Handler, /* BusFault */
    Fault_Handler, /* UsageFault */
    0,
    0,
    0,
    0,
    Fault_Handler, /* SVCall */
    Fault_Handler, /* DebugMonitor */
    0,
    Fault_Handler, /* PendSV */
    Fault_Handler, /* SysTick */
};
