/* What an architecture implements for the bare-metal port: reset code, faults, stack guard, its own cycle
 * counter. One folder beside this one for each. */
#ifndef EDGENAS_ARCH_H
#define EDGENAS_ARCH_H

#include <stdint.h>

#define FAULT_MAGIC 0xFA017EDu
#define STACK_PAINT 0xA5A5A5A5u

/* The fault before the last restart; in .noinit, so that it survives one. Meaning of status, status2 and
 * address: wire.h, fault_reply. */
typedef struct {
    uint32_t magic, pc, lr, sp, status, status2, address;
} fault_record_t;

extern volatile fault_record_t fault_record;

/* Exceptions, stack guard, counter. */
void arch_init(void);

/* Sleeps until an enabled interrupt is pending; it is not taken. */
void arch_wait(void);

_Noreturn void arch_reset(void);

#endif
