/* Region markers around kernels and layers: instructions without effect that a counting emulator recognizes
 * when it translates them. Where EDGENAS_LAYER_TICKS is defined, the end of region `id` also notes the time.
 */
#ifndef EDGENAS_MARKER_H
#define EDGENAS_MARKER_H

#if defined(__thumb2__)
/* Hints 0x40 and 0x41 of the 32-bit hint space (Arm DDI0403, "Hint Instructions"): unallocated, hence NOP. */
#define EDGENAS_MARK(which) __asm__ volatile(".inst.w 0xf3af8040 + " #which::: "memory")
#elif defined(__riscv)
/* SLTI into x0: a HINT for custom use, never compressed (RISC-V unprivileged ISA 20191213, 2.9). */
#define EDGENAS_MARK(which) __asm__ volatile("slti zero, zero, 0x740 + " #which::: "memory")
#elif defined(__aarch64__)
/* HINT 0x40 and 0x41: unallocated, hence NOP (Arm DDI0487, C6.2, HINT). */
#define EDGENAS_MARK(which) __asm__ volatile("hint #(0x40 + " #which ")" ::: "memory")
#else
#define EDGENAS_MARK(which) ((void)0)
#endif

#if defined(EDGENAS_LAYER_TICKS)
#include <stdint.h>

#include "port.h"
extern uint32_t edgenas_layer_end_ticks[];
#define EDGENAS_NOTE_END(id) (edgenas_layer_end_ticks[id] = port_counter_read())
#else
#define EDGENAS_NOTE_END(id) ((void)0)
#endif

#define EDGENAS_MARK_BEGIN(id) EDGENAS_MARK(0)
#define EDGENAS_MARK_END(id)                                                                                 \
    do {                                                                                                     \
        EDGENAS_MARK(1);                                                                                     \
        EDGENAS_NOTE_END(id);                                                                                \
    } while (0)

#endif
