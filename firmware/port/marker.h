/* Region markers: instructions without effect that a counting emulator recognizes when it translates them. */
#ifndef EDGENAS_MARKER_H
#define EDGENAS_MARKER_H

#if defined(__thumb2__)
/* Hints 0x40 and 0x41 of the 32-bit hint space (Arm DDI0403, "Hint Instructions"): unallocated, hence NOP. */
#define EDGENAS_MARK_BEGIN(id) __asm__ volatile(".inst.w 0xf3af8040" ::: "memory")
#define EDGENAS_MARK_END(id) __asm__ volatile(".inst.w 0xf3af8041" ::: "memory")
#else
#define EDGENAS_MARK_BEGIN(id) ((void)0)
#define EDGENAS_MARK_END(id) ((void)0)
#endif

#endif
