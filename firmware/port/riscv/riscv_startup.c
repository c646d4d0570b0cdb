/* Reset code, memory initialization, stack painting and traps of a RISC-V core in machine mode. */
#include <stdint.h>

#include "arch.h"
#include "chip.h"
#include "riscv.h"

extern uint32_t __stack_limit[], __stack_top[];
extern uint32_t __data_load[], __data_start[], __data_end[], __bss_start[], __bss_end[];

int main(void);

__attribute__((used)) _Noreturn static void start(void) {
    chip_early_init();
    for (const uint32_t *from = __data_load, *end = __data_load + (__data_end - __data_start); from < end;
         ++from) {
        __data_start[from - __data_load] = *from;
    }
    for (uint32_t *word = __bss_start; word < __bss_end; ++word) {
        *word = 0;
    }
    uint32_t *stack_pointer;
    __asm__ volatile("mv %0, sp" : "=r"(stack_pointer));
    /* volatile: no call of memset, which would paint its own frame */
    for (volatile uint32_t *word = __stack_limit; word < stack_pointer; ++word) {
        *word = STACK_PAINT;
    }
    (void)main();
    arch_reset();
}

/* The bits between are reserved, but the Bumblebee core keeps copies of mstatus there (Bumblebee core
 * instruction architecture manual, mcause). */
#define MCAUSE_INTERRUPT_AND_CODE 0x80000FFFu

/* Keeps where the trap happened for the next FAULT request. */
__attribute__((used)) _Noreturn static void record_fault(uint32_t lr, uint32_t sp) {
    fault_record.pc = CSR_READ(mepc);
    fault_record.lr = lr;
    fault_record.sp = sp;
    fault_record.status = CSR_READ(mcause) & MCAUSE_INTERRUPT_AND_CODE;
    fault_record.status2 = 0;
    fault_record.address = CSR_READ(mtval);
    fault_record.magic = FAULT_MAGIC;
    arch_reset();
}

/* On a fresh stack: the old one may be what overflowed, and gp may be what is broken. 256-byte alignment
 * suits every mtvec. */
__attribute__((naked, aligned(256))) static void trap(void) {
    __asm__ volatile(".option push\n"
                     ".option norelax\n"
                     "la gp, __global_pointer$\n"
                     ".option pop\n"
                     "mv a0, ra\n"
                     "mv a1, sp\n"
                     "la sp, __stack_top\n"
                     "j record_fault\n");
}

/* First in flash. Interrupts stay masked for ever: the UART is polled, and nothing disturbs what is measured.
 * The jump comes first because some chips start in an alias of their flash, where addresses relative to the
 * program counter would be off. */
__attribute__((naked, section(".vectors"))) _Noreturn void Reset_Handler(void) {
    __asm__ volatile(".option push\n"
                     ".option norelax\n"
                     "lui t0, %%hi(1f)\n"
                     "jalr zero, %%lo(1f)(t0)\n"
                     "1: la gp, __global_pointer$\n"
                     ".option pop\n"
                     "csrci mstatus, 8\n" /* MIE */
                     "la sp, __stack_top\n"
                     "la t0, %0\n"
                     "csrw mtvec, t0\n"
                     "j start\n" ::"i"(trap));
}

_Noreturn void arch_reset(void) { chip_reset(); }
