// The interpreter with every operator that edgenas knows, its profiler turned into region markers.
#include "interpreter.h"

#include <cstdarg>
#include <new>

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_profiler_interface.h"
#include "tensorflow/lite/schema/schema_generated.h"

// Messages of the library go nowhere: the wire carries frames only.
extern "C" void DebugLog(const char *, va_list) {}
extern "C" int DebugVsnprintf(char *buffer, size_t size, const char *, va_list) {
    if (size > 0) {
        buffer[0] = '\0';
    }
    return 0;
}

namespace {

class Markers : public tflite::MicroProfilerInterface {
  public:
    uint32_t BeginEvent(const char *) override {
        ++events;
        tflm_layer_begin();
        return 0;
    }
    void EndEvent(uint32_t) override { tflm_layer_end(); }
    uint32_t events = 0;

    void operator delete(void *) {}
};

using Resolver = tflite::MicroMutableOpResolver<13>;

// Constructed on first use: the start-up code runs no constructors.
alignas(Markers) uint8_t markers_memory[sizeof(Markers)];
alignas(Resolver) uint8_t resolver_memory[sizeof(Resolver)];
alignas(tflite::MicroInterpreter) uint8_t interpreter_memory[sizeof(tflite::MicroInterpreter)];
Markers *markers;
Resolver *resolver;
tflite::MicroInterpreter *interpreter;

void add_operators() {
    resolver = new (resolver_memory) Resolver();
    resolver->AddConv2D();
    resolver->AddDepthwiseConv2D();
    resolver->AddFullyConnected();
    resolver->AddAdd();
    resolver->AddMul();
    resolver->AddMean();
    resolver->AddAveragePool2D();
    resolver->AddMaxPool2D();
    resolver->AddPad();
    resolver->AddLogistic();
    resolver->AddHardSwish();
    resolver->AddSoftmax();
    resolver->AddReshape();
}

} // namespace

uint32_t tflm_prepare(const uint8_t *model_bytes, uint8_t *arena, size_t arena_bytes,
                      tflm_model_t *prepared) {
    if (resolver == nullptr) {
        markers = new (markers_memory) Markers();
        add_operators();
    }
    // The interpreter before holds nothing outside its arena, which is given up as a whole.
    interpreter = nullptr;
    const tflite::Model *model = tflite::GetModel(model_bytes);
    if (model->version() != TFLITE_SCHEMA_VERSION) {
        return TFLM_WRONG_SCHEMA;
    }
    auto *fresh = new (interpreter_memory)
        tflite::MicroInterpreter(model, *resolver, arena, arena_bytes, nullptr, markers);
    if (fresh->initialization_status() != kTfLiteOk || fresh->AllocateTensors() != kTfLiteOk) {
        return TFLM_NOT_ALLOCATED;
    }
    if (fresh->inputs_size() != 1 || fresh->outputs_size() != 1) {
        return TFLM_WRONG_TENSORS;
    }
    TfLiteTensor *input = fresh->input(0), *output = fresh->output(0);
    if (input->type != kTfLiteInt8 || output->type != kTfLiteInt8) {
        return TFLM_WRONG_TENSORS;
    }
    prepared->arena_used_bytes = static_cast<uint32_t>(fresh->arena_used_bytes());
    prepared->input = input->data.int8;
    prepared->input_bytes = static_cast<uint32_t>(input->bytes);
    prepared->output = output->data.int8;
    prepared->output_bytes = static_cast<uint32_t>(output->bytes);
    prepared->layers = model->subgraphs()->Get(0)->operators()->size();
    interpreter = fresh;
    return TFLM_OK;
}

uint32_t tflm_invoke(void) {
    markers->events = 0;
    if (interpreter == nullptr || interpreter->Invoke() != kTfLiteOk) {
        return TFLM_NOT_INVOKED;
    }
    return markers->events > 0 ? TFLM_OK : TFLM_NO_PROFILER;
}
