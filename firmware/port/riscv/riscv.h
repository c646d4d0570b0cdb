/* RISC-V machine mode (The RISC-V Instruction Set Manual, volume II, 20211203). */
#ifndef EDGENAS_RISCV_H
#define EDGENAS_RISCV_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

#define CSR_READ(name)                                                                                       \
    __extension__({                                                                                          \
        uint32_t value_;                                                                                     \
        __asm__ volatile("csrr %0, " #name : "=r"(value_));                                                  \
        value_;                                                                                              \
    })
#define CSR_WRITE(name, value) __asm__ volatile("csrw " #name ", %0" ::"r"(value))

_Noreturn void Reset_Handler(void);

/* Resets the whole chip; the instruction set has no instruction for it, so each family implements it. */
_Noreturn void chip_reset(void);

#endif
