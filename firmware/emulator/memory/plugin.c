/* QEMU TCG plugin: a memory system (system.h) that sees what a Cortex-M executes and loads, in order.

   Arguments: out=FILE, and system=FILE (a description) once or several times: all see the same run, and their
   parts of instruction lines must be as wide.  It runs from reset on, so that a region finds the caches as
   the code before it left them. At each end marker (firmware/port/marker.h, as for blockcount.c) one line is
   written and flushed: the region's counts in the order of memory_counts_t. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../qemu_plugin_api.h"
#include "system.h"

#define BUCKETS 4096u
#define LONGEST_DESCRIPTION 4096u
#define MOST_SYSTEMS 8
#define THUMB_BEGIN 0x8040f3afu
#define THUMB_END 0x8041f3afu

/* Of the same interface, beyond what qemu_plugin_api.h has. */
typedef uint32_t qemu_plugin_meminfo_t;
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_RW = 3 };
typedef void (*qemu_plugin_vcpu_mem_cb_t)(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address,
                                          void *data);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, qemu_plugin_vcpu_mem_cb_t callback,
                                      enum qemu_plugin_cb_flags flags, enum qemu_plugin_mem_rw rw,
                                      void *data);
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t info);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t info);

/* Instructions that lie in parts of lines from `first` to `last`, none of which the one before began in. */
typedef struct stretch {
    struct stretch *next;
    uint64_t first, last;
    uint32_t instructions;
} stretch_t;

__attribute__((visibility("default"))) extern int qemu_plugin_version;
__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
                                                               int argc, char **argv);
int qemu_plugin_version = 1;

static FILE *out;
static memory_system_t *systems[MOST_SYSTEMS];
static memory_counts_t at_begin[MOST_SYSTEMS];
static int count;
static int active;
static stretch_t *buckets[BUCKETS];

_Noreturn static void fail(const char *what) {
    (void)fprintf(stderr, "memory: %s: %s\n", what, strerror(errno));
    exit(3);
}

static void on_stretch(unsigned vcpu, void *data) {
    (void)vcpu;
    const stretch_t *stretch = data;
    for (int i = 0; i < count; ++i) {
        memory_fetch(systems[i], stretch->first, stretch->last, stretch->instructions);
    }
}

static void on_access(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
    (void)vcpu;
    (void)data;
    const uint32_t bytes = 1u << qemu_plugin_mem_size_shift(info);
    const int store = qemu_plugin_mem_is_store(info);
    for (int i = 0; i < count; ++i) {
        memory_data(systems[i], address, bytes, store);
    }
}

static void on_begin(unsigned vcpu, void *data) {
    (void)vcpu;
    (void)data;
    for (int i = 0; i < count; ++i) {
        memory_counts(systems[i], &at_begin[i]);
    }
    active = 1;
}

static void on_end(unsigned vcpu, void *data) {
    (void)vcpu;
    (void)data;
    if (!active) {
        return;
    }
    for (int i = 0; i < count; ++i) {
        memory_counts_t now;
        memory_counts(systems[i], &now);
        const uint64_t *before = (const uint64_t *)&at_begin[i], *after = (const uint64_t *)&now;
        for (size_t j = 0; j < sizeof now / sizeof *after; ++j) {
            (void)fprintf(out, j == 0 ? "%llu" : " %llu", (unsigned long long)(after[j] - before[j]));
        }
        (void)fputc('\n', out);
    }
    if (fflush(out) != 0) {
        fail("writing");
    }
    active = 0;
}

/* As `wanted`; QEMU translates the same code again and again, so equal ones are shared. */
static stretch_t *shared(const stretch_t *wanted) {
    stretch_t **bucket = &buckets[(wanted->first >> 1 ^ wanted->instructions) % BUCKETS];
    for (stretch_t *found = *bucket; found != NULL; found = found->next) {
        if (found->first == wanted->first && found->last == wanted->last &&
            found->instructions == wanted->instructions) {
            return found;
        }
    }
    stretch_t *made = malloc(sizeof *made);
    if (made == NULL) {
        fail("allocating");
    }
    *made = *wanted;
    made->next = *bucket;
    *bucket = made;
    return made;
}

static void watch_marker(struct qemu_plugin_insn *insn, uint32_t bytes) {
    const uint8_t *code = qemu_plugin_insn_data(insn);
    if (bytes != 4) {
        return;
    }
    const uint32_t word =
        (uint32_t)code[0] | (uint32_t)code[1] << 8 | (uint32_t)code[2] << 16 | (uint32_t)code[3] << 24;
    if (word == THUMB_BEGIN || word == THUMB_END) {
        qemu_plugin_register_vcpu_insn_exec_cb(insn, word == THUMB_BEGIN ? on_begin : on_end,
                                               QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    const size_t instructions = qemu_plugin_tb_n_insns(tb);
    const uint64_t width = memory_fetch_bytes(systems[0]);
    struct qemu_plugin_insn *start = NULL; /* of the stretch that is being gathered */
    stretch_t stretch = {0};
    for (size_t i = 0; i < instructions; ++i) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint64_t pc = qemu_plugin_insn_vaddr(insn);
        const uint8_t *code = qemu_plugin_insn_data(insn);
        const uint32_t bytes = code[1] >= 0xe8u ? 4u : 2u; /* Arm DDI0403E, A5.1 */
        const uint64_t last = pc + bytes - 1u;
        if (start == NULL || last / width != stretch.last / width) {
            if (start != NULL) {
                qemu_plugin_register_vcpu_insn_exec_cb(start, on_stretch, QEMU_PLUGIN_CB_NO_REGS,
                                                       shared(&stretch));
            }
            start = insn;
            stretch = (stretch_t){.first = pc, .last = last};
        }
        ++stretch.instructions;
        qemu_plugin_register_vcpu_mem_cb(insn, on_access, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
    }
    if (start != NULL) {
        qemu_plugin_register_vcpu_insn_exec_cb(start, on_stretch, QEMU_PLUGIN_CB_NO_REGS, shared(&stretch));
    }
    for (size_t i = 0; i < instructions; ++i) { /* behind the fetches in each instruction's list */
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint8_t *code = qemu_plugin_insn_data(insn);
        watch_marker(insn, code[1] >= 0xe8u ? 4u : 2u);
    }
}

static memory_system_t *described(const char *path) {
    static char text[LONGEST_DESCRIPTION];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail(path);
    }
    const size_t length = fread(text, 1, sizeof text - 1u, file);
    (void)fclose(file);
    text[length] = '\0';
    return memory_system_new(text);
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    const char *path = NULL;
    for (int i = 0; i < argc; ++i) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            path = argv[i] + 4;
        } else if (strncmp(argv[i], "system=", 7) == 0) {
            memory_system_t *system = count < MOST_SYSTEMS ? described(argv[i] + 7) : NULL;
            if (system == NULL ||
                (count > 0 && memory_fetch_bytes(system) != memory_fetch_bytes(systems[0]))) {
                (void)fprintf(stderr, "memory: no such memory system, or one too many: %s\n", argv[i] + 7);
                return -1;
            }
            systems[count++] = system;
        } else {
            (void)fprintf(stderr, "memory: unknown argument %s\n", argv[i]);
            return -1;
        }
    }
    if (path == NULL || count == 0 || strcmp(info->target_name, "arm") != 0) {
        (void)fprintf(stderr, "memory: needs out=FILE and system=FILE, and a Cortex-M\n");
        return -1;
    }
    out = fopen(path, "wb");
    if (out == NULL) {
        fail(path);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
