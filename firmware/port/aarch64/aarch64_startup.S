/* Reset code and exception vectors of an AArch64 core without an operating system (Arm DDI0487). MMU and caches stay
 * off: all memory is device memory, so the compiler must not make unaligned accesses (-mstrict-align). */
    .section .vectors, "ax"
    .global Reset_Handler
    .type Reset_Handler, %function
Reset_Handler:
    msr daifset, #15                    /* masked for ever: the UART is polled */
    ldr x0, =__stack_top
    mov sp, x0
    ldr x0, =aarch64_vectors
    mrs x1, CurrentEL
    cmp x1, #8
    b.eq 1f
    msr vbar_el1, x0
    b 2f
1:  msr vbar_el2, x0
2:  isb
    b aarch64_start
    .ltorg

/* Every exception is a fault: note where, on a fresh stack (the old one may be what overflowed). */
    .balign 2048
aarch64_vectors:
    .rept 16
    .balign 128
    mov x0, x30
    mov x1, sp
    ldr x2, =__stack_top
    mov sp, x2
    b aarch64_record_fault
    .endr
    .ltorg
