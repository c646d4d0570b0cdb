"""BenchSession: the benchmark firmware on a target, restarted when it dies."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Protocol

from pipeline.boards import Board
from pipeline.closing import Closing
from pipeline.errors import LinkError
from pipeline.firmware.bench import render_bench
from pipeline.firmware.build import build
from pipeline.firmware.symbolize import fault_explainer
from pipeline.latency.modelled import ModelledRegions
from pipeline.links import INSTRUCTION_NS, Link, open_link
from pipeline.profiler.journal import Measurement
from pipeline.space.opspec import OpSpec
from pipeline.storage import alone_in
from pipeline.wire.client import Client, RefusedError, RestartedError, WrongFirmwareError
from pipeline.wire.messages import Kind

RESTARTS = 3  # in a row; a target that dies more often than that will not get better
_REPLUG_S = (1.0, 4.0, 16.0)  # an unplugged board may come back
_REGION_TIMEOUT_S = 10.0
_FEWEST_TICKS = 1000  # of a clock: a tick more or less is then a part in a thousand
_MOST_REPETITIONS = 1000
_COUNTERS_APART = 16  # instructions; reading the timer costs a few


class Session(Protocol):
    """One target that measures operators, whichever engine runs them."""

    @property
    def starts(self) -> int:
        """How often the target was started or opened."""

    def measure(self, op: OpSpec) -> Measurement:
        """One run of `op`; a target that refuses it is recorded, one that dies is restarted."""

    def close(self) -> None: ...


class BenchSession(Closing):
    """Measures operators one by one; the target starts with the first and ends with the context.

    `folder` keeps the benchmark firmware's build; `port` is a real board's, which must run that firmware
    (`edgenas flash`). Raises ToolError (no compiler, no emulator).
    """

    def __init__(self, board: Board, folder: Path, *, port: str | None = None) -> None:
        self._board, self._port = board, port
        with alone_in(folder):
            self._built = build(render_bench(board, folder), board)
        self._scratch = tempfile.TemporaryDirectory(prefix="edgenas-")
        self._link: Link | None = None
        self._client: Client | None = None
        self._reader: ModelledRegions | None = None
        self._starts = 0
        self._answered = False

    @property
    def starts(self) -> int:
        """How often the target was started or opened."""
        return self._starts

    def measure(self, op: OpSpec) -> Measurement:
        """One run of `op`; a device that refuses it is recorded, one that dies is restarted.

        An operator that makes the device fault every time is recorded as refused, with the place. Raises
        LinkError after RESTARTS restarts without a result, WrongFirmwareError at once.
        """
        deaths = 0
        while True:
            try:
                return self._measure(op)
            except RefusedError as error:
                return Measurement(op, refused=_reason(error))
            except WrongFirmwareError:
                self._stop()
                raise
            except LinkError as error:
                self._stop()
                if not self._answered and self._board.emulator is None:
                    raise  # not connected, or not flashed: nothing that starting again would mend
                deaths += 1
                if deaths > RESTARTS:
                    if isinstance(error, RestartedError) and error.fault is not None:
                        return Measurement(op, refused=f"FAULT {error.message}")
                    what = f"{self._board.name} died {deaths} times over {op.key}: {error.message}"
                    raise LinkError(what, hint=error.hint) from error
                if self._board.emulator is None:
                    time.sleep(_REPLUG_S[deaths - 1])

    def _measure(self, op: OpSpec) -> Measurement:
        client = self._start()
        reply = client.run_op(op)
        if self._reader is None:
            ticks = self._ticks(client, op, reply.ticks)
            cycles = ticks * self._board.clock_hz / self._board.counter.hz
            return Measurement(op, cycles, 0, round(ticks), reply.output_crc)
        region, cycles = self._reader.next(_REGION_TIMEOUT_S)
        if self._reader.surplus():
            raise LinkError(f"more than one marked region for {op.key}", hint="build the benchmark again")
        self._compare(op, reply.ticks, region.instructions)
        return Measurement(op, cycles, region.instructions, reply.ticks, reply.output_crc)

    def _ticks(self, client: Client, op: OpSpec, once: int) -> float:
        """Ticks of one run; the mean of many where a clock that counts time is too coarse for a single one."""
        if self._board.counter.counts != "time" or once >= _FEWEST_TICKS:
            return once
        repetitions = min(_MOST_REPETITIONS, -(-_FEWEST_TICKS // max(1, once)))
        return client.run_op(op, repetitions=repetitions).ticks / repetitions

    def _compare(self, op: OpSpec, ticks: int, instructions: int) -> None:
        """The device's timer is a second, independent count: both must be of the same run."""
        counted = ticks * 1e9 / (self._board.counter.hz * INSTRUCTION_NS)
        if abs(counted - instructions) > _COUNTERS_APART + instructions * 1e-3:
            raise LinkError(
                f"{op.key}: the emulator counted {instructions} instructions, the device {counted:.0f}",
                hint="is the emulator another version, or the benchmark firmware another one?",
            )

    def _start(self) -> Client:
        if self._client is None:
            self._starts += 1
            reader = None
            if self._board.counts_instructions:
                reader = ModelledRegions(self._board, Path(self._scratch.name), f"regions-{self._starts}")
            plugins = reader.plugin_args if reader is not None else None
            self._link = open_link(self._board, self._built.elf, port=self._port, plugin_args=plugins)
            client = Client(self._link, explain=fault_explainer(self._built.elf, self._board))
            client.hello(kind=Kind.BENCH, build_id=self._built.build_id)
            self._answered = True
            self._client, self._reader = client, reader
        return self._client

    def _stop(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = self._client = self._reader = None

    def close(self) -> None:
        self._stop()
        self._scratch.cleanup()


def _reason(error: RefusedError) -> str:
    name = getattr(error.reason, "name", str(error.reason))
    return f"{name} {error.detail}"
