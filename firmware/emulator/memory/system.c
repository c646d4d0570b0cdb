#include "system.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CYCLE 256u
#define MOST_WINDOWS 8
#define NOWHERE UINT64_MAX

typedef struct {
    uint64_t line;  /* its address over the line's length */
    uint64_t parts; /* that are there, a bit each; 0: the way is empty */
    uint64_t used;  /* when last */
    int dirty;
} way_t;

typedef struct {
    uint32_t line_bytes, fill_bytes, sets, ways;
    int random;
    uint64_t clock, seed;
    way_t *way;
} cache_t;

typedef struct {
    uint64_t origin, bytes, wait, busy;
    int allocate;
} window_t;

enum { PREFETCH_NONE, PREFETCH_KEPT, PREFETCH_EAGER };

struct memory_system {
    cache_t instructions, data;
    window_t windows[MOST_WINDOWS];
    int window_count, prefetch;
    uint64_t rate, now, port_free;
    uint64_t current;               /* part that the core takes instructions from */
    uint64_t ahead, ahead_is_there; /* part read ahead, and when it arrives */
    memory_counts_t counts;
};

static const window_t *window_of(const memory_system_t *s, uint64_t address) {
    for (int i = 0; i < s->window_count; ++i) {
        if (address - s->windows[i].origin < s->windows[i].bytes) {
            return &s->windows[i];
        }
    }
    return NULL;
}

/* -- caches ------------------------------------------------------------------------------------------------
 */

static way_t *find_line(const cache_t *cache, uint64_t line) {
    if (cache->sets == 0) {
        return NULL;
    }
    way_t *set = cache->way + (size_t)(line % cache->sets) * cache->ways;
    for (uint32_t i = 0; i < cache->ways; ++i) {
        if (set[i].parts != 0 && set[i].line == line) {
            return &set[i];
        }
    }
    return NULL;
}

static uint64_t part_bit(const cache_t *cache, uint64_t address) {
    return (uint64_t)1 << (address % cache->line_bytes / cache->fill_bytes);
}

/* The way with the part of `address`, now the last used; NULL where it is not there. */
static way_t *hit(cache_t *cache, uint64_t address) {
    way_t *way = find_line(cache, address / (cache->line_bytes ? cache->line_bytes : 1u));
    if (way == NULL || (way->parts & part_bit(cache, address)) == 0) {
        return NULL;
    }
    way->used = ++cache->clock;
    return way;
}

/* xorshift64 (Marsaglia, Journal of Statistical Software 8:14, 2003) */
static uint64_t next_random(cache_t *cache) {
    cache->seed ^= cache->seed << 13;
    cache->seed ^= cache->seed >> 7;
    cache->seed ^= cache->seed << 17;
    return cache->seed;
}

/* The first empty way, else by the replacement policy. */
static way_t *victim(cache_t *cache, uint64_t line) {
    way_t *set = cache->way + (size_t)(line % cache->sets) * cache->ways;
    way_t *oldest = set;
    for (uint32_t i = 0; i < cache->ways; ++i) {
        if (set[i].parts == 0) {
            return &set[i];
        }
        if (set[i].used < oldest->used) {
            oldest = &set[i];
        }
    }
    return cache->random ? set + next_random(cache) % cache->ways : oldest;
}

/* Takes the part of `address` in, now the last used; whether a changed line had to go. NULL without a cache.
 */
static way_t *insert(cache_t *cache, uint64_t address, int *written_back) {
    *written_back = 0;
    if (cache->sets == 0) {
        return NULL;
    }
    const uint64_t line = address / cache->line_bytes;
    way_t *way = find_line(cache, line);
    if (way == NULL) {
        way = victim(cache, line);
        *written_back = way->parts != 0 && way->dirty;
        way->line = line;
        way->parts = 0;
        way->dirty = 0;
    }
    way->parts |= part_bit(cache, address);
    way->used = ++cache->clock;
    return way;
}

/* -- the port ----------------------------------------------------------------------------------------------
 */

/* Begins a read as soon as the port is free; when what was asked for is there. */
static uint64_t begin_read(memory_system_t *s, const window_t *window) {
    const uint64_t start = s->now > s->port_free ? s->now : s->port_free;
    s->port_free = start + window->busy;
    return start + window->wait;
}

static uint64_t wait_until(memory_system_t *s, uint64_t time) {
    const uint64_t stall = time > s->now ? time - s->now : 0u;
    s->now += stall;
    return stall;
}

/* -- instructions ------------------------------------------------------------------------------------------
 */

static void prefetch(memory_system_t *s, uint64_t part) {
    const window_t *window = window_of(s, part);
    if (s->prefetch == PREFETCH_NONE || window == NULL) {
        return;
    }
    const way_t *way = find_line(&s->instructions, part / s->instructions.line_bytes);
    if (way != NULL && (way->parts & part_bit(&s->instructions, part)) != 0) {
        return;
    }
    if (s->ahead != part) {
        s->ahead = part;
        s->ahead_is_there = begin_read(s, window);
    }
}

static void fetch_part(memory_system_t *s, uint64_t part) {
    int written_back;
    const uint64_t behind = part + s->instructions.fill_bytes;
    const window_t *window = window_of(s, part);
    if (part == s->current || window == NULL) {
        s->current = part;
        return;
    }
    s->current = part;
    ++s->counts.fetches;
    if (hit(&s->instructions, part) != NULL) {
        if (s->prefetch == PREFETCH_EAGER) {
            prefetch(s, behind);
        }
        return;
    }
    if (part == s->ahead) {
        ++s->counts.prefetched;
        s->counts.fetch_stall += wait_until(s, s->ahead_is_there);
        s->ahead = NOWHERE;
    } else {
        ++s->counts.fetch_misses;
        s->counts.fetch_stall += wait_until(s, begin_read(s, window));
    }
    insert(&s->instructions, part, &written_back);
    prefetch(s, behind);
}

void memory_fetch(memory_system_t *s, uint64_t first, uint64_t last, uint32_t instructions) {
    const uint64_t width = s->instructions.fill_bytes;
    for (uint64_t part = first - first % width; part <= last; part += width) {
        fetch_part(s, part);
    }
    s->now += s->rate * instructions;
}

uint32_t memory_fetch_bytes(const memory_system_t *s) { return s->instructions.fill_bytes; }

/* -- data --------------------------------------------------------------------------------------------------
 */

static void data_part(memory_system_t *s, const window_t *window, uint64_t address, int store) {
    int written_back;
    way_t *way = hit(&s->data, address);
    if (way == NULL) {
        if (store) {
            ++s->counts.write_misses;
        } else {
            ++s->counts.read_misses;
        }
        if (store && !window->allocate) {
            return; /* a write buffer takes it */
        }
        const uint64_t there = begin_read(s, window);
        if (!store) {
            s->counts.data_stall += wait_until(s, there);
        }
        way = insert(&s->data, address, &written_back);
        if (written_back) {
            ++s->counts.writebacks;
            s->port_free += window->busy - window->wait; /* its beats follow those of the fill */
        }
    }
    if (way != NULL && store && window->allocate) {
        way->dirty = 1;
    }
}

void memory_data(memory_system_t *s, uint64_t address, uint32_t bytes, int store) {
    const window_t *window = window_of(s, address);
    if (window == NULL || bytes == 0) {
        return;
    }
    if (store) {
        ++s->counts.writes;
    } else {
        ++s->counts.reads;
    }
    const uint64_t width = s->data.fill_bytes;
    for (uint64_t part = address - address % width; part < address + bytes; part += width) {
        data_part(s, window, part, store);
    }
}

void memory_counts(const memory_system_t *s, memory_counts_t *counts) { *counts = s->counts; }

/* -- description -------------------------------------------------------------------------------------------
 */

static int power_of_two(uint32_t value) { return value != 0 && (value & (value - 1u)) == 0; }

static int read_cache(cache_t *cache, const char *line) {
    char replacement[16];
    uint32_t lines, ways;
    if (sscanf(line, "%*s %u %u %u %u %15s", &lines, &cache->line_bytes, &cache->fill_bytes, &ways,
               replacement) != 5 ||
        !power_of_two(cache->line_bytes) || !power_of_two(cache->fill_bytes) ||
        cache->fill_bytes > cache->line_bytes || cache->line_bytes / cache->fill_bytes > 64u) {
        return 0;
    }
    cache->random = strcmp(replacement, "random") == 0;
    if (!cache->random && strcmp(replacement, "lru") != 0) {
        return 0;
    }
    cache->ways = ways == 0 ? lines : ways;
    if (lines == 0) {
        return 1;
    }
    cache->sets = lines / cache->ways;
    cache->seed = 0x9e3779b97f4a7c15u;
    cache->way = cache->sets * cache->ways == lines ? calloc(lines, sizeof *cache->way) : NULL;
    return cache->way != NULL;
}

static int read_window(memory_system_t *s, const char *line) {
    unsigned long long origin, bytes, wait, busy;
    int allocate;
    if (s->window_count == MOST_WINDOWS ||
        sscanf(line, "%*s %lli %lli %lli %lli %i", (long long *)&origin, (long long *)&bytes,
               (long long *)&wait, (long long *)&busy, &allocate) != 5 ||
        busy < wait) {
        return 0;
    }
    s->windows[s->window_count++] = (window_t){origin, bytes, wait * CYCLE, busy * CYCLE, allocate};
    return 1;
}

static int read_line(memory_system_t *s, const char *line) {
    char word[16] = "", value[16] = "";
    if (sscanf(line, "%15s %15s", word, value) < 1) {
        return 1;
    }
    if (strcmp(word, "icache") == 0) {
        return read_cache(&s->instructions, line);
    }
    if (strcmp(word, "dcache") == 0) {
        return read_cache(&s->data, line);
    }
    if (strcmp(word, "window") == 0) {
        return read_window(s, line);
    }
    if (strcmp(word, "rate") == 0) {
        s->rate = strtoull(value, NULL, 0);
        return 1;
    }
    if (strcmp(word, "prefetch") == 0) {
        static const char *const names[] = {"none", "kept", "eager"};
        for (int i = 0; i < 3; ++i) {
            if (strcmp(value, names[i]) == 0) {
                s->prefetch = i;
                return 1;
            }
        }
    }
    return 0;
}

memory_system_t *memory_system_new(const char *text) {
    memory_system_t *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    s->rate = CYCLE;
    s->current = s->ahead = NOWHERE;
    int good = 1;
    for (const char *line = text; good && *line != '\0';) {
        char copy[128];
        const size_t length = strcspn(line, "\n");
        good = length < sizeof copy;
        if (good) {
            memcpy(copy, line, length);
            copy[length] = '\0';
            good = read_line(s, copy);
        }
        line += length + (line[length] == '\n');
    }
    if (!good || s->instructions.fill_bytes == 0 || s->data.fill_bytes == 0) {
        memory_system_free(s);
        return NULL;
    }
    return s;
}

void memory_system_free(memory_system_t *s) {
    free(s->instructions.way);
    free(s->data.way);
    free(s);
}
