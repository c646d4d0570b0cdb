/* TensorFlow Lite Micro's interpreter behind a C interface; one model at a time. */
#ifndef EDGENAS_TFLM_INTERPRETER_H
#define EDGENAS_TFLM_INTERPRETER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TFLM_OK = 0,
    TFLM_WRONG_SCHEMA = 1,  /* the file's version is not the library's */
    TFLM_NOT_ALLOCATED = 2, /* the arena is too small, or an operator is missing or cannot be prepared */
    TFLM_WRONG_TENSORS = 3, /* not one INT8 input and one INT8 output */
    TFLM_NOT_INVOKED = 4,   /* a kernel failed */
    TFLM_NO_PROFILER = 5,   /* the library was built without its profiler's hooks */
};

typedef struct {
    uint32_t arena_used_bytes, input_bytes, output_bytes, layers;
    int8_t *input;
    const int8_t *output;
} tflm_model_t;

/* Makes `model` (aligned to 16) ready in `arena` (likewise); both must stay as they are until the next call.
 * Returns TFLM_*. */
uint32_t tflm_prepare(const uint8_t *model, uint8_t *arena, size_t arena_bytes, tflm_model_t *prepared);

/* One inference with the model prepared last. Returns TFLM_*. */
uint32_t tflm_invoke(void);

/* Provided by the caller: around each operator, in execution order. */
void tflm_layer_begin(void);
void tflm_layer_end(void);

#ifdef __cplusplus
}
#endif

#endif
