/* System control space of a Cortex-M (Arm DDI0403, B3) and its data watchpoint and trace unit (C1.8). */
#ifndef EDGENAS_CORTEXM_H
#define EDGENAS_CORTEXM_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

#define NVIC_ISER(irq) REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_ICPR(irq) REGISTER(0xE000E280u + 4u * ((irq) / 32u))
#define NVIC_BIT(irq) (1u << ((irq) % 32u))

#define SCB_VTOR REGISTER(0xE000ED08u)
#define SCB_AIRCR REGISTER(0xE000ED0Cu)
#define SCB_CCR REGISTER(0xE000ED14u)
#define SCB_CCR_DC (1u << 16) /* the data cache is on; reads as zero where there is none */
#define SCB_CFSR REGISTER(0xE000ED28u)
#define SCB_HFSR REGISTER(0xE000ED2Cu)
#define SCB_MMFAR REGISTER(0xE000ED34u)
#define SCB_BFAR REGISTER(0xE000ED38u)
#define SCB_SHCSR REGISTER(0xE000ED24u)
#define SCB_SHCSR_MEMFAULT_ENABLE (1u << 16)
#define SCB_CFSR_MMARVALID (1u << 7)
#define SCB_DCCMVAC REGISTER(0xE000EF68u) /* writes the data cache's line of an address back (B2.2) */
#define DATA_CACHE_LINE 32u               /* bytes, Cortex-M7 (DDI0489) */

/* Memory protection unit (DDI0403, B3.5) */
#define MPU_TYPE REGISTER(0xE000ED90u)
#define MPU_CTRL REGISTER(0xE000ED94u)
#define MPU_RNR REGISTER(0xE000ED98u)
#define MPU_RBAR REGISTER(0xE000ED9Cu)
#define MPU_RASR REGISTER(0xE000EDA0u)
#define MPU_TYPE_REGIONS 0xFF00u
#define MPU_CTRL_ON 5u /* with the default map for all that no region covers */
#define MPU_RASR_NO_ACCESS_64K                                                                               \
    (1u << 28 | 15u << 1 | 1u) /* execute never, no access, 2^(15+1) bytes, enable */

#define DEMCR REGISTER(0xE000EDFCu)
#define DEMCR_TRCENA (1u << 24)
#define DWT_CTRL REGISTER(0xE0001000u)
#define DWT_CTRL_CYCCNTENA 1u
#define DWT_CYCCNT REGISTER(0xE0001004u)
#define DWT_LAR REGISTER(0xE0001FB0u) /* CoreSight lock: present on Cortex-M7, reads as zero elsewhere */
#define DWT_LAR_KEY 0xC5ACCE55u

_Noreturn void Reset_Handler(void);

/* Makes interrupt `irq` of the external ones end a sleep. */
static inline void cortexm_wake_on(uint32_t irq) { NVIC_ISER(irq) = NVIC_BIT(irq); }

/* Forgets that it is pending, so that the next sleep lasts. */
static inline void cortexm_clear_pending(uint32_t irq) { NVIC_ICPR(irq) = NVIC_BIT(irq); }

#endif
