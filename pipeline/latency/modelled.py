"""Modelled cycles of marked regions on a board whose emulator counts blocks, its wait states included."""

from __future__ import annotations

from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ConfigError, LinkError
from pipeline.latency.timing import WaitStates, timing_model, waiting_model
from pipeline.links.accesses import access_args, read_accesses
from pipeline.links.blockcount import Region, RegionReader, plugin_args


def wait_states(board: Board) -> WaitStates | None:
    """Those of the board file; None where there are none."""
    waits = WaitStates(board.memory.flash.wait_states, board.memory.sram.wait_states)
    return waits if waits.flash or waits.sram else None


def check_no_waits(board: Board) -> None:
    """Raises ConfigError for a board whose wait states the caller would leave out."""
    if board.counts_instructions and wait_states(board) is not None:
        raise ConfigError(
            f"{board.name} has wait states, which are not modelled for other engines",
            hint="set memory.flash.wait_states and memory.sram.wait_states to 0",
        )


class ModelledRegions:
    """What QEMU's plugins record of one run into `folder`, as cycles; `name` tells runs in one folder apart.

    Raises ToolError (no C compiler) and ConfigError (no timing model, or none that knows wait states).
    """

    def __init__(self, board: Board, folder: Path, name: str = "regions") -> None:
        self._timing, self._waits = timing_model(board.core.timing), wait_states(board)
        self._waiting = waiting_model(board.core.timing) if self._waits is not None else None
        records, self._accesses = folder / f"{name}.bin", folder / f"{name}.accesses"
        self._reader = RegionReader(records)
        self._read = 0
        self.plugin_args: list[str] = plugin_args(records)
        if self._waiting is not None:
            self.plugin_args += access_args(board, self._accesses)

    def next(self, timeout: float) -> tuple[Region, float]:
        """The next region and its cycles. Raises LinkError: none within `timeout` seconds, or a damaged file."""
        region = self._reader.next(timeout)
        if self._waiting is None or self._waits is None:
            return region, float(self._timing.region_cycles(region))
        # each plugin writes at the end marker, before the device answers
        regions = read_accesses(self._accesses)
        if len(regions) <= self._read:
            raise LinkError("QEMU's plugins recorded different regions", hint="is QEMU still alive?")
        accesses = regions[self._read]
        self._read += 1
        return region, self._waiting.region_cycles(region, accesses, self._waits)

    def surplus(self) -> int:
        """How many regions there are beyond those that were read."""
        return len(self._reader.read_all())
