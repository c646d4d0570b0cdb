/* A memory system in front of slow memories: what a core waits for instructions and data.

   Two caches (instructions, data), each with its own geometry, share one port to the memories behind them. A
   line is filled in parts of `fill_bytes`, as wide as one read (a whole line where that is as wide). What one
   read takes is told by the window that the address lies in; what lies in no window answers at once.

   Time passes by executed instructions, at a fixed rate, and by waiting. No decision depends on it (what is
   cached, evicted or prefetched follows from the order of addresses alone), so that slower memories never
   make anything faster. Times are in 1/256 of a core cycle. */
#ifndef EDGENAS_MEMORY_SYSTEM_H
#define EDGENAS_MEMORY_SYSTEM_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EDGENAS_EXPORT __attribute__((visibility("default")))
#else
#define EDGENAS_EXPORT
#endif

typedef struct {
    uint64_t fetch_stall, data_stall; /* 1/256 cycles waited */
    uint64_t fetches, fetch_misses;   /* parts of lines that were entered; that were read from the memory */
    uint64_t prefetched;              /* that had been read ahead */
    uint64_t reads, read_misses;      /* data, within a window */
    uint64_t writes, write_misses;
    uint64_t writebacks;
} memory_counts_t;

typedef struct memory_system memory_system_t;

/* `text` has a line for each part, numbers in any of C's notations:

   icache LINES LINE_BYTES FILL_BYTES WAYS REPLACEMENT, dcache the same: LINES 0, there is none; WAYS 0, fully
   associative; REPLACEMENT lru or random.

   prefetch none, kept or eager: of the part behind one that was read; eager: also behind one that was cached.

   window ORIGIN BYTES WAIT BUSY ALLOCATE: WAIT cycles until what was asked for is there, BUSY until the next
   read can begin; ALLOCATE 1: stores fill a line.

   rate CYCLES_256: that an instruction takes.

   NULL where it is not that (or no memory is left). */
EDGENAS_EXPORT memory_system_t *memory_system_new(const char *text);
EDGENAS_EXPORT void memory_system_free(memory_system_t *system);

/* The core takes instructions from the parts of lines from that of `first` to that of `last`, then runs so
 * many. */
EDGENAS_EXPORT void memory_fetch(memory_system_t *system, uint64_t first, uint64_t last,
                                 uint32_t instructions);
EDGENAS_EXPORT void memory_data(memory_system_t *system, uint64_t address, uint32_t bytes, int store);
EDGENAS_EXPORT void memory_counts(const memory_system_t *system, memory_counts_t *counts);
EDGENAS_EXPORT uint32_t
memory_fetch_bytes(const memory_system_t *system); /* of a part of an instruction line */

#endif
