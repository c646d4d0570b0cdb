"""Identity: under which conditions a latency table was measured."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.errors import LutError
from pipeline.latency.tablefiles import canonical, profile_hint


@dataclass(frozen=True, slots=True)
class Identity:
    """Under which conditions a table was measured; every field must be equal for it to be used.

    `engine_revision` is the hash of the kernels' sources, `firmware_revision` that of the rest of the
    firmware (which the flash model and the overheads depend on, and operators do not).
    """

    board: str
    clock_hz: int
    memory: str
    engine: str
    engine_revision: str
    firmware_revision: str
    compiler: str
    flags: str
    timing: str
    counter: str

    @property
    def hash(self) -> str:
        """Of what an operator's cycles depend on: the journal's key."""
        values = {k: v for k, v in asdict(self).items() if k != "firmware_revision"}
        return f"{zlib.crc32(canonical(values)):08x}"

    def differences(self, other: Identity) -> dict[str, tuple[Any, Any]]:
        """Fields that differ: name to (this one's, the other's) value."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def refuse_other_identity(found: Identity, wanted: Identity) -> None:
    """Raises LutError, naming every field that differs, where `found` is not `wanted`."""
    differences = found.differences(wanted)
    if differences:
        what = "; ".join(f"{name} is '{a}', here it is '{b}'" for name, (a, b) in differences.items())
        raise LutError(
            f"the table of {found.board} was measured under other conditions: {what}",
            hint=profile_hint(wanted.board),
        )
