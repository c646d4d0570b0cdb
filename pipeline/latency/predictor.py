"""LatencyPredictor: a small fitted network from an architecture to the latency of the whole model, as a file.

NumPy alone: `pipeline.search.predictor` fits it and differentiates through it (HW-DARTS). An architecture is
given by its features, one row [operator probabilities, width probabilities] a block, one-hot where it is
discrete; the widths of a skip, which has none, count with the probability that the block is no skip. In a space of
cells a row is the operator probabilities of an edge.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import LutError
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace
from pipeline.storage import write_bytes

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Layers = tuple[tuple[Singles, Singles], ...]

FORMAT = 2
_HINT = "fit one: edgenas fit predictor RUN.toml --out FILE"


@dataclass(frozen=True, slots=True)
class PredictorIdentity:
    """What a predictor was fitted for; every field must be equal for it to be used.

    Those of `OF_THE_BASE` do not matter where it does without the table (`LatencyPredictor.residual`).
    """

    board: str
    clock_hz: int
    lut: str  # hash of the latency table's identity
    firmware: str  # revision of what runs the models, kernels apart
    space: str  # the search space, as JSON
    calibration: str  # interval of the table's sums, whose upper end is the base
    rows: str  # hash of what else those sums follow from


OF_THE_BASE = ("calibration", "rows")


@dataclass(frozen=True, eq=False)
class LatencyPredictor:
    """latency (ms) = base * exp(offset + scale * network(features)).

    `base` is the table's (expected) latency of the same architecture where `residual`, else 1. `layers` are
    (weights (out, in), biases (out,)) with SiLU between them. `errors` are those on models held out of the
    fit; `provenance` is that of the latencies it was fitted to.
    """

    identity: PredictorIdentity
    layers: Layers
    residual: bool
    offset: float
    scale: float
    provenance: str
    models: int
    errors: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Changes with whatever changes a prediction."""
        digest = hashlib.sha256(
            repr((asdict(self.identity), self.residual, self.offset, self.scale)).encode()
        )
        for weights, biases in self.layers:
            digest.update(weights.tobytes() + biases.tobytes())
        return digest.hexdigest()

    def latency_many(self, features: Singles, base_ms: ArrayLike = 1.0) -> Floats:
        """Latency in ms of each row of `features` (n, all of an architecture); `base_ms` (n,) is the table's, and not
        looked at where the predictor does without."""
        out = forward(self.layers, features)
        base = np.asarray(base_ms, np.float64) if self.residual else 1.0
        result: Floats = base * np.exp(self.offset + self.scale * out)
        return result

    def check(self, wanted: PredictorIdentity) -> None:
        """Raises LutError that names every field of the identity in which this predictor is of something else."""
        differing = [
            f"{f.name} is {getattr(self.identity, f.name)}, not {getattr(wanted, f.name)}"
            for f in fields(wanted)
            if getattr(self.identity, f.name) != getattr(wanted, f.name)
            and (self.residual or f.name not in OF_THE_BASE)
        ]
        if differing:
            raise LutError(f"the latency predictor is for something else: {'; '.join(differing)}", hint=_HINT)

    # -- file ----------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write an .npz that `load` reads; whole or not at all."""
        arrays = {f"w{i}": weights for i, (weights, _) in enumerate(self.layers)}
        arrays |= {f"b{i}": biases for i, (_, biases) in enumerate(self.layers)}
        head = {
            "format": FORMAT,
            "identity": asdict(self.identity),
            "digest": self.digest,
            **{n: getattr(self, n) for n in ("residual", "offset", "scale", "provenance", "models")},
            "errors": dict(self.errors),
        }
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, head=np.array(json.dumps(head)), **arrays)
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> LatencyPredictor:
        """Raises LutError for a file that is missing, damaged or of another format."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                head = json.loads(str(stored["head"]))
                if head["format"] != FORMAT:
                    raise LutError(
                        f"{path} has format {head['format']}, this version reads {FORMAT}", hint=_HINT
                    )
                count = sum(name.startswith("w") for name in stored.files)
                layers = tuple((stored[f"w{i}"], stored[f"b{i}"]) for i in range(count))
            predictor = cls(
                PredictorIdentity(**head["identity"]), layers, head["residual"], head["offset"], head["scale"],
                head["provenance"], head["models"], head["errors"],
            )  # fmt: skip
            intact = predictor.digest == head["digest"]
        except FileNotFoundError as error:
            raise LutError(f"there is no latency predictor at {path}", hint=_HINT) from error
        except (
            OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile,
        ) as error:  # fmt: skip  # RuntimeError: the archive says that it is encrypted, or of another method
            raise LutError(f"{path} is no latency predictor: {error!r}", hint=_HINT) from error
        if not intact:
            raise LutError(f"{path} is damaged: its digest does not match", hint=_HINT)
        return predictor


def forward(layers: Layers, x: Singles) -> Floats:
    """The network's output (n,) for each row of `x`."""
    for weights, biases in layers[:-1]:
        before = x @ weights.T + biases
        x = before / (1.0 + np.exp(-before))
    weights, biases = layers[-1]
    out: Floats = (x @ weights.T + biases)[:, 0].astype(np.float64)
    return out


def features(space: SearchSpace | CellSpace, paths: ArrayLike) -> Singles:
    """Features (n, blocks * (ops + channels)) of discrete architectures; of cells (n, edges * ops).

    `paths` (n, blocks, 2) has an operator's index and an output width's index per block, where a skip's width is
    ignored; of cells (n, edges) an operator's index per edge.
    """
    if isinstance(space, CellSpace):
        chosen = np.asarray(paths, np.int64).reshape(-1, space.positions)
        return np.eye(len(space.ops), dtype=np.float32)[chosen].reshape(len(chosen), -1)
    index = np.asarray(paths, np.int64).reshape(-1, len(space.strides), 2)
    ops, widths = len(space.ops), len(space.channels)
    out = np.zeros((*index.shape[:2], ops + widths), np.float32)
    np.put_along_axis(out, index[..., :1], 1.0, axis=2)
    wide = np.ones(index.shape[:2], np.float32)
    if "skip" in space.ops:
        wide = (index[..., 0] != space.ops.index("skip")).astype(np.float32)
    np.put_along_axis(out, ops + index[..., 1:], wide[..., None], axis=2)
    return out.reshape(len(index), -1)
