/* Audio front end: 16-bit PCM to the network's int8 input, in integer arithmetic.
 *
 * The same definition in Python is pipeline/frontend/spectrum.py; the two agree bit for bit. */
#ifndef FRONTEND_H
#define FRONTEND_H

#include <stdint.h>

#include "frontend_config.h"

typedef struct {
    int32_t real[FRONTEND_WINDOW / 2];
    int32_t imaginary[FRONTEND_WINDOW / 2];
    int32_t levels[FRONTEND_FRAMES][FRONTEND_BANDS];
} frontend_work_t;

/* Log energies of one frame of FRONTEND_WINDOW samples, in units of 2^-FRONTEND_LOG_BITS octaves. A frame can
 * be taken in while the next is being recorded; `row` says which one it is. */
void frontend_frame(frontend_work_t *work, const int16_t *samples, int row);

/* The features (FRONTEND_FRAMES x FRONTEND_COLUMNS) once all frames are in. */
void frontend_finish(frontend_work_t *work, int8_t *features);

/* Both, for a clip of FRONTEND_SAMPLES samples. */
void frontend_clip(frontend_work_t *work, const int16_t *samples, int8_t *features);

extern const int16_t frontend_window[FRONTEND_WINDOW];
extern const int32_t frontend_cos[FRONTEND_WINDOW / 2];
extern const int32_t frontend_sin[FRONTEND_WINDOW / 2];
extern const uint16_t frontend_reversal[FRONTEND_WINDOW / 2];
extern const uint16_t frontend_mel_first[FRONTEND_BANDS];
extern const uint16_t frontend_mel_start[FRONTEND_BANDS + 1];
extern const uint16_t frontend_mel_weight[FRONTEND_MEL_WEIGHTS];
extern const uint16_t frontend_log[(1 << FRONTEND_LOG_TABLE_BITS) + 1];
#if FRONTEND_COEFFICIENTS
extern const int16_t frontend_dct[FRONTEND_COEFFICIENTS][FRONTEND_BANDS];
#endif
extern const int32_t frontend_gain[FRONTEND_COLUMNS];
extern const int8_t frontend_bias[FRONTEND_COLUMNS];

#endif
