/* QEMU TCG plugin: how often each translation block ran between a begin and an end marker.

   Arguments: out=FILE.  Markers are architectural no-ops of the guest (firmware/port/marker.h):
   Thumb .inst.w 0xf3af8040 and 0xf3af8041, RISC-V slti x0,x0,0x740 and 0x741, AArch64 hint 0x40 and 0x41.

   The file is little-endian: a header, then records as they arise, flushed at each end marker, so that the
   host finds the region complete when the device's answer reaches it.
       "EDGB" u32 version=1  u32 length, target name
       'B' u64 pc  u32 bytes  u32 instructions  code       block definition; they are numbered from 0
       'R' u32 n, then n times: u32 block  u64 runs  u64 taken                        one region
   "taken" counts the runs after which the next instruction was not the one behind the block.

   Counts are exact. The markers themselves are not counted: the block with the begin marker counts from
   behind it, the one with the end marker up to it. QEMU also leaves blocks early (an I/O access under -icount
   makes it resume in a new block) and cuts them short (when the instruction budget of -icount is nearly used
   up); the pieces are counted as what ran, and joined again where they add up to a known block. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu_plugin_api.h"

#define BUCKETS 4096u
#define NEVER_WRITTEN UINT32_MAX

typedef struct span {
    struct span *next;  /* in the hash bucket of pc */
    struct span *whole; /* the longest translated block that begins with this code; itself where it is that */
    struct span *touched;
    uint8_t *code;
    uint64_t pc, runs, taken;
    uint32_t bytes, instructions, number;
} span_t;

typedef struct {
    span_t *block;   /* where the marker is */
    uint64_t pc;     /* of the marker */
    uint64_t behind; /* of the next instruction */
} marker_t;

__attribute__((visibility("default"))) extern int qemu_plugin_version;
__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
                                                               int argc, char **argv);
int qemu_plugin_version = 1;

/* An instruction set: how long its instructions are, and its markers as they lie in memory, little-endian. */
typedef struct {
    const char *target; /* QEMU's name for it, or how that begins */
    uint32_t (*instruction_bytes)(const uint8_t *code);
    uint32_t begin, end;
} guest_t;

static FILE *out;
static const guest_t *guest;
static span_t *buckets[BUCKETS];
static uint32_t definitions;

static int active;
static span_t *current;              /* what runs now, not yet counted */
static uint64_t ends, ends_at_entry; /* last instructions of blocks begun: tells a block left early */
static span_t *first_touched, *last_touched;

_Noreturn static void fail(const char *what) {
    (void)fprintf(stderr, "blockcount: %s: %s\n", what, strerror(errno));
    exit(3);
}

static void *allocate(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (memory == NULL) {
        fail("allocating");
    }
    return memory;
}

/* Arm DDI0403E, A5.1 */
static uint32_t thumb_bytes(const uint8_t *code) { return code[1] >= 0xe8u ? 4u : 2u; }

/* RISC-V unprivileged ISA 20191213, section 1.5 */
static uint32_t riscv_bytes(const uint8_t *code) { return (code[0] & 3u) == 3u ? 4u : 2u; }

static uint32_t aarch64_bytes(const uint8_t *code) {
    (void)code;
    return 4u;
}

static const guest_t guests[] = {
    {"arm", thumb_bytes, 0x8040f3afu, 0x8041f3afu},
    {"riscv", riscv_bytes, 0x74002013u, 0x74102013u},
    {"aarch64", aarch64_bytes, 0xd503281fu, 0xd503283fu},
};

static uint32_t count_instructions(const uint8_t *code, uint32_t bytes) {
    uint32_t count = 0;
    for (uint32_t at = 0; at < bytes; at += guest->instruction_bytes(code + at)) {
        ++count;
    }
    return count;
}

/* qemu_plugin_insn_size() is 2 too many for the last Thumb instruction before one that crosses into the next
   page: QEMU's look-ahead for such a one is added to it. */
static uint32_t bytes_of(const struct qemu_plugin_insn *insn) {
    const uint32_t bytes = guest->instruction_bytes(qemu_plugin_insn_data(insn));
    const size_t seen = qemu_plugin_insn_size(insn);
    return bytes < seen ? bytes : (uint32_t)seen;
}

/* 0 begin, 1 end, -1 no marker */
static int marker_kind(const uint8_t *code, size_t bytes) {
    if (bytes != 4) {
        return -1;
    }
    const uint32_t word =
        (uint32_t)code[0] | (uint32_t)code[1] << 8 | (uint32_t)code[2] << 16 | (uint32_t)code[3] << 24;
    return word == guest->begin ? 0 : word == guest->end ? 1 : -1;
}

/* The span of this code at this address, made where it is new; NULL where it is empty. */
static span_t *span_of(uint64_t pc, const uint8_t *code, uint32_t bytes, int translated) {
    if (bytes == 0) {
        return NULL;
    }
    span_t **bucket = &buckets[(pc >> 1) % BUCKETS];
    span_t *span = NULL;
    for (span_t *other = *bucket; other != NULL && span == NULL; other = other->next) {
        if (other->pc == pc && other->bytes == bytes && memcmp(other->code, code, bytes) == 0) {
            span = other;
        }
    }
    if (span == NULL) {
        span = allocate(sizeof *span);
        span->code = allocate(bytes);
        memcpy(span->code, code, bytes);
        span->pc = pc;
        span->bytes = bytes;
        span->instructions = count_instructions(code, bytes);
        span->number = NEVER_WRITTEN;
        span->whole = span;
        span->next = *bucket;
        *bucket = span;
    }
    for (span_t *other = *bucket; other != NULL; other = other->next) {
        if (other->pc == pc && memcmp(other->code, code, other->bytes < bytes ? other->bytes : bytes) == 0) {
            if (other->whole->bytes > span->whole->bytes) {
                span->whole = other->whole;
            } else if (translated && other->whole->bytes < bytes) {
                other->whole = span;
            }
        }
    }
    return span;
}

static uint64_t end_of(const span_t *span) { return span->pc + span->bytes; }

static void count(span_t *span, int taken) {
    if (span == NULL) {
        return;
    }
    if (span->runs == 0) {
        span->touched = NULL;
        if (last_touched != NULL) {
            last_touched->touched = span;
        } else {
            first_touched = span;
        }
        last_touched = span;
    }
    ++span->runs;
    span->taken += (uint64_t)(taken != 0);
}

static void forget(void) {
    for (span_t *span = first_touched; span != NULL; span = span->touched) {
        span->runs = span->taken = 0;
    }
    first_touched = last_touched = NULL;
    current = NULL;
}

static void enter(span_t *span) {
    current = span;
    ends_at_entry = ends;
}

static void on_block(unsigned vcpu, void *data) {
    (void)vcpu;
    span_t *next = data;
    if (!active) {
        return;
    }
    span_t *ran = current;
    if (ran != NULL) {
        if (ends == ends_at_entry && next->pc > ran->pc && next->pc < end_of(ran)) {
            ran =
                span_of(ran->pc, ran->code, (uint32_t)(next->pc - ran->pc), 0); /* left early, resumes here */
        }
        if (next->pc == end_of(ran) && ran->whole != ran && end_of(ran->whole) == end_of(next)) {
            enter(ran->whole); /* the rest of a block whose start ran on its own */
            return;
        }
        count(ran, next->pc != end_of(ran));
    }
    enter(next);
}

static void on_begin(unsigned vcpu, void *data) {
    (void)vcpu;
    const marker_t *marker = data;
    const span_t *block = marker->block;
    const uint32_t skipped = (uint32_t)(marker->behind - block->pc);
    forget();
    active = 1;
    enter(span_of(marker->behind, block->code + skipped, block->bytes - skipped, 0));
}

static void put(const void *data, size_t bytes) {
    if (fwrite(data, 1, bytes, out) != bytes) {
        fail("writing");
    }
}

static void put_u32(uint32_t value) { put(&value, sizeof value); }

static void put_u64(uint64_t value) { put(&value, sizeof value); }

static void define(span_t *span) {
    if (span->number != NEVER_WRITTEN) {
        return;
    }
    span->number = definitions++;
    put("B", 1);
    put_u64(span->pc);
    put_u32(span->bytes);
    put_u32(span->instructions);
    put(span->code, span->bytes);
}

static void on_end(unsigned vcpu, void *data) {
    (void)vcpu;
    const marker_t *marker = data;
    if (!active) {
        return;
    }
    if (current != NULL && marker->pc > current->pc) {
        count(span_of(current->pc, current->code, (uint32_t)(marker->pc - current->pc), 0), 0);
    }
    uint32_t spans = 0;
    for (span_t *span = first_touched; span != NULL; span = span->touched) {
        define(span);
        ++spans;
    }
    put("R", 1);
    put_u32(spans);
    for (span_t *span = first_touched; span != NULL; span = span->touched) {
        put_u32(span->number);
        put_u64(span->runs);
        put_u64(span->taken);
    }
    if (fflush(out) != 0) {
        fail("writing");
    }
    forget();
    active = 0;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    const size_t instructions = qemu_plugin_tb_n_insns(tb);
    if (instructions == 0) {
        return;
    }
    struct qemu_plugin_insn *last = qemu_plugin_tb_get_insn(tb, instructions - 1);
    const uint64_t pc = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
    const uint32_t bytes = (uint32_t)(qemu_plugin_insn_vaddr(last) + bytes_of(last) - pc);
    uint8_t *code = allocate(bytes);
    for (size_t i = 0; i < instructions; ++i) {
        const struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        memcpy(code + (qemu_plugin_insn_vaddr(insn) - pc), qemu_plugin_insn_data(insn), bytes_of(insn));
    }
    span_t *block = span_of(pc, code, bytes, 1);
    free(code);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
    qemu_plugin_register_vcpu_insn_exec_inline(last, QEMU_PLUGIN_INLINE_ADD_U64, &ends, 1);
    for (size_t i = 0; i < instructions; ++i) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const int kind = marker_kind(qemu_plugin_insn_data(insn), bytes_of(insn));
        if (kind >= 0) {
            marker_t *marker = allocate(sizeof *marker);
            marker->block = block;
            marker->pc = qemu_plugin_insn_vaddr(insn);
            marker->behind = marker->pc + bytes_of(insn);
            qemu_plugin_register_vcpu_insn_exec_cb(insn, kind == 0 ? on_begin : on_end,
                                                   QEMU_PLUGIN_CB_NO_REGS, marker);
        }
    }
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    const char *path = NULL;
    for (int i = 0; i < argc; ++i) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            path = argv[i] + 4;
        } else {
            (void)fprintf(stderr, "blockcount: unknown argument %s\n", argv[i]);
            return -1;
        }
    }
    for (size_t i = 0; i < sizeof guests / sizeof guests[0]; ++i) {
        if (strncmp(info->target_name, guests[i].target, strlen(guests[i].target)) == 0) {
            guest = &guests[i];
        }
    }
    if (guest == NULL) {
        (void)fprintf(stderr, "blockcount: no markers known for %s\n", info->target_name);
        return -1;
    }
    if (path == NULL) {
        (void)fprintf(stderr, "blockcount: needs out=FILE\n");
        return -1;
    }
    out = fopen(path, "wb");
    if (out == NULL) {
        (void)fprintf(stderr, "blockcount: cannot write %s: %s\n", path, strerror(errno));
        return -1;
    }
    const uint32_t length = (uint32_t)strlen(info->target_name);
    put("EDGB", 4);
    put_u32(1);
    put_u32(length);
    put(info->target_name, length);
    if (fflush(out) != 0) {
        fail("writing");
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
