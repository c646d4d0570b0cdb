"""Campaign: carries a plan out on one or more targets; every result goes to the journal at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event

import numpy as np

from pipeline.errors import EdgeNasError, LinkError
from pipeline.fleet import Worker
from pipeline.profiler import repeats
from pipeline.profiler.journal import Journal, Measurement
from pipeline.profiler.plan import Plan
from pipeline.progress import Reporter
from pipeline.space.opspec import OpSpec

ANCHOR_EVERY = 50  # measurements of one worker between two of the anchor
DRIFT = 0.01  # relative; beyond it the clock or the temperature has changed
WALL_CLOCK_DRIFT = 0.5  # on a machine that runs other programs as well
_DRIFTS_IN_A_ROW = 3
_ANCHOR_RUNS = 5  # a single one may have been interrupted: the median of so many tells


@dataclass
class _Post:
    """One worker's turn: what it measures, and how its anchor did."""

    worker: Worker
    op: OpSpec | None = None
    is_anchor: bool = False
    since_anchor: int = 0
    anchor: float | None = None  # cycles at the start
    anchor_runs: list[Measurement] = field(default_factory=list)  # of the check under way
    drifts: int = 0
    block: list[tuple[OpSpec, Measurement]] = field(default_factory=list)  # since the last good anchor


class Campaign:
    """`plan` over `workers` (of `Session`s on like targets); `book` may hold measurements already.

    An anchor operator is measured first, and again every ANCHOR_EVERY measurements: where it comes out
    different by more than `drift`, what was measured since is marked suspect in the journal and measured again.

    `stop`: set by another thread, it ends the campaign after the operators that are being measured.
    """

    def __init__(
        self,
        plan: Plan,
        workers: Sequence[Worker],
        book: Journal,
        reporter: Reporter,
        anchor: OpSpec,
        name: str,
        drift: float = DRIFT,
        stop: Event | None = None,
    ) -> None:
        self._drift, self._stop = drift, stop
        self._plan, self._book, self._reporter, self._anchor = plan, book, reporter, anchor
        self._name = f"profile {name}".strip()
        self._posts = [_Post(worker) for worker in workers]
        self._seen: dict[OpSpec, list[Measurement]] = {}
        self._pending: list[OpSpec] = []  # wanted again: more repetitions, or suspect
        self._noisy = False
        self._started: list[OpSpec] = []
        self.measured = 0

    @staticmethod
    def anything_left(plan: Plan, book: Journal) -> bool:
        """Whether any operator of `plan` lacks measurements: else no target need be started."""
        known = [book.of(op) for op in plan.waiting()]
        noisy = not all(map(repeats.repeats, known))
        return any(not repeats.enough(runs, proving=False, noisy=noisy) for runs in known)

    def run(self) -> None:
        """Raises LinkError: a target died too often, its clock keeps drifting, or the campaign was stopped."""
        with self._reporter.bar(self._name, self._plan.left()) as bar:
            running: dict[Future[Measurement], _Post] = {}
            try:
                for post in self._posts:
                    self._hand_out(post, running)
                while running:
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        post = running.pop(future)
                        self._take(post, future.result())
                        if self._stop is not None and self._stop.is_set():
                            raise LinkError(f"{self._name} was stopped", hint="the same command goes on")
                        self._hand_out(post, running)
                    bar.update(self.measured, f"{self._current()}", total=self.measured + self._plan.left())
            finally:
                self._keep(running)

    def _keep(self, running: dict[Future[Measurement], _Post]) -> None:
        """What the other targets are at when one fails, or all are to stop, goes to the journal too."""
        for future in running:
            future.cancel()
        for future in running:
            if not future.cancelled():
                with suppress(EdgeNasError):  # another has been heard of already
                    self._book.add(future.result())

    def _current(self) -> str:
        kinds = [post.op.kind for post in self._posts if post.op is not None]
        return kinds[0] if kinds else ""

    def _hand_out(self, post: _Post, running: dict[Future[Measurement], _Post]) -> None:
        post.is_anchor = post.anchor is None or post.since_anchor >= ANCHOR_EVERY or bool(post.anchor_runs)
        post.op = self._anchor if post.is_anchor else self._next_op()
        if post.op is None and post.since_anchor > 0 and self._noisy:
            post.op, post.is_anchor = self._anchor, True  # nothing is trusted without an anchor after it
        if post.op is not None:
            running[post.worker.submit("measure", post.op)] = post

    def _next_op(self) -> OpSpec | None:
        while not self._pending and (op := self._plan.next()) is not None:
            self._started.append(op)
            self._seen[op] = self._book.of(op)
            if not self._noisy and not repeats.repeats(self._seen[op]):
                self._begin_repeating()  # an earlier call has found that out
            if self._enough(op):
                self._settle(op)
            elif op not in self._pending:
                self._pending.append(op)
        return self._pending.pop(0) if self._pending else None

    def _take(self, post: _Post, measurement: Measurement) -> None:
        op = measurement.op
        if post.is_anchor:
            self._take_anchor(post, measurement)
            return
        measurement = self._book.add(measurement)
        self.measured += 1
        post.since_anchor += 1
        post.block.append((op, measurement))
        self._seen[op].append(measurement)
        if not self._noisy and not repeats.repeats(self._seen[op]):
            self._begin_repeating()
        if self._enough(op):
            self._settle(op)
        elif op not in self._pending:
            self._pending.append(op)

    def _begin_repeating(self) -> None:
        """This target's counts vary: operators that were measured once or twice need more runs."""
        self._noisy = True
        self._reporter.say(
            "  counts vary from run to run: each operator is repeated until its median is sure"
        )
        self._pending += [op for op in self._started if self._seen[op] and not self._enough(op)]

    def _take_anchor(self, post: _Post, measurement: Measurement) -> None:
        post.since_anchor = 0
        measurement = self._book.add(measurement)
        if measurement.refused:
            raise LinkError(
                f"the anchor operator was refused: {measurement.refused}", hint="build the benchmark again"
            )
        post.anchor_runs.append(measurement)
        if not self._anchor_settled(post):
            return
        runs = post.anchor_runs.copy()
        median = float(np.median([m.cycles for m in runs]))
        post.anchor_runs.clear()
        if post.anchor is None:
            post.anchor = median
            return
        drift = median / post.anchor - 1.0
        if abs(drift) <= self._drift:
            post.drifts = 0
            post.block.clear()
            return
        post.drifts += 1
        self._book.suspect(runs)
        self._reporter.warn(
            f"the anchor operator took {drift:+.1%} of its first time: clock or temperature changed; "
            f"{len(post.block)} measurements since then are repeated"
        )
        self._repeat_block(post)
        if post.drifts >= _DRIFTS_IN_A_ROW:
            raise LinkError(
                f"the target drifts: its anchor operator is off by {drift:+.1%} for the third time",
                hint="let it cool down, fix its clock, and start again: what was measured before is kept",
            )

    def _anchor_settled(self, post: _Post) -> bool:
        """One run tells where it is as expected, two where they agree; else it takes several."""
        runs = [m.cycles for m in post.anchor_runs]
        if post.anchor is not None and len(runs) == 1 and abs(runs[0] / post.anchor - 1.0) <= self._drift:
            return True
        return len(runs) >= _ANCHOR_RUNS or (len(runs) >= 2 and len(set(runs)) == 1)

    def _repeat_block(self, post: _Post) -> None:
        self._book.suspect([m for _, m in post.block])
        for op, measurement in post.block:
            self._seen[op].remove(measurement)
            if op not in self._pending:
                self._pending.append(op)
        post.block.clear()

    def _enough(self, op: OpSpec) -> bool:
        proving = op in self._started[: repeats.PROVING]
        return repeats.enough(self._seen[op], proving=proving, noisy=self._noisy)

    def _settle(self, op: OpSpec) -> None:
        good = [m.cycles for m in self._seen[op] if not m.refused]
        self._plan.tell(op, float(np.median(good)) if good else None)

    def outliers(self) -> dict[OpSpec, list[Measurement]]:
        """Runs that stand out, by operator."""
        found = {op: repeats.outliers(seen) for op, seen in self._seen.items()}
        return {op: runs for op, runs in found.items() if runs}
