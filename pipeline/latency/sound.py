"""SoundCost: what the audio front end adds to an inference on one board."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from pipeline.errors import LutError
from pipeline.figures import Provenance
from pipeline.frontend import FrontEnd, frontend_sources, to_bytes
from pipeline.frontend.probes import probing_clips
from pipeline.latency.identity import Identity
from pipeline.latency.intervals import Interval
from pipeline.latency.lut import NodePrediction
from pipeline.latency.tablefiles import damaged, read_toml, write_toml


@dataclass(frozen=True, slots=True)
class SoundCost:
    """One clip through `front_end`: cycles (median of `clips` different ones; fastest and slowest, with a margin for
    others), executed instructions where they are counted (else 0), and the flash and the static RAM that it adds to
    an application.

    Its working memory is not in `ram_bytes`: it lies in the arena (pipeline.memory.overlay). Cycles of another board
    are off by at least `assumed_low` and at most `assumed_high`, so far as is known: factors.
    """

    front_end: FrontEnd
    cycles: float
    low: float
    high: float
    instructions: float
    clips: int
    flash_bytes: int
    ram_bytes: int
    provenance: Provenance
    note: str = ""
    assumed_low: float = 1.0
    assumed_high: float = 1.0

    def prediction(self, interval: Interval) -> NodePrediction:
        """Cycles and ends that become what is assumed once the table's `interval` widens them, or wider."""
        low = min(1.0, self.assumed_low / interval.low)
        high = max(1.0, self.assumed_high / interval.high)
        return NodePrediction(self.cycles, self.provenance, low * self.low, high * self.high)

    @property
    def cycles_per_instruction(self) -> float:
        """1 where no instructions were counted."""
        return self.cycles / self.instructions if self.instructions else 1.0

    def save(self, path: Path, identity: Identity) -> None:
        """As TOML, with the conditions that it was measured under."""
        values = {name: value for name, value in asdict(self).items() if name != "front_end"}
        write_toml(path, {"cost": values, "front_end": asdict(self.front_end), "identity": asdict(identity)})

    @classmethod
    def load(cls, path: Path, front_end: FrontEnd, identity: Identity) -> SoundCost:
        """Raises LutError: missing, damaged, or measured of another front end or under other conditions."""
        description: Mapping[str, Any] = read_toml(path)
        try:
            found = cls(FrontEnd(**description["front_end"]), **description["cost"])
            measured = Identity(**description["identity"])
        except (KeyError, TypeError) as error:
            raise damaged(path, f"lacks or misstates {error}", identity.board) from error
        if found.provenance not in get_args(Provenance):
            raise damaged(path, f"has provenance {found.provenance}", identity.board)
        different = sorted((found.front_end != front_end and ["front end"]) or measured.differences(identity))
        if different:
            raise LutError(
                f"{path} was measured under other conditions: other {', '.join(different)}",
                hint="delete it; it is measured again where the board has an emulator",
            )
        return found


def sound_cost_path(folder: Path, board: str, front_end: FrontEnd) -> Path:
    """Beside the board's table in `folder`; named after the front end, its C sources and the clips it is run with."""
    digest = hashlib.sha256(to_bytes(front_end) + probing_clips(front_end).tobytes())
    for name, text in sorted(frontend_sources(front_end).items()):
        digest.update(f"{name}\0{text}\0".encode())
    return folder / board / f"front-end-{digest.hexdigest()[:12]}.toml"
