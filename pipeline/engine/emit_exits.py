"""Generated C of early exits: after an exit's logits a margin is compared, and the inference may end there.

The logits stay where the planner put them. The number of the exit that was taken is written into the byte behind
them, which the planner keeps free, so that an answer is one piece of memory.
"""

from __future__ import annotations

from pipeline.engine.model import Model

_DECIDE = """\
/* Offset of the logits that the last inference ended with. */
static uint32_t model_taken;

const int8_t *model_output(void) { return AT(model_taken); }

uint32_t model_exit(void) { return (uint32_t)AT(model_taken)[MODEL_OUTPUT_BYTES - 1]; }

/* Ends the inference with the logits at an offset. */
static void model_leave(uint32_t logits, int8_t exit) {
    AT(logits)[MODEL_OUTPUT_BYTES - 1] = exit;
    model_taken = logits;
}

/* Whether the largest of the logits at an offset is at least `threshold` above the second largest. */
static int model_is_sure(uint32_t logits, int32_t threshold) {
    const int8_t *values = AT(logits);
    int32_t first = values[0];
    int32_t second = -128;
    for (int32_t i = 1; i < MODEL_OUTPUT_BYTES - 1; ++i) {
        const int32_t value = values[i];
        if (value > second) {
            second = value > first ? first : value;
            first = value > first ? value : first;
        }
    }
    return first - second >= threshold;
}
"""


def output_words(model: Model) -> str:
    """What `model_output` points to."""
    shape = "x".join(map(str, model.output_shape))
    return f"{shape} logits and the number of the exit" if model.exits else shape


def exit_declarations(model: Model) -> str:
    """For model.h; empty without exits."""
    if not model.exits:
        return ""
    grids = [*(e.quantization for e in model.exits), model.output]
    scales = ", ".join(f"{grid.scale!r}f" for grid in grids)
    zero_points = ", ".join(str(grid.zero_point) for grid in grids)
    return f"""
/* Early exits. The last inference ended at exit 0, 1, ... or, as number MODEL_EXITS, with the final output. Each
 * output has a quantization of its own; MODEL_OUTPUT_SCALE and MODEL_OUTPUT_ZERO_POINT are the final one's. */
#define MODEL_EXITS {len(model.exits)}
#define MODEL_EXIT_SCALES {{{scales}}}
#define MODEL_EXIT_ZERO_POINTS {{{zero_points}}}
uint32_t model_exit(void);
"""


def exit_code(model: Model) -> str:
    """model_output and what decides, for model.c; empty without exits."""
    return _DECIDE if model.exits else ""


def exit_decisions(model: Model) -> dict[int, str]:
    """C statements by the number of layers executed before them; empty without exits."""
    if not model.exits:
        return {}
    found: dict[int, str] = {}
    for i, leave in enumerate(model.exits):
        offset = model.plan.offsets[leave.tensor]
        found[leave.layers] = found.get(leave.layers, "") + (
            f"    if (model_is_sure({offset}, {leave.threshold})) {{ /* {_name(leave.name)} */\n"
            f"        model_leave({offset}, {i});\n        return;\n    }}\n"
        )
    last = len(model.layers)
    final = f"    model_leave({model.plan.offsets[model.graph.output]}, {len(model.exits)});\n"
    found[last] = found.get(last, "") + final
    return found


def _name(name: str) -> str:
    """A tensor's name comes from the file: nothing of it may end the comment."""
    return "".join(c if c.isalnum() or c in " _.:-" else "_" for c in name)[:120]
