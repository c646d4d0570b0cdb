"""Fitting a latency predictor to whole models, and differentiating through it (HW-DARTS).

Without further data a network learns little that a latency table does not know already, so by default it
learns log(observed / table). How much of what it says is kept is decided by cross-validation: a network that
cannot tell left-out models apart says nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.latency.predictor import (
    Floats,
    LatencyPredictor,
    Layers,
    PredictorIdentity,
    Singles,
    features,
    forward,
)
from pipeline.search.cell_costs import CellTables
from pipeline.search.costs import CostTables
from pipeline.search.predictorconfig import PredictorConfig
from pipeline.search.ranking import kendall, spearman
from pipeline.train.seeding import seeded

_FOLDS = 5
_FEWEST = 10  # models in the fit; below, cross-validation has nothing to stand on


def predicted_latency(
    predictor: LatencyPredictor, ops: Tensor, widths: Tensor, table_ms: Tensor, skip: int | None
) -> Tensor:
    """Latency in ms (a scalar) of the distribution `ops` (blocks, ops), `widths` (blocks, channels).

    Differentiable; `table_ms` is the table's expectation. For one-hot rows it is `latency_many`'s.
    """
    wide = widths if skip is None else widths * (1.0 - ops[:, skip : skip + 1])
    return predicted_from(predictor, torch.cat((ops, wide), 1).flatten(), table_ms)


def predicted_from(predictor: LatencyPredictor, features: Tensor, table_ms: Tensor) -> Tensor:
    """Latency in ms (a scalar) for one architecture's `features`, in their precision; differentiable."""
    hidden, dtype = features, features.dtype
    layers = [(torch.from_numpy(w).to(dtype), torch.from_numpy(b).to(dtype)) for w, b in predictor.layers]
    for weights, biases in layers[:-1]:
        hidden = F.silu(F.linear(hidden, weights, biases))
    out = F.linear(hidden, *layers[-1])[0]
    factor = torch.exp(predictor.offset + predictor.scale * out)
    return table_ms * factor if predictor.residual else factor


def fit_predictor(
    tables: CostTables | CellTables,
    paths: ArrayLike,
    observed_ms: ArrayLike,
    identity: PredictorIdentity,
    config: PredictorConfig,
    *,
    provenance: str,
    seed: int = 0,
) -> LatencyPredictor:
    """Fit to `paths` (n, blocks, 2), of cells (n, edges), whose whole latency was `observed_ms` (n,).

    Deterministic, on one torch thread: the network is too small for more. The last `config.held_out` of the
    models only state `errors`, the table's beside the predictor's. Raises ConfigError where there are too few
    models, and where the fit diverges.
    """
    index = np.asarray(paths, np.int64)
    observed = np.asarray(observed_ms, np.float64)
    x, table = features(tables.space, index), tables.latency_many(index)
    fitted = len(observed) - max(2, round(config.held_out * len(observed)))
    if fitted < _FEWEST:
        raise ConfigError(
            f"{len(observed)} models are too few to fit a latency predictor",
            hint=f"at least {_FEWEST} must remain beside those that state its error; raise --models",
        )
    target = np.log(observed / table) if config.residual else np.log(observed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layers, offset, scale = _fit(x[:fitted], target[:fitted], config, seed)
    finally:
        torch.set_num_threads(threads)
    predictor = LatencyPredictor(
        identity, layers, config.residual, offset, scale, provenance, models=len(observed)
    )
    held = slice(fitted, None)
    found = {
        "fitted": fitted,
        "held_out": len(observed) - fitted,
        "predictor": errors(predictor.latency_many(x[held], table[held]), observed[held]),
        "table": errors(table[held], observed[held]),
    }
    return replace(predictor, errors=found)


def errors(estimate_ms: Floats, observed_ms: Floats) -> dict[str, Any]:
    """MAE in ms, MAPE and worst as fractions, and the rank correlations."""
    relative = np.abs(estimate_ms / observed_ms - 1.0)
    a, b = [float(v) for v in estimate_ms], [float(v) for v in observed_ms]
    return {
        "mae_ms": float(np.abs(estimate_ms - observed_ms).mean()),
        "mape": float(relative.mean()),
        "worst": float(relative.max()),
        "spearman": spearman(a, b),
        "kendall": kendall(a, b),
    }


def _fit(x: Singles, target: Floats, config: PredictorConfig, seed: int) -> tuple[Layers, float, float]:
    """The network on standardized targets, their middle, and their deviation times what is kept of it."""
    middle, deviation = float(np.median(target)), float(target.std())
    # A correction of the table that cannot be told from none (twice a median's standard error) is left out.
    if config.residual and abs(middle) < 2 * 1.2533 * deviation / np.sqrt(len(target)):
        middle = 0.0
    if deviation == 0.0:
        return _train(x, np.zeros_like(target), config, seed), middle, 0.0
    standard = (target - middle) / deviation
    fold = np.random.default_rng([seed, 0xF01D]).permutation(len(target)) % _FOLDS
    left_out = np.zeros_like(standard)
    for k in range(_FOLDS):
        layers = _train(x[fold != k], standard[fold != k], config, seed)
        left_out[fold == k] = forward(layers, x[fold == k])
    # Least squares of the left-out targets on what was said of them.
    said = float(left_out @ left_out)
    keep = float(np.clip(float(left_out @ standard) / max(said, 1e-12), 0.0, 1.0))
    return _train(x, standard, config, seed), middle, deviation * keep


def _train(x: Singles, y: Floats, config: PredictorConfig, seed: int) -> Layers:
    with seeded(seed):
        first, last = nn.Linear(x.shape[1], config.hidden), nn.Linear(config.hidden, 1)
    net = nn.Sequential(first, nn.SiLU(), last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    inputs, wanted = torch.from_numpy(x), torch.from_numpy(y.astype(np.float32))
    with torch.enable_grad():
        for _ in range(config.steps):
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(net(inputs)[:, 0], wanted).backward()
            optimizer.step()
            schedule.step()
    if not all(bool(torch.isfinite(p).all()) for p in net.parameters()):
        raise ConfigError("the latency predictor's fit diverged", hint="lower search.predictor.lr")
    return tuple(
        (layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in (first, last)
    )
