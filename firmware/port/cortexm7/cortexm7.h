/* Caches of a Cortex-M7 (Arm DDI0403, B2.2 "Caches and branch predictors"; DDI0489). */
#ifndef EDGENAS_CORTEXM7_H
#define EDGENAS_CORTEXM7_H

#include "cortexm.h"

#define SCB_CCR_IC (1u << 17)
#define SCB_CCSIDR REGISTER(0xE000ED80u)
#define SCB_CSSELR REGISTER(0xE000ED84u)
#define SCB_ICIALLU REGISTER(0xE000EF50u)
#define SCB_DCISW REGISTER(0xE000EF60u)

#define CACHE_WAY_SHIFT 30u /* the data cache has four ways */

static inline void cortexm7_icache_on(void) {
    if ((SCB_CCR & SCB_CCR_IC) == 0u) {
        SCB_ICIALLU = 0;
        __asm__ volatile("dsb\n isb" ::: "memory");
        SCB_CCR |= SCB_CCR_IC;
        __asm__ volatile("dsb\n isb" ::: "memory");
    }
}

/* A data cache that is on already may hold the only copy of what was written: it is left alone. */
static inline void cortexm7_dcache_on(void) {
    if ((SCB_CCR & SCB_CCR_DC) == 0u) {
        SCB_CSSELR = 0; /* level 1, data */
        __asm__ volatile("dsb" ::: "memory");
        const uint32_t size = SCB_CCSIDR;
        const uint32_t last_set = (size >> 13) & 0x7FFFu, last_way = (size >> 3) & 0x3FFu;
        for (uint32_t set = 0; set <= last_set; ++set) {
            for (uint32_t way = 0; way <= last_way; ++way) {
                SCB_DCISW = way << CACHE_WAY_SHIFT | set * DATA_CACHE_LINE;
            }
        }
        __asm__ volatile("dsb" ::: "memory");
        SCB_CCR |= SCB_CCR_DC;
        __asm__ volatile("dsb\n isb" ::: "memory");
    }
}

static inline void cortexm7_caches_on(void) {
    cortexm7_icache_on();
    cortexm7_dcache_on();
}

#endif
