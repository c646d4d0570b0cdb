/* RISC-V machine mode (The RISC-V Instruction Set Manual, volume II, 20211203). */
#ifndef EDGENAS_RISCV_H
#define EDGENAS_RISCV_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* `csr`: its name, or its number where the assembler has no name for it */
#define CSR_READ(csr) CSR_READ_EXPANDED(csr)
#define CSR_WRITE(csr, value) CSR_WRITE_EXPANDED(csr, value)
#define CSR_READ_EXPANDED(csr)                                                                               \
    __extension__({                                                                                          \
        uint32_t value_;                                                                                     \
        __asm__ volatile("csrr %0, " #csr : "=r"(value_));                                                   \
        value_;                                                                                              \
    })
#define CSR_WRITE_EXPANDED(csr, value) __asm__ volatile("csrw " #csr ", %0" ::"r"(value))

_Noreturn void Reset_Handler(void);

/* Resets the whole chip; the instruction set has no instruction for it, so each family implements it. */
_Noreturn void chip_reset(void);

#endif
