"""The architecture as a picture: a box a block, with what it costs. SVG text to place inline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from pipeline.report.plots import BLUE, GREEN, GRID, INK, MUTED, ORANGE, plt, svg
from pipeline.space.architecture import operator_parameters
from pipeline.space.opspec import OpSpec

_FAMILIES = {
    "dw": (BLUE, "depthwise separable"),
    "ir": (ORANGE, "inverted residual"),
    "se": (GREEN, "squeeze-and-excitation"),
    "ce": ("#8454b3", "drawn below"),  # pipeline.report.celldag
}
_OTHER = ("#5f6c7b", "")
_TALLEST = 1.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of layers that belong together; `shape` is (height, width, channels) of what leaves it."""

    name: str
    op: str
    entering: tuple[int, int, int]
    shape: tuple[int, int, int]
    cycles: float
    parameters: int
    residual: bool


def stages(layers: Sequence[dict[str, Any]]) -> list[Stage]:
    """Layers of the report grouped by the first part of their name, `block0/dw3/depthwise` into `block0`."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        groups.setdefault(layer["name"].split("/")[0], []).append(layer)
    found = []
    for name, group in groups.items():
        ops = [OpSpec.from_key(layer["op"]) for layer in group]
        parts = group[0]["name"].split("/")
        cell = re.fullmatch(r"cell\d+", name) is not None
        found.append(
            Stage(
                name=name,
                op="cell" if cell else parts[1] if len(parts) > 2 else _plain(name, ops),
                entering=(ops[0].in_h, ops[0].in_w, ops[0].in_c),
                shape=(ops[-1].out_h, ops[-1].out_w, ops[-1].out_c),
                cycles=sum(_cycles(layer) for layer in group),
                parameters=sum(operator_parameters(op) for op in ops),
                residual=not cell and any(op.kind == "add" for op in ops),
            )
        )
    return found


def _plain(name: str, ops: Sequence[OpSpec]) -> str:
    """Stem and heads have no choice of operator: the first operator's kind says it."""
    if name == "head" or name.startswith("exit"):
        return "mean + dense" if name == "head" else "early exit"
    first = ops[0]
    kinds = {"conv2d": f"conv {first.kernel_h}×{first.kernel_w}", "max_pool2d": "max pool"}
    return kinds.get(first.kind, first.kind.replace("_", " "))


def _cycles(layer: dict[str, Any]) -> float:
    seen = layer.get("emulated_cycles")
    return float(layer["predicted_cycles"] if seen is None else seen)


def architecture(layers: Sequence[dict[str, Any]]) -> str:
    """One box a stage: as high as its image, as wide as its channels; beneath, its shares of time and weights.

    Empty for a model without layers. `layers` are the rows of the report.
    """
    found = stages(layers)
    if not found:
        return ""
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(13, 5.2), height_ratios=(1.9, 1), sharex=True, gridspec_kw={"hspace": 0.06}
    )
    first = OpSpec.from_key(layers[0]["op"])
    everything = (first.in_h, first.in_w, first.in_c)
    tallest = max([everything[0], *(s.shape[0] for s in found)])
    widest = max([everything[2], *(s.shape[2] for s in found)])
    _box(top, 0, everything, tallest, widest, MUTED)
    _words(top, 0, "input", "", everything)
    for x, stage in enumerate(found, start=1):
        tint, family = _FAMILIES.get(stage.op[:2], _OTHER) if stage.op != "skip" else _OTHER
        _box(top, x, stage.shape, tallest, widest, tint)
        halved = stage.shape[0] > 1 and 2 * stage.shape[0] - 1 <= stage.entering[0]
        _words(top, x, stage.op + ("  /2" if halved else ""), family, stage.shape)
        # an exit is a side branch: what follows it takes what came before it
        branch = x > 1 and found[x - 2].op == "early exit"
        bend = {"connectionstyle": "arc3,rad=0.35"} if branch else {}
        top.annotate(
            "", (x - 0.42, 0), (x - (1.58 if branch else 0.58), 0), zorder=1,
            arrowprops={"arrowstyle": "-|>", "color": MUTED, "lw": 1, **bend},
        )  # fmt: skip
        if stage.residual:
            top.annotate(
                "", (x + 0.46, 0.03), (x - 0.46, 0.03), zorder=1,
                arrowprops={"arrowstyle": "-|>", "color": ORANGE, "lw": 1, "connectionstyle": "arc3,rad=-0.55"},
            )  # fmt: skip
    top.set_xlim(-0.6, len(found) + 0.6)
    top.set_ylim(-0.72, 0.84)
    top.set_axis_off()
    _shares(bottom, found)
    return svg(figure)


def _box(axis: Axes, x: float, shape: tuple[int, int, int], tallest: int, widest: int, tint: str) -> None:
    height = max(0.06, 0.92 * _TALLEST * shape[0] / tallest)
    width = 0.12 + 0.68 * shape[2] / widest
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, -height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.03",
            facecolor=tint, alpha=0.28, edgecolor=tint, lw=1.3, mutation_aspect=1.0, zorder=2,
        )
    )  # fmt: skip


def _words(axis: Axes, x: float, title: str, family: str, shape: tuple[int, int, int]) -> None:
    axis.text(x, 0.66, title, ha="center", va="bottom", color=INK, fontsize=10, fontweight="bold")
    axis.text(
        x,
        0.635,
        re.sub("[- ]", "\n", family),
        ha="center",
        va="top",
        color=MUTED,
        fontsize=6.5,
        linespacing=1.0,
    )
    axis.text(x, -0.56, "×".join(map(str, shape)), ha="center", va="top", color=INK, fontsize=8.5)


def _shares(axis: Axes, found: Sequence[Stage]) -> None:
    """Percentages of latency and of parameters, stage by stage."""
    for shift, name, values, tint in (
        (-0.18, "latency", [s.cycles for s in found], BLUE),
        (0.18, "parameters", [s.parameters for s in found], "#8454b3"),
    ):
        whole = sum(values) or 1
        shares = [100 * v / whole for v in values]
        places = [x + shift for x in range(1, len(found) + 1)]
        axis.bar(places, shares, width=0.34, color=tint, alpha=0.8, label=f"share of {name}")
        for x, share in zip(places, shares, strict=True):
            axis.text(
                x,
                share,
                f"{share:.0f}" if share >= 1 or not share else "<1",
                ha="center",
                va="bottom",
                fontsize=7.5,
            )
    axis.set_xticks(range(len(found) + 1), ["", *(stage.name for stage in found)])
    axis.tick_params(axis="x", length=0)
    axis.grid(axis="x", visible=False)
    axis.set_ylabel("%")
    axis.margins(y=0.18)
    # beneath the names: in the axes it would lie over the first bars
    axis.legend(
        frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8, borderaxespad=0
    )
    axis.spines["bottom"].set_color(GRID)
