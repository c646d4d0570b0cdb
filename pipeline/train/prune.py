"""Structured pruning: a trained float network loses channels round by round, and trains on in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data import DataSet
from pipeline.errors import BudgetError
from pipeline.space.architecture import Architecture
from pipeline.space.budgets import Budgets
from pipeline.space.graph import OpGraph
from pipeline.space.pruned import PrunedArchitecture
from pipeline.train.batches import Batches
from pipeline.train.channels import cut, importance, widths_of
from pipeline.train.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from pipeline.train.config import TrainConfig
from pipeline.train.device import choose
from pipeline.train.diagnosis import diverged
from pipeline.train.evaluate import accuracy
from pipeline.train.loss import joint_loss
from pipeline.train.network import QatNetwork
from pipeline.train.optimizer import set_rate, sgd
from pipeline.train.progress import Progress
from pipeline.train.pruneconfig import PruneConfig
from pipeline.train.quantconfig import QuantizationConfig
from pipeline.train.shrink import Judge, Shrink, broken, goals, limits_of, tighter, values_of
from pipeline.train.trainer import QatResult, settings, train_float, train_qat

_SEED_STEP = 2_000_003  # random streams of their own
_BETWEEN = 0.2  # learning rate between rounds, as a share of that behind them
_CORRECTIONS = 10  # rounds behind the last one, where the confirmed cost is above the estimated one


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A pruned network, trained and quantized, and how it came about (`record`, as JSON)."""

    result: QatResult
    record: dict[str, Any]


def prune_and_train(
    architecture: Architecture,
    data: DataSet,
    config: TrainConfig,
    judge: Judge,
    *,
    confirm: Judge | None = None,
    cost_key: str = "",
    held: Budgets | None = None,
    seed: int = 0,
    folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    start: Any = None,
) -> Pruned:
    """Float training of `architecture`, pruning by `config.prune`, float training, then as `train_qat`.

    judge: cost of a graph, fast; confirm: what finally decides (default: judge). cost_key: identity of both.
    held: budgets that the pruned network keeps beside the limits of `config.prune`.
    folder: of checkpoints, with which an interrupted call continues with the same result. start: as for
    `train_qat`. Raises BudgetError where the limits cannot be reached, ConfigError where nothing can be pruned,
    and as `train_qat` does.
    """
    options = config.prune
    shrink = Shrink(architecture.lower(), judge, options.multiple)
    before = values_of(shrink.graph, judge)
    limits = limits_of(tighter(options.budgets, held or Budgets()), options.fraction, before)
    shrink.check(limits)
    # What comes before pruning is the same training whatever is pruned, or quantized, later.
    plain = replace(config, prune=PruneConfig(), quantization=QuantizationConfig(), qat_epochs=0)
    network = train_float(
        architecture, data, plain, seed=seed, checkpoint=folder / "float.pt" if folder else None,
        on_step=on_step, start=start,
    )  # fmt: skip
    identity = fingerprint(architecture.to_json(), data, asdict(config), seed) + cost_key + repr(limits)
    if network.heads:  # otherwise before
        identity += "heads in full" + ("exits weighed" if options.importance == "taylor" else "")
    file = folder / "pruning.pt" if folder else None
    with settings(config):
        rounds = _Rounds(network, data, config, shrink, limits, confirm or judge, seed, file, identity)
        rounds.run()
    tuned = replace(
        config, prune=PruneConfig(), float_epochs=options.epochs, learning_rate=options.learning_rate
    )
    result = train_qat(
        rounds.network.architecture, data, tuned, seed=seed, checkpoint=folder / "tuned.pt" if folder else None,
        on_step=on_step, start=rounds.network.state_dict(),
    )  # fmt: skip
    last = [row["val_accuracy"] for row in result.history if row["phase"] == "float"][-1]
    record = {**rounds.record, "importance": options.importance, "limits": limits}
    record["after"] = {**rounds.record["after"], "val_accuracy": last}
    return Pruned(result, record)


class _Rounds:
    def __init__(
        self,
        network: QatNetwork,
        data: DataSet,
        config: TrainConfig,
        shrink: Shrink,
        limits: dict[str, float],
        confirm: Judge,
        seed: int,
        file: Path | None,
        identity: str,
    ) -> None:
        self.data, self.config, self.options = data, config, config.prune
        self.shrink, self.confirm, self.seed = shrink, confirm, seed
        self.limits, self.asked = dict(limits), dict(limits)
        self.file, self.identity = file, identity
        self.network, self.base = network, network.architecture
        self.device = choose(config.device)
        self.batches = Batches.of(data, config, seed + _SEED_STEP, self.device)
        self.start = shrink.values(widths_of(self.base))
        self.round = 0
        self.record: dict[str, Any] = {}
        self._resume()

    def run(self) -> None:
        if not self.record:
            self.record = {"before": {**self.start, "val_accuracy": self._accuracy()}, "rounds": []}
        while "after" not in self.record:
            if self.round >= self.options.rounds + _CORRECTIONS:
                raise BudgetError(
                    "pruning: the measured cost stays above the limits", hint="loosen [train.prune]"
                )
            self._one_round()
            self.round += 1
            if self.round >= self.options.rounds:
                self._confirm()
            self._save()

    def _one_round(self) -> None:
        options = self.options
        batches = self._batches(self.round * options.batches, options.batches)
        rng = np.random.default_rng((self.seed, self.round))  # only "random" draws from it
        scores = importance(
            self.network, options.importance, batches, rng, exit_weight=self.config.exit_weight
        )
        goal = goals(self.start, self.limits, min(1.0, (self.round + 1) / options.rounds))
        kept = self.shrink.choose(scores, goal, self.start["vetoed"])
        self.network = cut(self.network, kept)
        widths, accuracy_cut = [len(k) for k in kept], self._accuracy()
        self._train()
        self.record["rounds"].append(
            {
                "widths": widths,
                **self.shrink.values(widths),
                "val_accuracy_cut": accuracy_cut,
                "val_accuracy": self._accuracy(),
            }
        )

    def _train(self) -> None:
        options, network = self.options, self.network
        if not options.round_steps:
            return
        optimizer = sgd(network, self.config, network.heads)
        set_rate(optimizer, _BETWEEN * options.learning_rate)
        network.train()
        for x, y in self._batches(self.round * options.round_steps, options.round_steps):
            loss = joint_loss(network.each(x), y, self.config.exit_weight, self.config.label_smoothing)
            if not math.isfinite(float(loss.detach())):
                raise diverged(network, x, "pruning", float(loss.detach()), "train.prune.learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def _batches(self, first: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.batches[first + i] for i in range(count))

    def _confirm(self) -> None:
        """Take the network if its confirmed cost holds, else tighten what it breaks for one more round."""
        graph: OpGraph = self.network.graph
        found, estimated = (
            values_of(graph, self.confirm),
            self.shrink.values(self.record["rounds"][-1]["widths"]),
        )
        over = broken(found, self.asked)
        for name in over:
            self.limits[name] = self.asked[name] * min(1.0, estimated[name] / found[name]) * 0.999**self.round
        if not over:
            self.record["after"] = found

    def _accuracy(self) -> float:
        return accuracy(self.network, self.data.x_val, self.data.y_val, self.device)

    def _save(self) -> None:
        if self.file is not None:
            state = {
                "identity": self.identity,
                "round": self.round,
                "record": self.record,
                "limits": self.limits,
            }
            state |= {"widths": self.record["rounds"][-1]["widths"], "network": self.network.state_dict()}
            save_checkpoint(self.file, state)

    def _resume(self) -> None:
        if self.file is None or not self.file.exists():
            return
        state = load_checkpoint(self.file, self.identity)
        self.round, self.record, self.limits = state["round"], state["record"], state["limits"]
        network = QatNetwork(PrunedArchitecture(base=self.base, widths=tuple(state["widths"])))
        network.load_state_dict(state["network"])
        self.network = network.to(self.device, memory_format=torch.channels_last)
