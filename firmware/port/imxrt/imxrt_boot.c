/* What the boot ROM of the i.MX RT1060 reads in a serial NOR flash before it starts the program (IMXRT1060RM,
 * chapter "System Boot": serial NOR configuration block, image vector table, boot data). */
#include <stddef.h>
#include <stdint.h>

#include "board.h"

/* One instruction of the FlexSPI sequencer, half a word (chapter FlexSPI, "Look Up Table") */
#define LUT(opcode, pads, operand) ((uint32_t)(opcode) << 10 | (uint32_t)(pads) << 8 | (uint32_t)(operand))
#define LUT_PAIR(first, second) ((first) | (second) << 16)
#define CMD_SDR 0x01u
#define RADDR_SDR 0x02u
#define MODE8_SDR 0x07u
#define READ_SDR 0x09u
#define DUMMY_SDR 0x0Cu
#define ONE_PAD 0u
#define FOUR_PADS 2u

typedef struct {
    uint32_t tag, version, reserved0;
    uint8_t read_sample_clock, cs_hold_time, cs_setup_time, column_address_width;
    uint32_t device_mode[12]; /* 0x10: no command is needed to bring the flash into quad mode */
    uint32_t controller_misc; /* 0x40 */
    uint8_t device_type, pads, serial_clock, custom_sequences;
    uint32_t reserved1[2];
    uint32_t size_a1, size_a2, size_b1, size_b2; /* 0x50 */
    uint32_t pad_settings[4], timeouts[4];
    uint32_t lut[64];                      /* 0x80 */
    uint32_t lut_sequences[16];            /* 0x180 */
    uint32_t page_bytes, sector_bytes;     /* 0x1C0 */
    uint32_t command_clock, reserved2[13]; /* 0x1C8 */
} flash_configuration_t;

typedef struct {
    uint32_t start, length, plugin, reserved;
} boot_data_t;

typedef struct {
    uint32_t header;
    const void *entry; /* vector table: the ROM takes the stack pointer and the program counter from it */
    uint32_t reserved1, device_configuration;
    const boot_data_t *boot_data;
    const void *self;
    uint32_t signature, reserved2;
} image_vector_table_t;

typedef struct {
    flash_configuration_t flash; /* at 0x60000000 */
    uint8_t gap[0x1000 - sizeof(flash_configuration_t)];
    image_vector_table_t ivt; /* at 0x60001000 */
    boot_data_t boot_data;
    uint8_t gap2[0x1000 - sizeof(image_vector_table_t) - sizeof(boot_data_t)];
} boot_header_t;

_Static_assert(sizeof(flash_configuration_t) == 0x200, "flash configuration block");
_Static_assert(offsetof(flash_configuration_t, controller_misc) == 0x40, "flash configuration block");
_Static_assert(offsetof(flash_configuration_t, size_a1) == 0x50, "flash configuration block");
_Static_assert(offsetof(flash_configuration_t, lut) == 0x80, "flash configuration block");
_Static_assert(offsetof(flash_configuration_t, page_bytes) == 0x1C0, "flash configuration block");
_Static_assert(offsetof(boot_header_t, ivt) == 0x1000, "image vector table");
_Static_assert(sizeof(boot_header_t) == 0x2000, "vectors follow at 0x60002000");

#define FLASH_ORIGIN 0x60000000u

__attribute__((section(".boot"), used)) static const boot_header_t boot = {
    .flash =
        {
            .tag = 0x42464346u, /* "FCFB" */
            .version = 0x56010000u,
            .read_sample_clock = 1, /* looped back from the DQS pad */
            .cs_hold_time = 3,
            .cs_setup_time = 3,
            .device_type = 1, /* serial NOR */
            .pads = 4,
            .serial_clock = BOARD_FLEXSPI_CLOCK,
            .size_a1 = BOARD_FLASH_CHIP_BYTES,
            .lut =
                {
                    /* fast read quad I/O (W25Q64JV datasheet, instruction EBh): 24 bits of address, mode bits
                     * that do not ask for continuous read, four dummy clocks */
                    LUT_PAIR(LUT(CMD_SDR, ONE_PAD, 0xEB), LUT(RADDR_SDR, FOUR_PADS, 24)),
                    LUT_PAIR(LUT(MODE8_SDR, FOUR_PADS, 0xFF), LUT(DUMMY_SDR, FOUR_PADS, 4)),
                    LUT_PAIR(LUT(READ_SDR, FOUR_PADS, 4), 0u),
                },
            .page_bytes = 256,
            .sector_bytes = 4096,
            .command_clock = 1, /* 30 MHz */
        },
    .ivt =
        {
            .header = 0x412000D1u, /* tag D1, 32 bytes, version 4.1 */
            .entry = &boot + 1,
            .boot_data = &boot.boot_data,
            .self = &boot.ivt,
        },
    .boot_data = {.start = FLASH_ORIGIN, .length = BOARD_FLASH_CHIP_BYTES},
};
