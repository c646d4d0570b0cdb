"""BenchSession: the benchmark firmware in an emulator that counts, restarted when it dies."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.boards import Board
from pipeline.errors import LinkError
from pipeline.firmware.bench import render_bench
from pipeline.firmware.build import build
from pipeline.latency.timing import timing_model
from pipeline.links import INSTRUCTION_NS, Link, open_link
from pipeline.links.blockcount import RegionReader, plugin_args
from pipeline.profiler.journal import Measurement
from pipeline.space.opspec import OpSpec
from pipeline.wire.client import Client, RefusedError
from pipeline.wire.messages import Kind

RESTARTS = 3  # in a row; a target that dies more often than that will not get better
_REGION_TIMEOUT_S = 10.0
_COUNTERS_APART = 16  # instructions; reading the timer costs a few


class BenchSession:
    """Measures operators one by one; the emulator starts with the first and ends with the context.

    `folder` keeps the benchmark firmware's build. Raises ToolError (no compiler, no emulator).
    """

    def __init__(self, board: Board, folder: Path) -> None:
        self._board = board
        self._elf = build(render_bench(board, folder), board).elf
        self._timing = timing_model(board.core.timing)
        self._scratch = tempfile.TemporaryDirectory(prefix="edgenas-")
        self._link: Link | None = None
        self._client: Client | None = None
        self._reader: RegionReader | None = None
        self._starts = 0

    @property
    def starts(self) -> int:
        """How often the emulator was started."""
        return self._starts

    def measure(self, op: OpSpec) -> Measurement:
        """One run of `op`; a device that refuses it is recorded, one that dies is restarted.

        Raises LinkError after RESTARTS restarts without a result.
        """
        deaths = 0
        while True:
            try:
                return self._measure(op)
            except RefusedError as error:
                return Measurement(op, refused=_reason(error))
            except LinkError as error:
                self._stop()
                deaths += 1
                if deaths > RESTARTS:
                    what = f"{self._board.name} died {deaths} times over {op.key}: {error.message}"
                    raise LinkError(what, hint=error.hint) from error

    def _measure(self, op: OpSpec) -> Measurement:
        client, reader = self._start()
        reply = client.run_op(op)
        region = reader.next(_REGION_TIMEOUT_S)
        if reader.read_all():
            raise LinkError(f"more than one marked region for {op.key}", hint="build the benchmark again")
        self._compare(op, reply.ticks, region.instructions)
        cycles = float(self._timing.region_cycles(region))
        return Measurement(op, cycles, region.instructions, reply.ticks, reply.output_crc)

    def _compare(self, op: OpSpec, ticks: int, instructions: int) -> None:
        """The device's timer is a second, independent count: both must be of the same run."""
        if self._board.counter.counts != "instructions":
            return
        counted = ticks * 1e9 / (self._board.counter.hz * INSTRUCTION_NS)
        if abs(counted - instructions) > _COUNTERS_APART + instructions * 1e-3:
            raise LinkError(
                f"{op.key}: the emulator counted {instructions} instructions, the device {counted:.0f}",
                hint="is the emulator another version, or the benchmark firmware another one?",
            )

    def _start(self) -> tuple[Client, RegionReader]:
        if self._client is None or self._reader is None:
            self._starts += 1
            regions = Path(self._scratch.name) / f"regions-{self._starts}.bin"
            self._link = open_link(self._board, self._elf, plugin_args=plugin_args(regions))
            client = Client(self._link)
            hello = client.hello()
            if hello.kind is not Kind.BENCH:
                raise LinkError("this firmware is not the benchmark", hint="build it again")
            self._client, self._reader = client, RegionReader(regions)
        return self._client, self._reader

    def _stop(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = self._client = self._reader = None

    def close(self) -> None:
        self._stop()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reason(error: RefusedError) -> str:
    name = getattr(error.reason, "name", str(error.reason))
    return f"{name} {error.detail}"
