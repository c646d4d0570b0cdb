/* Runs a simulated core with a program in its flash: harness PROGRAM.elf FD [FLASH_WAITS SRAM_WAITS]
 * Without arguments it runs a program of its own for a moment, to show the compiler which paths are taken.
 *
 * The memories answer after that many wait states, 0 where they are not named.
 *
 * The device's UART is the socket FD; the simulation ends when its other end closes. While the firmware waits
 * for a byte, simulated time stands still and this process sleeps.
 */
#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "Vsoc.h"
#include "verilated.h"

/* Registers; firmware/port/rtl/rtl.c has the other side */
enum : uint32_t { DATA = 0x0, STATUS = 0x4, WAIT = 0x8, RESET = 0xC };

static const uint32_t FLASH_BASE = 0, FLASH_BYTES = 512 * 1024;
static const long CYCLES_BETWEEN_LOOKS = 20000; /* some milliseconds */
static const int RESET_CYCLES = 4;

[[noreturn]] static void fail(const std::string &what) {
    fprintf(stderr, "%s\n", what.c_str());
    exit(1);
}

/* ---- the other end of the line
 * -------------------------------------------------------------------------------- */

class Wire {
  public:
    explicit Wire(int fd) : fd_(fd) {}

    bool empty() const { return received_.empty(); }

    /* The next received byte; 0 where there is none. */
    uint8_t take() {
        if (received_.empty()) {
            return 0;
        }
        const uint8_t byte = received_.front();
        received_.pop_front();
        return byte;
    }

    void put(uint8_t byte) {
        to_send_.push_back(byte);
        if (to_send_.size() >= 4096) {
            flush();
        }
    }

    /* Sends what is to send, and receives what has come; ends the process when the other end has closed. */
    void look() {
        flush();
        receive(MSG_DONTWAIT);
    }

    /* As look, but sleeps until a byte is there. */
    void sleep() {
        flush();
        while (received_.empty()) {
            receive(0);
        }
    }

    void flush() {
        size_t sent = 0;
        while (sent < to_send_.size()) {
            const ssize_t count = send(fd_, to_send_.data() + sent, to_send_.size() - sent, MSG_NOSIGNAL);
            if (count > 0) {
                sent += static_cast<size_t>(count);
            } else if (errno != EINTR) {
                exit(0);
            }
        }
        to_send_.clear();
    }

  private:
    void receive(int flags) {
        uint8_t buffer[4096];
        const ssize_t count = recv(fd_, buffer, sizeof buffer, flags);
        if (count > 0) {
            received_.insert(received_.end(), buffer, buffer + count);
        } else if (count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            exit(0);
        }
    }

    int fd_;
    std::deque<uint8_t> received_;
    std::vector<uint8_t> to_send_;
};

/* ---- what the bus calls (soc_bus.sv)
 * --------------------------------------------------------------------------- */

static std::unique_ptr<Wire> wire;
static std::vector<uint32_t> flash(FLASH_BYTES / 4, 0xFFFFFFFFu);
static unsigned int flash_waits, sram_waits; /* wait states */
static bool reset_wanted;

extern "C" unsigned int harness_flash_word(unsigned int index) { return flash.at(index); }

extern "C" unsigned int harness_flash_waits() { return flash_waits; }

extern "C" unsigned int harness_sram_waits() { return sram_waits; }

extern "C" unsigned int harness_read(unsigned int offset) {
    switch (offset & ~3u) {
    case DATA:
        return wire->take();
    case STATUS:
        return !wire->empty();
    case WAIT:
        wire->sleep();
        return 1;
    default:
        return 0;
    }
}

extern "C" void harness_write(unsigned int offset, unsigned int value) {
    if (offset == DATA) {
        wire->put(static_cast<uint8_t>(value));
    } else if (offset == RESET) {
        reset_wanted = true;
    }
}

extern "C" void harness_bus_error(unsigned int address) {
    fprintf(stderr, "restarted: access to 0x%08x, where nothing is (or to write to flash)\n", address);
    reset_wanted = true;
}

/* As many as soc_bus.sv can count. */
static unsigned int wait_states(const char *text) {
    char *end;
    const long count = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || count < 0 || count > 255) {
        fail(std::string(text) + " are no wait states: 0 to 255");
    }
    return static_cast<unsigned int>(count);
}

/* ---- the program
 * ----------------------------------------------------------------------------------------------- */

/* Fills the flash with the segments that are loaded into it, by their physical addresses. */
static void load(const char *path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    Elf32_Ehdr header;
    if (!file || bytes.size() < sizeof header) {
        fail(std::string("cannot read ") + path);
    }
    memcpy(&header, bytes.data(), sizeof header);
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS32 ||
        header.e_machine != EM_RISCV) {
        fail(std::string(path) + " is no ELF file for 32-bit RISC-V");
    }
    for (unsigned i = 0; i < header.e_phnum; ++i) {
        Elf32_Phdr segment;
        const size_t at = header.e_phoff + size_t{i} * header.e_phentsize;
        if (at + sizeof segment > bytes.size()) {
            fail(std::string(path) + " is cut short");
        }
        memcpy(&segment, bytes.data() + at, sizeof segment);
        if (segment.p_type != PT_LOAD || segment.p_filesz == 0) {
            continue;
        }
        const uint64_t offset = uint64_t{segment.p_paddr} - FLASH_BASE;
        if (segment.p_paddr < FLASH_BASE || offset + segment.p_filesz > FLASH_BYTES) {
            char text[80];
            snprintf(text, sizeof text, "a segment at 0x%08x, %u bytes, is not in flash",
                     (unsigned)segment.p_paddr, (unsigned)segment.p_filesz);
            fail(std::string(path) + ": " + text);
        }
        if (uint64_t{segment.p_offset} + segment.p_filesz > bytes.size()) {
            fail(std::string(path) + " is cut short");
        }
        memcpy(reinterpret_cast<char *>(flash.data()) + offset, bytes.data() + segment.p_offset,
               segment.p_filesz);
    }
}

/* A convolution's inner loop: products of bytes are added up; the sum is scaled, clamped and stored. At
 * address 0:
 *
 *             lui  s0, 0x20000                 SRAM
 *     outer:  li   a0, 0
 *             mv   a1, s0
 *             addi a2, s0, 64
 *     inner:  lb   a3, 0(a1)
 *             lb   a4, 64(a1)
 *             addi a1, a1, 1
 *             mul  a3, a3, a4
 *             add  a0, a0, a3
 *             bne  a1, a2, inner
 *             jal  ra, scaled
 *             andi a3, s1, 255
 *             add  a3, a3, s0
 *             sb   a0, 0(a3)
 *             addi s1, s1, 1
 *             sw   s1, 256(s0)
 *             lw   a5, 256(s0)
 *             bnez a5, outer
 *     scaled: lui  a5, 0x40000
 *             mulh a0, a0, a5
 *             srai a0, a0, 3
 *             li   a4, 127
 *             blt  a0, a4, done
 *             mv   a0, a4
 *     done:   ret
 */
static const uint32_t TRAINING_PROGRAM[] = {
    0x20000437, 0x85a24501, 0x04040613, 0x00058683, 0x04058703, 0x86b30585, 0x953602e6,
    0xfec598e3, 0x01a000ef, 0x0ff4f693, 0x802396a2, 0x048500a6, 0x10942023, 0x10042783,
    0x07b7f7f1, 0x15334000, 0x850d02f5, 0x07f00713, 0x00e54363, 0x8082853a,
};
static const long TRAINING_CYCLES = 200000;

int main(int argc, char **argv) {
    const bool training = argc == 1;
    if (!training && argc != 3 && argc != 5) {
        fail(std::string("usage: ") + argv[0] + " PROGRAM.elf FD [FLASH_WAITS SRAM_WAITS]");
    }
    if (training) {
        memcpy(flash.data(), TRAINING_PROGRAM, sizeof TRAINING_PROGRAM);
    } else {
        load(argv[1]);
        wire = std::make_unique<Wire>(atoi(argv[2]));
        if (argc == 5) {
            flash_waits = wait_states(argv[3]);
            sram_waits = wait_states(argv[4]);
        }
    }

    VerilatedContext context;
    Vsoc soc(&context);
    const auto run = [&soc](long cycles) {
        for (long i = 0; i < cycles && !reset_wanted; ++i) {
            soc.clk_i = 1;
            soc.eval();
            soc.clk_i = 0;
            soc.eval();
        }
    };
    soc.clk_i = 0;
    soc.rst_ni = 1; /* the cores reset on a falling edge */
    soc.eval();
    for (;;) {
        reset_wanted = false;
        soc.rst_ni = 0;
        soc.eval();
        run(RESET_CYCLES);
        reset_wanted = false;
        soc.rst_ni = 1;
        if (training) {
            run(TRAINING_CYCLES);
            return reset_wanted; /* it does not ask for one, if the core works */
        }
        while (!reset_wanted) {
            run(CYCLES_BETWEEN_LOOKS);
            wire->look();
        }
    }
}
