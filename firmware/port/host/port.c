/* The firmware as a process under Linux, on this machine or another. Bytes come and go through the file
 * descriptor in EDGENAS_WIRE_FD, or through standard input and output. Time is the system's, not the core's
 * cycles. */
#define _GNU_SOURCE /* names of the registers in a ucontext_t */

#include "port.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "board.h"

#define TICK_NS (1000000000u / BOARD_COUNTER_HZ)
#define STACK_PAINT 0xA5A5A5A5u
#define HANDLER_STACK_BYTES 65536u /* its frame holds all vector registers */

/* A fault survives the restart in the environment: the words of port_fault_t, eight digits each. */
#define FAULT_NAME "EDGENAS_FAULT"
#define FAULT_WORDS (sizeof(port_fault_t) / sizeof(uint32_t))
#define FAULT_PREFIX_BYTES (sizeof FAULT_NAME) /* the '=' in place of the final 0 */
static char fault_entry[FAULT_PREFIX_BYTES + 8u * FAULT_WORDS + 1u];

static int in_fd = STDIN_FILENO, out_fd = STDOUT_FILENO;
static int running; /* whether the counter was read since its start */
static uint64_t started_ns, clock_ns;
static uint32_t phase_ns, next_phase_ns;
static uintptr_t stack_low; /* lowest painted address */
static port_fault_t last_fault;

/* set by the linker and the C library for every program */
extern char __executable_start, data_start, edata, end;

/* The same program again, in the same process and on the same descriptors. */
static void restart(void) {
    char *arguments[] = {(char *)"firmware", NULL};
    (void)execv("/proc/self/exe", arguments);
}

static void take_last_fault(void) {
    const char *text = getenv(FAULT_NAME);
    if (text != NULL && strlen(text) == 8u * FAULT_WORDS) {
        uint32_t words[FAULT_WORDS];
        for (size_t i = 0; i < FAULT_WORDS; ++i) {
            char digits[9] = {0};
            memcpy(digits, text + 8u * i, 8u);
            words[i] = (uint32_t)strtoul(digits, NULL, 16);
        }
        memcpy(&last_fault, words, sizeof last_fault);
    }
    memset(fault_entry, '0', sizeof fault_entry - 1u);
    memcpy(fault_entry, FAULT_NAME "=", FAULT_PREFIX_BYTES);
    (void)putenv(fault_entry); /* not a copy: what on_fault writes is what the next start finds */
}

#if !defined(__SANITIZE_ADDRESS__) /* whose own report says more */
/* Addresses are cut to 32 bits, which hold all of the program's own (it is linked at a fixed place). */
static port_fault_t describe_fault(int number, const siginfo_t *info, const ucontext_t *context) {
    port_fault_t fault = {
        .status = (uint32_t)number,
        .status2 = (uint32_t)info->si_code,
        .address = (uint32_t)(uintptr_t)info->si_addr,
    };
#if defined(__x86_64__)
    fault.pc = (uint32_t)context->uc_mcontext.gregs[REG_RIP];
    fault.sp = (uint32_t)context->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    fault.pc = (uint32_t)context->uc_mcontext.pc;
    fault.lr = (uint32_t)context->uc_mcontext.regs[30];
    fault.sp = (uint32_t)context->uc_mcontext.sp;
#else
    (void)context;
#endif
    return fault;
}

/* Only what a signal handler may call. Where the restart fails, the instruction faults again on return, and
 * then ends the process. */
static void on_fault(int number, siginfo_t *info, void *context) {
    const port_fault_t fault = describe_fault(number, info, context);
    uint32_t words[FAULT_WORDS];
    memcpy(words, &fault, sizeof words);
    for (size_t i = 0; i < 8u * FAULT_WORDS; ++i) {
        fault_entry[FAULT_PREFIX_BYTES + i] =
            "0123456789abcdef"[words[i / 8u] >> (28u - 4u * (i % 8u)) & 15u];
    }
    restart();
}

static void catch_faults(void) {
    /* a stack of the handler's own: the other may be what overflowed; not static, to be none of the
     * firmware's */
    const stack_t own = {.ss_sp = malloc(HANDLER_STACK_BYTES), .ss_size = HANDLER_STACK_BYTES};
    if (own.ss_sp != NULL) {
        (void)sigaltstack(&own, NULL);
    }
    /* the signal stays unblocked, else the restarted program could not catch it */
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | (int)SA_RESETHAND};
    action.sa_sigaction = on_fault;
    const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; ++i) {
        (void)sigaction(signals[i], &action, NULL);
    }
}
#else
static void catch_faults(void) {}
#endif

static uint64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* What reading the clock takes at least. */
static void measure_clock(void) {
    clock_ns = UINT64_MAX;
    for (int i = 0; i < 1000; ++i) {
        const uint64_t before = now_ns(), cost = now_ns() - before;
        clock_ns = cost < clock_ns ? cost : clock_ns;
    }
}

/* What lies below the caller's frame, which is where everything the firmware calls will put its own. */
__attribute__((noinline)) static void paint_stack(void) {
    volatile uint32_t room[BOARD_STACK_BYTES / sizeof(uint32_t)];
    for (size_t i = 0; i < BOARD_STACK_BYTES / sizeof(uint32_t); ++i) {
        room[i] = STACK_PAINT;
    }
    stack_low = (uintptr_t)room;
}

void port_init(void) {
    const char *number = getenv("EDGENAS_WIRE_FD");
    if (number != NULL) {
        in_fd = out_fd = atoi(number);
    }
    take_last_fault();
    catch_faults();
    measure_clock();
    paint_stack();
}

uint8_t port_uart_read(void) {
    static uint8_t buffer[4096];
    static ssize_t held, next;
    if (next == held) {
        held = read(in_fd, buffer, sizeof buffer);
        next = 0;
        if (held <= 0) {
            exit(0); /* the other end is gone */
        }
    }
    return buffer[next++];
}

void port_uart_write(const uint8_t *data, size_t count) {
    while (count > 0u) {
        const ssize_t sent = write(out_fd, data, count);
        if (sent <= 0) {
            exit(0);
        }
        data += sent;
        count -= (size_t)sent;
    }
}

void port_counter_start(void) { running = 0; }

/* The first reading is 0, and the clock's own time is left out: an empty region takes no tick, and nothing
 * that is measured takes less. Later regions start at other places within a tick, so that many short ones
 * together have the right length. */
uint32_t port_counter_read(void) {
    const uint64_t now = now_ns();
    if (!running) {
        running = 1;
        phase_ns = next_phase_ns;
        next_phase_ns = (next_phase_ns + 61u) % TICK_NS;
        started_ns = now_ns();
        return 0;
    }
    const uint64_t elapsed = now - started_ns;
    return (uint32_t)(((elapsed > clock_ns ? elapsed - clock_ns : 0u) + phase_ns) / TICK_NS);
}

void port_counter_stop(void) {}

/* Initialized and zeroed data together; the heap and the stack are the system's to grow. */
uint32_t port_static_bytes(void) { return (uint32_t)((uintptr_t)&end - (uintptr_t)&data_start); }

uint32_t port_flash_bytes(void) { return (uint32_t)((uintptr_t)&edata - (uintptr_t)&__executable_start); }
uint32_t port_stack_reserve(void) { return BOARD_STACK_BYTES; }

/* The C library's functions included, as far as the firmware calls them. */
uint32_t port_stack_used(void) {
    const volatile uint32_t *word = (const volatile uint32_t *)stack_low;
    uint32_t left = BOARD_STACK_BYTES / sizeof(uint32_t);
    for (; left > 0u && *word == STACK_PAINT; ++word) {
        --left;
    }
    return left * (uint32_t)sizeof(uint32_t);
}

const port_fault_t *port_fault(void) { return &last_fault; }

_Noreturn void port_reset(void) {
    restart();
    exit(1);
}
