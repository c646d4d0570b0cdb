"""Models that take sound: the front end that the file names, and the C around it."""

from __future__ import annotations

from pipeline.engine.flatfile import FlatModel
from pipeline.engine.model import Model
from pipeline.engine.quantization import Quantization
from pipeline.errors import ModelError
from pipeline.frontend import METADATA, FrontEnd, from_bytes, frontend_sources

_GRID = Quantization(1 / 255, -128)  # of the features


def front_end_of(flat: FlatModel, shape: tuple[int, ...], grid: Quantization) -> FrontEnd | None:
    """What makes the input (of `shape` and `grid`) out of sound; None where the file does not say.

    Raises ModelError where it says something that does not give this input.
    """
    content = flat.metadata.get(METADATA)
    if content is None:
        return None
    front_end = from_bytes(content)
    if tuple(shape[1:]) != front_end.shape:
        raise ModelError(
            f"the model's input is {'x'.join(map(str, shape[1:]))}, its front end makes "
            f"{'x'.join(map(str, front_end.shape))}",
            hint="export the model again",
        )
    if abs(grid.scale / _GRID.scale - 1) > 1e-6 or grid.zero_point != _GRID.zero_point:
        raise ModelError(
            f"the model's input has scale {grid.scale:g} and zero point {grid.zero_point}, its front end makes "
            f"{_GRID.scale:g} and {_GRID.zero_point}",
            hint="export the model again",
        )
    return front_end


def sound_declarations(model: Model) -> str:
    """For model.h; empty without a front end."""
    if model.front_end is None:
        return ""
    f = model.front_end
    return f"""
/* Sound: {f.samples} samples of 16 bits at {f.sample_rate} Hz. They lie where the inference computes: write a clip,
 * call model_features, which makes the input of it, then model_invoke. */
#define MODEL_SOUND_BYTES {f.sound_bytes}
int16_t *model_sound(void);
void model_features(void);
"""


def sound_code(model: Model) -> str:
    """For model.c; empty without a front end."""
    if model.front_end is None or model.overlay is None:
        return ""
    return f"""\
#include "frontend.h"
_Static_assert(sizeof(frontend_work_t) == {model.front_end.work_bytes}, "planned memory of the front end");

int16_t *model_sound(void) {{ return (int16_t *)(void *)AT({model.overlay.sound_offset}); }}

/* A region of its own, without a layer's number. */
void model_features(void) {{
    frontend_work_t *work = (frontend_work_t *)(void *)AT({model.overlay.work_offset});
    EDGENAS_MARK(0);
    frontend_clip(work, model_sound(), model_input());
    EDGENAS_MARK(1);
}}

"""


def sound_sources(model: Model) -> dict[str, str]:
    """The front end's own files by name; empty without one."""
    return frontend_sources(model.front_end) if model.front_end else {}
