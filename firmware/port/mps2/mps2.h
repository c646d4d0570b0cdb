/* Registers of the Arm MPS2 (application note AN386) and of the Cortex-M system control space (DDI0403). */
#ifndef EDGENAS_MPS2_H
#define EDGENAS_MPS2_H

#include <stdint.h>

#include "board.h"

#define MPS2_PERIPHERAL_HZ 25000000u

#define REGISTER(address) (*(volatile uint32_t *)(address))

/* CMSDK APB UART (Arm DDI0479) */
#define UART_DATA REGISTER(BOARD_UART_BASE + 0x00u)
#define UART_STATE REGISTER(BOARD_UART_BASE + 0x04u)
#define UART_CTRL REGISTER(BOARD_UART_BASE + 0x08u)
#define UART_INTSTATUS REGISTER(BOARD_UART_BASE + 0x0Cu)
#define UART_BAUDDIV REGISTER(BOARD_UART_BASE + 0x10u)
#define UART_STATE_TX_FULL 1u
#define UART_STATE_RX_FULL 2u
#define UART_CTRL_TX_ENABLE 1u
#define UART_CTRL_RX_ENABLE 2u
#define UART_CTRL_RX_INTERRUPT 8u
#define UART_INT_RX 2u

/* CMSDK APB timer (Arm DDI0479): counts down */
#define TIMER_CTRL REGISTER(BOARD_COUNTER_BASE + 0x00u)
#define TIMER_VALUE REGISTER(BOARD_COUNTER_BASE + 0x04u)
#define TIMER_RELOAD REGISTER(BOARD_COUNTER_BASE + 0x08u)

#define NVIC_ISER0 REGISTER(0xE000E100u)
#define SCB_AIRCR REGISTER(0xE000ED0Cu)
#define SCB_CFSR REGISTER(0xE000ED28u)
#define SCB_HFSR REGISTER(0xE000ED2Cu)

#define SCB_SHCSR REGISTER(0xE000ED24u)
#define SCB_SHCSR_MEMFAULT_ENABLE (1u << 16)

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

#define STACK_PAINT 0xA5A5A5A5u
#define FAULT_MAGIC 0xFA017EDu

typedef struct {
    uint32_t magic, pc, status;
} fault_record_t;

extern volatile fault_record_t mps2_fault;

void mps2_uart0_rx_handler(void);
_Noreturn void mps2_system_reset(void);

#endif
