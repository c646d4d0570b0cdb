#include "frontend.h"

_Static_assert((-3 >> 1) == -2, "shifts of negative numbers must round down");

enum { HALF = FRONTEND_WINDOW / 2 };

/* value / 2^bits, rounded half up */
static inline int64_t shifted(int64_t value, int bits) {
    return (value + ((int64_t)1 << (bits - 1))) >> bits;
}

/* Complex transform of length HALF in place, radix 2, without scaling: values stay below 2^30. */
static void transform(int32_t *real, int32_t *imaginary) {
    for (int size = 2; size <= HALF; size *= 2) {
        const int step = FRONTEND_WINDOW / size;
        for (int k = 0; k < size / 2; k++) {
            const int64_t c = frontend_cos[k * step], s = frontend_sin[k * step];
            for (int i = k; i < HALF; i += size) {
                const int j = i + size / 2;
                const int32_t re = (int32_t)shifted(real[j] * c + imaginary[j] * s, FRONTEND_TWIDDLE_BITS);
                const int32_t im = (int32_t)shifted(imaginary[j] * c - real[j] * s, FRONTEND_TWIDDLE_BITS);
                real[j] = real[i] - re;
                imaginary[j] = imaginary[i] - im;
                real[i] += re;
                imaginary[i] += im;
            }
        }
    }
}

/* Power of frequency k (0..HALF) of the real signal whose even and odd samples were transformed together. */
static uint64_t power(const frontend_work_t *work, int k) {
    const int near = k % HALF, far = (HALF - k) % HALF;
    const int64_t c = k == HALF ? -((int64_t)1 << FRONTEND_TWIDDLE_BITS) : frontend_cos[near];
    const int64_t s = k == HALF ? 0 : frontend_sin[near];
    const int64_t sum_re = (int64_t)work->real[near] + work->real[far];
    const int64_t sum_im = (int64_t)work->imaginary[near] - work->imaginary[far];
    const int64_t diff_re = (int64_t)work->real[near] - work->real[far];
    const int64_t diff_im = (int64_t)work->imaginary[near] + work->imaginary[far];
    const int64_t re = sum_re + shifted(diff_im * c - diff_re * s, FRONTEND_TWIDDLE_BITS);
    const int64_t im = sum_im - shifted(diff_re * c + diff_im * s, FRONTEND_TWIDDLE_BITS);
    return (uint64_t)(re * re + im * im) >> FRONTEND_POWER_SHIFT;
}

/* log2(energy + floor): a table of 64 steps with linear interpolation */
static int32_t log_of(uint64_t energy) {
    enum { INNER = 16 - FRONTEND_LOG_TABLE_BITS };
    const uint64_t value = energy + FRONTEND_FLOOR;
    const int exponent = 63 - __builtin_clzll(value); /* takes the same time for every value */
    const uint32_t fraction = (uint32_t)(value >> (exponent - 16)) & 0xFFFFu;
    const uint32_t index = fraction >> INNER, between = fraction & ((1u << INNER) - 1u);
    const uint32_t mixed =
        frontend_log[index] * ((1u << INNER) - between) + frontend_log[index + 1] * between;
    enum { DROPPED = INNER + FRONTEND_LOG_ENTRY_BITS - FRONTEND_LOG_BITS };
    return (exponent << FRONTEND_LOG_BITS) + (int32_t)((mixed + (1u << (DROPPED - 1))) >> DROPPED);
}

void frontend_frame(frontend_work_t *work, const int16_t *samples, int row) {
    enum { DROPPED = FRONTEND_WINDOW_BITS - FRONTEND_SAMPLE_BITS };
    for (int i = 0; i < HALF; i++) {
        const int at = 2 * frontend_reversal[i];
        work->real[i] = (int32_t)shifted((int32_t)samples[at] * frontend_window[at], DROPPED);
        work->imaginary[i] = (int32_t)shifted((int32_t)samples[at + 1] * frontend_window[at + 1], DROPPED);
    }
    transform(work->real, work->imaginary);
    /* A frequency feeds two bands: its power is computed twice rather than kept, for want of memory. */
    for (int band = 0; band < FRONTEND_BANDS; band++) {
        uint64_t energy = 0;
        int k = frontend_mel_first[band];
        for (int i = frontend_mel_start[band]; i < frontend_mel_start[band + 1]; i++, k++)
            energy += power(work, k) * frontend_mel_weight[i];
        work->levels[row][band] = log_of(energy);
    }
}

void frontend_finish(frontend_work_t *work, int8_t *features) {
    int32_t reference = FRONTEND_REFERENCE;
#if FRONTEND_RELATIVE
    for (int row = 0; row < FRONTEND_FRAMES; row++)
        for (int band = 0; band < FRONTEND_BANDS; band++)
            if (work->levels[row][band] > reference)
                reference = work->levels[row][band];
#endif
    for (int row = 0; row < FRONTEND_FRAMES; row++) {
        for (int column = 0; column < FRONTEND_COLUMNS; column++) {
#if FRONTEND_COEFFICIENTS
            int64_t sum = 0;
            for (int band = 0; band < FRONTEND_BANDS; band++)
                sum += (int64_t)(work->levels[row][band] - reference) * frontend_dct[column][band];
            const int64_t level = shifted(sum, FRONTEND_DCT_BITS);
#else
            const int64_t level = work->levels[row][column] - reference;
#endif
            int64_t value =
                shifted(level * frontend_gain[column], FRONTEND_GAIN_BITS) + frontend_bias[column];
            value = value > 127 ? 127 : value < -128 ? -128 : value;
            *features++ = (int8_t)value;
        }
    }
}

void frontend_clip(frontend_work_t *work, const int16_t *samples, int8_t *features) {
    for (int row = 0; row < FRONTEND_FRAMES; row++)
        frontend_frame(work, samples + row * FRONTEND_HOP, row);
    frontend_finish(work, features);
}
