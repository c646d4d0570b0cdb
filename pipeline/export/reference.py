"""Interpreters to compare with: TFLite Micro's wheel and LiteRT's reference kernels. No torch.

TFLite Micro is what firmware is compared with byte for byte. LiteRT's reference kernels are the same
but for FULLY_CONNECTED, which may differ by 1; its default (XNNPACK) kernels are no reference at all.
"""

from __future__ import annotations

import importlib
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from pipeline.errors import ModelError, ToolError

Int8Array = NDArray[np.int8]
# The wheel's default arena is ten times the file, too little for a small file with large activations.
_ARENA_BYTES = 16 << 20
_BLOCK = 250  # images a worker takes at a time


class Reference(Protocol):
    """Runs INT8 inputs (n, ...) and gives INT8 outputs (n, ...)."""

    def run(self, x: Int8Array) -> Int8Array: ...


class TflmReference:
    """TFLite Micro's reference kernels, from the `tflite-micro` wheel.

    Raises ToolError where the wheel is not installed, ModelError for a model that it refuses.
    """

    def __init__(self, model: bytes) -> None:
        try:
            runtime = importlib.import_module("tflite_micro.python.tflite_micro.runtime")
        except ImportError as error:
            raise ToolError(
                "the tflite-micro wheel is not installed", hint="pip install --pre tflite-micro"
            ) from error
        try:
            # The wheel parses the file in Python first, and that trips over damage in its own ways.
            self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=_ARENA_BYTES)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, struct.error) as error:
            raise ModelError(f"TFLite Micro refuses the model: {error}") from error
        self._shape = tuple(self._interpreter.get_input_details(0)["shape"])
        self.outputs = output_count(model)

    def run(self, x: Int8Array) -> Int8Array:
        """Final outputs (n, ...) of inputs (n, ...), one after the other."""
        return self.run_each(x)[-1]

    def run_each(self, x: Int8Array) -> list[Int8Array]:
        """All outputs (n, ...), in the file's order: early exits before the final one."""
        outputs: list[list[Int8Array]] = [[] for _ in range(self.outputs)]
        for image in _checked(x, self._shape):
            self._interpreter.set_input(image[None], 0)
            self._interpreter.invoke()
            for i, found in enumerate(outputs):
                found.append(self._interpreter.get_output(i)[0])
        return [np.stack(found) for found in outputs]


class LiteRtReference:
    """LiteRT's reference kernels (BUILTIN_REF); tflite-runtime where only that is installed.

    Raises ToolError where neither is installed, ModelError for a model that it refuses.
    """

    def __init__(self, model: bytes) -> None:
        module = _litert()
        options: dict[str, Any] = {"model_content": model}
        options["experimental_op_resolver_type"] = module.OpResolverType.BUILTIN_REF
        try:
            self._interpreter = module.Interpreter(**options)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT refuses the model: {error}") from error
        self._input = self._interpreter.get_input_details()[0]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def run(self, x: Int8Array) -> Int8Array:
        """Final outputs (n, ...) of inputs (n, ...), one after the other."""
        return self.run_each(x)[-1]

    def run_each(self, x: Int8Array) -> list[Int8Array]:
        """All outputs (n, ...), in the file's order: early exits before the final one."""
        outputs: list[list[Int8Array]] = [[] for _ in self._outputs]
        for image in _checked(x, tuple(self._input["shape"])):
            self._interpreter.set_tensor(self._input["index"], image[None])
            self._interpreter.invoke()
            for found, tensor in zip(outputs, self._outputs, strict=True):
                found.append(self._interpreter.get_tensor(tensor)[0])
        return [np.stack(found) for found in outputs]


def _litert() -> Any:
    for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ToolError("no LiteRT interpreter is installed", hint="pip install ai-edge-litert")


def _checked(x: Int8Array, shape: tuple[int, ...]) -> Int8Array:
    if x.dtype != np.int8 or x.ndim != len(shape) or tuple(x.shape[1:]) != tuple(int(n) for n in shape[1:]):
        raise ModelError(f"the model takes int8 {shape}, not {x.dtype} {x.shape}")
    if len(x) == 0:
        raise ModelError("there are no inputs to run")
    return np.ascontiguousarray(x)


def to_int8(images: NDArray[np.uint8]) -> Int8Array:
    """uint8 images on edgenas' input grid: q = u8 - 128 (scale 1/255, zero point -128)."""
    return (images ^ 0x80).view(np.int8)


def evaluate_int8(
    model: bytes, images: NDArray[np.uint8], labels: NDArray[np.int64], *, workers: int = 2
) -> float:
    """Accuracy (0..1) of an exported classifier on uint8 images (n, h, w, c), of its final output alone.

    Ties go to the lowest class, as on the device. Raises ModelError and ToolError as `LiteRtReference`.
    """
    if len(images) != len(labels):
        raise ModelError(f"{len(images)} images but {len(labels)} labels")
    logits = int8_logits(model, images, workers=workers)[-1]
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def int8_logits(model: bytes, images: NDArray[np.uint8], *, workers: int = 2) -> list[Int8Array]:
    """Each output's logits (n, classes) of uint8 images (n, h, w, c), in the file's order.

    Runs the file itself on LiteRT's reference kernels, which release Python's lock, in `workers` threads.
    Raises ModelError and ToolError as `LiteRtReference`.
    """
    x = to_int8(images)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(x), _BLOCK)]
    results: list[list[Int8Array]] = [[] for _ in blocks]

    def work(part: range) -> None:
        reference = LiteRtReference(model)
        for i in part:
            outputs = reference.run_each(x[blocks[i]])
            results[i] = [output.reshape(len(output), -1) for output in outputs]

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, (range(first, len(blocks), workers) for first in range(workers))):
            pass
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def output_count(model: bytes) -> int:
    """How many outputs the .tflite has; the interpreter of TFLite Micro's wheel does not tell."""
    return int(schema.Model.GetRootAs(model, 0).Subgraphs(0).OutputsLength())
