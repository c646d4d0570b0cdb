/* Platform-level interrupt controller (RISC-V PLIC specification 1.0.0, chapter 3), machine mode of hart 0.
 * It only ends sleeps: no interrupt is ever taken. */
#ifndef EDGENAS_PLIC_H
#define EDGENAS_PLIC_H

#include "board.h"
#include "riscv.h"

#define PLIC_PRIORITY(irq) REGISTER(BOARD_PLIC_BASE + 4u * (irq))
#define PLIC_ENABLE(irq) REGISTER(BOARD_PLIC_BASE + 0x2000u + 4u * ((irq) / 32u))
#define PLIC_THRESHOLD REGISTER(BOARD_PLIC_BASE + 0x200000u)
#define PLIC_CLAIM REGISTER(BOARD_PLIC_BASE + 0x200004u)
#define MIE_EXTERNAL (1u << 11)

/* Makes interrupt `irq` end a sleep, though mstatus.MIE masks it. */
static inline void plic_wake_on(uint32_t irq) {
    PLIC_PRIORITY(irq) = 1u;
    PLIC_ENABLE(irq) = 1u << (irq % 32u);
    PLIC_THRESHOLD = 0;
    CSR_WRITE(mie, MIE_EXTERNAL);
}

/* Claims and completes what is pending, so that the next sleep lasts unless the device still asks. */
static inline void plic_clear_pending(void) {
    const uint32_t irq = PLIC_CLAIM;
    PLIC_CLAIM = irq;
}

#endif
