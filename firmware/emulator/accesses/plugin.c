/* QEMU TCG plugin: how often each load and store of marked regions reached one memory, and how often any.

   Arguments: out=FILE origin=ADDRESS bytes=COUNT, the memory.  At each end marker (firmware/port/marker.h, as
   for blockcount.c) one line is written and flushed: "pc:inside:all" for each instruction that accessed
   memory in the region, hexadecimal, with a space behind each. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../qemu_plugin_api.h"

#define BUCKETS 4096u
#define RISCV_BEGIN 0x74002013u
#define RISCV_END 0x74102013u

/* Of the same interface, beyond what qemu_plugin_api.h has. */
typedef uint32_t qemu_plugin_meminfo_t;
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_RW = 3 };
typedef void (*qemu_plugin_vcpu_mem_cb_t)(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address,
                                          void *data);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, qemu_plugin_vcpu_mem_cb_t callback,
                                      enum qemu_plugin_cb_flags flags, enum qemu_plugin_mem_rw rw,
                                      void *data);

typedef struct access {
    struct access *next;    /* in the hash bucket of pc */
    struct access *touched; /* in this region */
    uint64_t pc, inside, all;
} access_t;

__attribute__((visibility("default"))) extern int qemu_plugin_version;
__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
                                                               int argc, char **argv);
int qemu_plugin_version = 1;

static FILE *out;
static uint64_t origin, bytes;
static int active;
static access_t *buckets[BUCKETS], *touched;

_Noreturn static void fail(const char *what) {
    (void)fprintf(stderr, "accesses: %s: %s\n", what, strerror(errno));
    exit(3);
}

static void on_access(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
    (void)vcpu;
    (void)info;
    access_t *access = data;
    if (!active) {
        return;
    }
    if (access->all == 0) {
        access->touched = touched;
        touched = access;
    }
    ++access->all;
    access->inside += address - origin < bytes;
}

static void on_begin(unsigned vcpu, void *data) {
    (void)vcpu;
    (void)data;
    for (; touched != NULL; touched = touched->touched) { /* of a region that never ended */
        touched->inside = touched->all = 0;
    }
    active = 1;
}

static void on_end(unsigned vcpu, void *data) {
    (void)vcpu;
    (void)data;
    if (!active) {
        return;
    }
    active = 0;
    for (; touched != NULL; touched = touched->touched) {
        (void)fprintf(out, "%llx:%llx:%llx ", (unsigned long long)touched->pc,
                      (unsigned long long)touched->inside, (unsigned long long)touched->all);
        touched->inside = touched->all = 0;
    }
    (void)fputc('\n', out);
    if (fflush(out) != 0) {
        fail("writing");
    }
}

/* The one of `pc`; QEMU translates the same code again and again. */
static access_t *of_instruction(uint64_t pc) {
    access_t **bucket = &buckets[(pc >> 1) % BUCKETS];
    for (access_t *found = *bucket; found != NULL; found = found->next) {
        if (found->pc == pc) {
            return found;
        }
    }
    access_t *made = calloc(1, sizeof *made);
    if (made == NULL) {
        fail("allocating");
    }
    made->pc = pc;
    made->next = *bucket;
    *bucket = made;
    return made;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    const size_t instructions = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < instructions; ++i) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint8_t *code = qemu_plugin_insn_data(insn);
        qemu_plugin_register_vcpu_mem_cb(insn, on_access, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW,
                                         of_instruction(qemu_plugin_insn_vaddr(insn)));
        if ((code[0] & 3u) != 3u) { /* RISC-V unprivileged ISA 20191213, section 1.5: 16 bits */
            continue;
        }
        const uint32_t word =
            (uint32_t)code[0] | (uint32_t)code[1] << 8 | (uint32_t)code[2] << 16 | (uint32_t)code[3] << 24;
        if (word == RISCV_BEGIN || word == RISCV_END) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, word == RISCV_BEGIN ? on_begin : on_end,
                                                   QEMU_PLUGIN_CB_NO_REGS, NULL);
        }
    }
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    const char *path = NULL;
    for (int i = 0; i < argc; ++i) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            path = argv[i] + 4;
        } else if (strncmp(argv[i], "origin=", 7) == 0) {
            origin = strtoull(argv[i] + 7, NULL, 0);
        } else if (strncmp(argv[i], "bytes=", 6) == 0) {
            bytes = strtoull(argv[i] + 6, NULL, 0);
        } else {
            (void)fprintf(stderr, "accesses: unknown argument %s\n", argv[i]);
            return -1;
        }
    }
    if (path == NULL || bytes == 0 || strncmp(info->target_name, "riscv", 5) != 0) {
        (void)fprintf(stderr, "accesses: needs out=FILE, origin=, bytes= and a RISC-V target\n");
        return -1;
    }
    out = fopen(path, "wb");
    if (out == NULL) {
        fail(path);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
