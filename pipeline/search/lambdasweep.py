"""The course of HW-DARTS in any space: weights once, then an alpha for each multiplier over the frozen weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

from pipeline.search.config import SearchConfig
from pipeline.search.pathjudge import PathJudge
from pipeline.search.relaxation import Expected

P = TypeVar("P", bound=Hashable)


class LambdaSweep(ABC):
    """A search that goes through `config.hwdarts.lambdas`; a method adds what its space is made of.

    `found` are the paths that the alphas gave, by lambda; the first of each is the one for the contest.
    """

    step: int
    history: list[dict[str, float]]
    found: list[list[Any]]

    @property
    @abstractmethod
    def settings(self) -> SearchConfig: ...

    @abstractmethod
    def _weights_learn(self) -> float:
        """One step on the supernet's weights; returns its loss."""

    @abstractmethod
    def _restart(self) -> None:
        """Back to the alpha that every lambda starts from."""

    @abstractmethod
    def _lambda_step(self, weight: float, done: int) -> dict[str, float]:
        """One step on alpha, number `done` of its lambda; returns its record."""

    @abstractmethod
    def _paths(self, index: int) -> list[Any]:
        """What the alpha gives: its most probable path, repaired, then samples; none breaks a budget."""

    @abstractmethod
    def _due(self) -> bool:
        """Whether it is time to save."""

    @abstractmethod
    def _save(self) -> None: ...

    @abstractmethod
    def _tell(self, phase: str, record: dict[str, float]) -> None:
        """Progress after a step."""

    @property
    def weight_steps(self) -> int:
        return self.settings.warmup_steps + self.settings.steps

    @property
    def steps_each(self) -> int:
        return self.settings.hwdarts.steps_each(self.settings.steps)

    def _record(
        self,
        weight: float,
        loss: float,
        accuracy: float,
        expected: Expected,
        temperature: float,
        entropy: float,
    ) -> dict[str, float]:
        """Of a step on alpha, as `SearchResult.history` has it."""
        return {
            "step": len(self.history),
            "lambda": weight,
            "val_loss": loss,
            "val_accuracy": accuracy,
            "latency_ms": expected.latency_ms.item(),
            "sram_bytes": expected.sram_bytes.item(),
            "flash_bytes": expected.flash_bytes.item(),
            "parameters": expected.parameters.item(),
            "temperature": temperature,
            "entropy": entropy,
        }

    def _annealed(self, done: int) -> float:
        """Exponential annealing over the steps of a lambda."""
        config, share = self.settings, done / max(1, self.steps_each - 1)
        return float(config.temperature_start * (config.temperature_end / config.temperature_start) ** share)

    def _sweep(self) -> None:
        """The supernet, then each lambda's alpha and the paths it gives; from wherever a checkpoint left it."""
        while self.step < self.weight_steps:
            loss = self._weights_learn()
            self.step += 1
            if self._due() or self.step == self.weight_steps:
                self._save()
            self._tell("supernet", {"train_loss": loss})
        for index, weight in enumerate(self.settings.hwdarts.lambdas):
            if index < len(self.found):
                continue
            end = self.weight_steps + (index + 1) * self.steps_each
            while self.step < end:
                done = self.steps_each - (end - self.step)
                if done == 0:
                    self._restart()
                record = self._lambda_step(weight, done)
                self.history.append(record)
                self.step += 1
                if self._due():
                    self._save()
                self._tell("search", record)
            self.found.append(self._paths(index))
            self._save()


def members(found: Sequence[Sequence[P]], scored: Mapping[P, float], judge: PathJudge) -> list[P]:
    """One path a lambda: its most probable one, or where an earlier lambda has it, its next best by `scored`."""
    chosen: list[P] = []
    for paths in found:
        rest = sorted(paths[1:], key=lambda p: (scored[p], -judge.exact(p).latency_ms), reverse=True)
        for path in [*paths[:1], *rest]:
            if path not in chosen:
                chosen.append(path)
                break
    return chosen
