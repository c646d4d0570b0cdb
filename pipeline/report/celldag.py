"""The cells of a network as graphs: nodes, and the operator on every edge. SVG text to place inline."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from pipeline.report.plots import BLUE, GRID, INK, MUTED, ORANGE, plt, svg
from pipeline.space.cells import edges, node_count

_TINTS = {"conv": BLUE, "pool": ORANGE, "identity": MUTED}
_RISE = 0.62  # of an edge, for each node that it passes
_WIDEST = 18  # nodes side by side in one row of graphs


def cells(architecture: dict[str, Any]) -> str:
    """A graph for each different cell of an architecture (its JSON, pruned or not); empty where it has none."""
    every = architecture.get("base", architecture).get("cells", ())
    named: dict[tuple[str, ...], list[str]] = {}
    for place, ops in enumerate(every):
        named.setdefault(tuple(ops), []).append(f"cell{place}")
    if not named:
        return ""
    most = max(node_count(len(ops)) for ops in named)
    columns = max(1, min(len(named), _WIDEST // (most + 2)))
    rows = -(-len(named) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(13, 3.6 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (ops, names) in zip(axes.flat, named.items(), strict=False):
        _draw(axis, ops)
        axis.set_title(", ".join(names), color=INK, fontsize=10, fontweight="bold")
    figure.tight_layout()
    return svg(figure)


def _draw(axis: Axes, ops: tuple[str, ...]) -> None:
    """Input, nodes and output from left to right; operators above, what the output sums beneath."""
    nodes = node_count(len(ops))
    last = nodes + 1
    for (node, source), op in zip(edges(nodes), ops, strict=True):
        end = node + 1
        top = _RISE * (end - source - 1)
        _arc(axis, source, end, top, _TINTS.get(op, INK), dashed=op == "identity")
        axis.text(
            (source + end) / 2, top, op, ha="center", va="center", fontsize=8, color=_TINTS.get(op, INK),
            zorder=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    for node in range(1, last):
        _arc(axis, node, last, -0.35 * (last - node - 1), GRID, dashed=False)
    labels = ["in", *map(str, range(1, last)), "out"]
    for x, label in enumerate(labels):
        axis.text(
            x, 0, label, ha="center", va="center", fontsize=9, color=INK, zorder=5,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": INK if label.isdigit() else MUTED},
        )  # fmt: skip
    axis.set_xlim(-0.4, last + 0.4)
    axis.set_ylim(-0.35 * nodes - 0.1, _RISE * max(1, nodes - 1) + 0.35)


def _arc(axis: Axes, start: float, end: float, top: float, tint: str, *, dashed: bool) -> None:
    """A line between two nodes whose middle is `top` high."""
    curve = Path(
        [(start, 0.0), ((start + end) / 2, 2 * top), (end, 0.0)], [Path.MOVETO, Path.CURVE3, Path.CURVE3]
    )
    axis.add_patch(
        PathPatch(
            curve, facecolor="none", edgecolor=tint, lw=1.4, linestyle="--" if dashed else "-", zorder=2
        )
    )
