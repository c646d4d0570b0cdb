/* What the C library asks of an operating system. Nothing of it is ever needed: there is no heap and no file;
 * an assertion that fails ends in abort. */
#include <stddef.h>

#include "port.h"

_Noreturn void abort(void);
_Noreturn void __assert_func(const char *file, int line, const char *function, const char *expression);
void *_sbrk(ptrdiff_t count);
int _write(int file, const char *data, int count);
int _read(int file, char *data, int count);
int _close(int file);
int _lseek(int file, int offset, int whence);
int _fstat(int file, void *state);
int _isatty(int file);
int _getpid(void);
int _kill(int process, int signal);
_Noreturn void _exit(int status);

/* A fault, so that the next HELLO tells where. */
_Noreturn void abort(void) { __builtin_trap(); }

_Noreturn void __assert_func(const char *file, int line, const char *function, const char *expression) {
    (void)file, (void)line, (void)function, (void)expression;
    __builtin_trap();
}

_Noreturn void _exit(int status) {
    (void)status;
    port_reset();
}

void *_sbrk(ptrdiff_t count) {
    (void)count;
    return (void *)-1;
}

int _write(int file, const char *data, int count) {
    (void)file, (void)data;
    return count;
}

int _read(int file, char *data, int count) {
    (void)file, (void)data, (void)count;
    return 0;
}

int _close(int file) {
    (void)file;
    return -1;
}

int _lseek(int file, int offset, int whence) {
    (void)file, (void)offset, (void)whence;
    return 0;
}

int _fstat(int file, void *state) {
    (void)file, (void)state;
    return -1;
}

int _isatty(int file) {
    (void)file;
    return 1;
}

int _getpid(void) { return 1; }

int _kill(int process, int signal) {
    (void)process, (void)signal;
    return -1;
}
