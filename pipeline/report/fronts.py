"""Accuracy against what it costs: the candidates of a run, the methods of a sweep. SVG text to place inline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from pipeline.report.plots import BLUE, GREEN, INK, MUTED, ORANGE, RED, plt, svg
from pipeline.search.hypervolume import front

_PALETTE = (BLUE, ORANGE, GREEN, "#8454b3", "#0e7c86", "#a8562a", "#5f6c7b")
_MARKERS = "osD^vPX"
_BEHIND = {
    "facecolor": "white",
    "edgecolor": "none",
    "alpha": 0.8,
    "pad": 1,
}  # of words that a line may cross
# field of a candidate, axis label, divisor
_LEAST_SPAN = 0.02  # of the largest value, that an axis shows at least
_COSTS = (
    ("latency_ms", "latency (ms)", 1.0),
    ("sram_bytes", "SRAM (KiB, modelled)", 1024.0),
    ("flash_bytes", "flash (KiB, modelled)", 1024.0),
    ("parameters", "parameters (thousands)", 1000.0),
    ("energy_mj", "energy (mJ)", 1.0),
)


def color(index: int) -> str:
    """The color of a sweep's method, by its place."""
    return _PALETTE[index % len(_PALETTE)]


def methods(document: dict[str, Any]) -> str:
    """Left: every winner, and each method's front over all seeds. Right: mean and interval at each limit."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.2), width_ratios=(1.35, 1))
    limits = document["latency_ms"]
    for i, method in enumerate(document["methods"]):
        own = [p for p in document["points"] if p["method"] == method and p["accuracy"] is not None]
        marker = _MARKERS[i % len(_MARKERS)]
        left.scatter(
            [p["latency_ms"] for p in own], [100 * p["accuracy"] for p in own],
            s=22, color=color(i), marker=marker, alpha=0.75, lw=0, label=method, zorder=3,
        )  # fmt: skip
        _staircase(left, document["fronts"][method], 1.0, color(i), end=1.04 * limits[-1])
        _means(right, document["best"], method, i, len(document["methods"]), marker)
    for limit in limits:
        left.axvline(limit, color=RED, lw=0.9, ls="--", zorder=1)
        left.text(
            limit, 1.0, f"{limit:g} ms ", transform=left.get_xaxis_transform(), rotation=90, ha="right", va="top",
            color=RED, fontsize=7.5,
        )  # fmt: skip
    left.set_xlim(right=1.04 * limits[-1])
    left.set_xlabel(f"latency (ms, {document['latency_provenance']})")
    left.set_ylabel("accuracy (%)")
    left.set_title("winners of every search; lines: front over all seeds; dashed: limits")
    left.legend(frameon=False, loc="lower right")
    right.set_xticks(range(len(limits)), [f"{limit:g} ms" for limit in limits])
    right.set_xlim(-0.5, len(limits) - 0.5)
    right.set_xlabel("latency limit")
    right.set_ylabel("accuracy (%)")
    right.set_title("mean over seeds, 95 % bootstrap interval")
    figure.tight_layout()
    return svg(figure)


def _means(
    axis: Axes, best: Sequence[dict[str, Any]], method: str, index: int, count: int, marker: str
) -> None:
    """One point with a bar per limit; methods stand side by side."""
    shift = 0.5 * ((index + 0.5) / count - 0.5)
    rows = [(i + shift, row["methods"][method]) for i, row in enumerate(best) if row["methods"][method]["n"]]
    if rows:
        axis.errorbar(
            [x for x, _ in rows],
            [100 * r["mean"] for _, r in rows],
            yerr=[
                [max(0.0, 100 * (r["mean"] - r["low"])) for _, r in rows],
                [max(0.0, 100 * (r["high"] - r["mean"])) for _, r in rows],
            ],
            fmt=marker, ms=5, color=color(index), capsize=3, lw=1.2,
        )  # fmt: skip


def volumes(found: dict[str, Any], names: Sequence[str]) -> str:
    """Hypervolume of every seed as a dot, mean and interval as a bar; empty where no seed is whole."""
    there = [name for name in names if found["methods"][name]["n"]]
    if not there:
        return ""
    figure, axis = plt.subplots(figsize=(13, 0.75 + 0.42 * len(there)))
    for row, name in enumerate(there):
        shown = found["methods"][name]
        tint = color(names.index(name))
        axis.plot(
            [shown["low"], shown["high"]], [row, row], color=tint, lw=6, alpha=0.3, solid_capstyle="butt"
        )
        axis.plot([shown["mean"]], [row], marker="|", ms=14, mew=2, color=tint)
        axis.scatter(list(shown["seeds"].values()), [row] * shown["n"], s=14, color=INK, zorder=3)
    axis.set_yticks(range(len(there)), there)
    axis.set_ylim(len(there) - 0.5, -0.5)
    axis.set_xlabel("hypervolume (ms × accuracy): dots seeds, bars 95 % bootstrap interval of the mean")
    figure.tight_layout()
    return svg(figure)


def candidates(
    points: Sequence[dict[str, Any]],
    budgets: dict[str, float],
    provenance: str,
    relaxed: dict[str, Any] | None = None,
) -> str:
    """One board's candidates by how long they trained, one panel a limited cost, the chosen one marked.

    `points` hold the costs, `accuracy` (validation split; None: not trained, which stands on the axis),
    `proxy_steps` (0: shared weights), `chosen` and `member` (of the board's family). `provenance` is that of their
    latencies. `relaxed`: the most probable architecture, before any repair. Accuracies after different amounts of
    training do not compare, so each has a front of its own.
    """
    shown = [
        (name, label, divisor)
        for name, label, divisor in _COSTS
        if name == "latency_ms" or (name in budgets and all(p[name] is not None for p in points))
    ]
    figure, grid = plt.subplots(1, len(shown), figsize=(13, 3.6), sharey=True, squeeze=False)
    known = [p for p in points if p["accuracy"] is not None]
    steps = sorted({p["proxy_steps"] for p in known})
    for axis, (name, label, divisor) in zip(grid[0], shown, strict=True):
        for i, count in enumerate(steps):
            group = [p for p in known if p["proxy_steps"] == count]
            tint = MUTED if count == 0 else color(i - (steps[0] == 0))
            axis.scatter(
                [p[name] / divisor for p in group], [100 * p["accuracy"] for p in group], s=18 if count else 11,
                color=tint, lw=0, alpha=0.9 if count else 0.6, zorder=3,
                label="shared weights" if count == 0 else f"{count} steps of its own",
            )  # fmt: skip
            line = front((p[name], p["accuracy"]) for p in group)
            _staircase(axis, line, divisor, tint, end=max(p[name] for p in points))
        _on_axis(axis, [p for p in points if p["accuracy"] is None], name, divisor, "|", "not trained")
        members = [p for p in known if p.get("member")]
        if members:
            axis.scatter(
                [p[name] / divisor for p in members], [100 * p["accuracy"] for p in members], s=52,
                facecolor="none", edgecolor=INK, lw=0.9, zorder=4, label="member of the board's family",
            )  # fmt: skip
        for p in points:
            if p["chosen"] and p["accuracy"] is None:
                _on_axis(axis, [p], name, divisor, "o", "chosen, not trained", tint=RED, hollow=True)
            elif p["chosen"]:
                axis.scatter(
                    [p[name] / divisor], [100 * p["accuracy"]], s=130, facecolor="none", edgecolor=RED, lw=1.6,
                    zorder=4, label="chosen",
                )  # fmt: skip
        if relaxed is not None and relaxed["accuracy"] is None:
            _on_axis(axis, [relaxed], name, divisor, "X", "most probable, before repair (not trained)")
        elif relaxed is not None:
            axis.plot(
                [relaxed[name] / divisor], [100 * relaxed["accuracy"]], "X", ms=7, color=INK, zorder=4, ls="",
                label="most probable, before repair",
            )  # fmt: skip
        _limit(axis, budgets.get(name), divisor, max(p[name] for p in points))
        _no_noise(axis, max(p[name] for p in points) / divisor)
        axis.set_xlabel(f"latency (ms, {provenance})" if name == "latency_ms" else label)
    grid[0][0].set_ylabel("accuracy, validation (%)")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=len(labels), frameon=False, bbox_to_anchor=(0.5, 1.0)
    )
    figure.tight_layout()
    return svg(figure)


def _no_noise(axis: Axes, largest: float) -> None:
    """Costs that hardly differ are not spread over the whole axis, and ticks say whole numbers."""
    low, high = axis.get_xlim()
    short = _LEAST_SPAN * largest - (high - low)
    if short > 0:
        axis.set_xlim(low - short / 2, high + short / 2)
    axis.ticklabel_format(axis="x", style="plain", useOffset=False)


def _on_axis(
    axis: Axes,
    points: Sequence[dict[str, Any]],
    name: str,
    divisor: float,
    marker: str,
    label: str,
    *,
    tint: str = INK,
    hollow: bool = False,
) -> None:
    """Where only the cost is known: no accuracy is no accuracy of 0 %."""
    if points:
        axis.plot(
            [p[name] / divisor for p in points], [0.02] * len(points), marker, ms=7, color=tint, ls="", zorder=4,
            markerfacecolor="none" if hollow else tint, transform=axis.get_xaxis_transform(), label=label,
        )  # fmt: skip


def _limit(axis: Axes, limit: float | None, divisor: float, largest: float) -> None:
    """The budget as a line; where it is far off, as words, so that the points keep their room."""
    if limit is None:
        return
    if limit <= 2 * largest:
        axis.axvline(limit / divisor, color=RED, lw=1, ls="--", zorder=1)
        axis.text(
            limit / divisor, 0.02, f"limit {limit / divisor:,.4g} ", transform=axis.get_xaxis_transform(),
            ha="right", va="bottom", rotation=90, color=RED, fontsize=7.5, bbox=_BEHIND, zorder=2.5,
        )  # fmt: skip
    else:
        axis.text(
            1.0, 1.01, f"limit {limit / divisor:,.4g} →", transform=axis.transAxes, ha="right", va="bottom",
            color=RED, fontsize=7.5,
        )  # fmt: skip


def _staircase(axis: Axes, line: Sequence[Sequence[float]], divisor: float, tint: str, *, end: float) -> None:
    """A front: between two members the cheaper one's accuracy holds."""
    if line:
        x = [p[0] / divisor for p in line] + [max(end, line[-1][0]) / divisor]
        y = [100 * p[1] for p in line] + [100 * line[-1][1]]
        axis.step(x, y, where="post", color=tint, lw=1.1, alpha=0.8, zorder=2)
