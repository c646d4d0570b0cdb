/* Vector table, memory initialization, stack painting and faults of a Cortex-M on the Arm MPS2. */
#include <stdint.h>

#include "mps2.h"

extern uint32_t __stack_limit[], __stack_top[];
extern uint32_t __data_load[], __data_start[], __data_end[], __bss_start[], __bss_end[];

int main(void);
_Noreturn void Reset_Handler(void);

/* Survives a reset: .noinit is neither loaded nor cleared. */
volatile fault_record_t mps2_fault __attribute__((section(".noinit")));

_Noreturn void Reset_Handler(void) {
    for (const uint32_t *from = __data_load, *end = __data_load + (__data_end - __data_start); from < end;
         ++from) {
        __data_start[from - __data_load] = *from;
    }
    for (uint32_t *word = __bss_start; word < __bss_end; ++word) {
        *word = 0;
    }
    uint32_t *stack_pointer;
    __asm__ volatile("mov %0, sp" : "=r"(stack_pointer));
    for (uint32_t *word = __stack_limit; word < stack_pointer; ++word) {
        *word = STACK_PAINT;
    }
    (void)main();
    mps2_system_reset();
}

_Noreturn void mps2_system_reset(void) {
    __asm__ volatile("dsb" ::: "memory");
    SCB_AIRCR = 0x05FA0004u; /* VECTKEY, SYSRESETREQ */
    for (;;) {
        __asm__ volatile("dsb" ::: "memory");
    }
}

/* Keeps where the fault happened for the next HELLO, on a fresh stack: the old one may be what overflowed. */
__attribute__((used)) _Noreturn static void record_fault(const uint32_t *frame) {
    /* the frame is only readable where the stack pointer still lies in RAM */
    const int intact = frame >= __stack_limit && frame + 8 <= __stack_top;
    mps2_fault.magic = FAULT_MAGIC;
    mps2_fault.pc = intact ? frame[6] : 0u;
    mps2_fault.status = SCB_CFSR | (SCB_HFSR & 0x80000000u);
    mps2_system_reset();
}

__attribute__((naked)) static void Fault_Handler(void) {
    __asm__ volatile("mov r0, sp\n"
                     "ldr r1, =__stack_top\n"
                     "msr msp, r1\n"
                     "b record_fault\n");
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
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
    0,
    0,
    Fault_Handler,         /* PendSV */
    Fault_Handler,         /* SysTick */
    mps2_uart0_rx_handler, /* IRQ 0 */
};
