"""TflmDevice: an interpreter at the other end of a link, with one model at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import LinkError
from pipeline.links import Link
from pipeline.wire.client import Client, InvokeResult, RefusedError
from pipeline.wire.exchange import registers
from pipeline.wire.messages import FaultReply, Kind, MemoryReply, Reason


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the interpreter says of the model it made ready, in bytes."""

    model_bytes: int
    arena_used_bytes: int
    input_bytes: int
    output_bytes: int
    layers: int


class TflmDevice:
    """Loads models and runs them. Raises WrongFirmwareError where another firmware answers."""

    def __init__(
        self, link: Link, *, build_id: bytes | None = None, explain: Callable[[FaultReply], str] = registers
    ) -> None:
        self.link = link
        self._client = Client(link, explain=explain)
        self._client.hello(kind=Kind.TFLM, build_id=build_id)
        self._prepared: Prepared | None = None
        self._result: InvokeResult | None = None  # of the last inference

    @property
    def retransmissions(self) -> int:
        return self._client.retransmissions

    @property
    def region_bytes(self) -> int:
        """Room for a model and its arena together."""
        return self._client.describe().pool_bytes

    def load(self, model: bytes) -> Prepared:
        """Sends `model` and has it made ready. RefusedError where it does not fit or cannot be run."""
        self._prepared = None
        reply = self._client.load_model(model)
        self._prepared = Prepared(
            len(model), reply.arena_used_bytes, reply.input_bytes, reply.output_bytes, reply.layers
        )
        return self._prepared

    def invoke(self, x: bytes | NDArray[np.int8]) -> InvokeResult:
        """One inference with the model loaded last."""
        self._result = self._client.invoke(x if isinstance(x, bytes) else x.tobytes(), limit_s=120.0)
        return self._result

    def layer_ticks(self) -> list[int]:
        """Of the last inference; empty where the interpreter has no profiler."""
        if self._prepared is None:
            raise LinkError("no model is loaded")
        try:
            return self._client.layer_ticks(self._prepared.layers, of=self._result)
        except RefusedError as error:
            if error.reason == Reason.NO_RESULT:
                return []
            raise

    def memory(self) -> MemoryReply:
        return self._client.memory()


def why_refused(error: RefusedError) -> str:
    """The refusal in words, for a table's row or a message."""
    name = getattr(error.reason, "name", str(error.reason))
    if error.reason == Reason.PREPARE_FAILED:
        return f"{name} {_STATUS.get(error.detail, error.detail)}"
    if error.reason == Reason.KERNEL_FAILED and error.detail == _NO_PROFILER:
        return f"{name} the library was built without its profiler"
    return f"{name} {error.detail}"


_NO_PROFILER = 5
# firmware/tflm/interpreter.h
_STATUS = {
    1: "the schema version differs",
    2: "the arena is too small or an operator is not supported",
    3: "not one INT8 input and one INT8 output",
}
