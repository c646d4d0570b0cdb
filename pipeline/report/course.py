"""How a search went, step by step, whatever its method records. SVG text to place inline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from pipeline.report.plots import BLUE, GREEN, ORANGE, RED, plt, svg

History = Sequence[dict[str, Any]]

_COLORS = (BLUE, ORANGE, GREEN, "#8454b3", "#0e7c86")
_COLUMNS = 4
_PANEL = (3.25, 2.6)  # inches
_NAMES = {
    "train_loss": "training split", "val_loss": "validation split", "path_loss": "sampled paths",
    "train_accuracy": "training split", "val_accuracy": "validation split", "path_accuracy": "sampled paths",
    "best_accuracy": "best so far", "own_accuracy": "each on its own",
    "mu": "μ (latency)", "nu": "ν (memory)", "nu_sram_bytes": "ν (SRAM)", "nu_flash_bytes": "ν (flash)",
    "nu_parameters": "ν (parameters)", "entropy": "entropy of the choices",
    "latency_ms": "expected", "asked_latency_ms": "asked for", "sram_bytes": "expected", "flash_bytes": "expected",
    "parameters": "expected",
}  # fmt: skip
_COSTS = (
    ("latency_ms", "expected latency (ms)", 1.0),
    ("sram_bytes", "expected SRAM (KiB)", 1024.0),
    ("flash_bytes", "expected flash (KiB)", 1024.0),
    ("parameters", "expected parameters (thousands)", 1000.0),
)


def search_course(history: History, budgets: dict[str, float]) -> str:
    """Loss, accuracy, expected costs with their limits, multipliers, decidedness; then what else is recorded.

    Panels whose fields no record has are left out, so methods may record what they like. `history` needs a
    number `step`; its other numbers are drawn, anything else is ignored. Where every record has `passes`, they are
    drawn over these: what it cost.
    """
    fields = {
        name: None
        for row in history
        for name, value in row.items()
        if name not in ("step", "passes") and isinstance(value, int | float) and not isinstance(value, bool)
    }
    panels: list[Callable[[Axes], None]] = []

    def panel(title: str, names: Sequence[str], **how: Any) -> None:
        there = [name for name in names if name in fields]
        for name in there:
            del fields[name]
        if there:
            panels.append(lambda axis: _lines(axis, history, title, there, **how))

    panel("cross-entropy", [name for name in fields if name.endswith("_loss")])
    panel("accuracy on the validation split (%)", ["own_accuracy", "best_accuracy"], divisor=0.01)
    panel("accuracy on batches (%)", [name for name in fields if name.endswith("_accuracy")], divisor=0.01)
    for name, title, divisor in _COSTS:
        limit = budgets.get(name)
        if limit or name == "latency_ms":
            panel(title, [name, f"asked_{name}"], divisor=divisor, limit=limit)
        fields.pop(name, None)
    coefficients = [n for n in fields if n in ("mu", "nu") or n.startswith(("nu_", "lambda", "multiplier"))]
    panel("penalty multipliers", coefficients, logarithmic=True)
    panel("how decided the search is", ["entropy", "temperature"])
    for name in list(fields):
        panel(name.replace("_", " "), [name])

    rows = -(-len(panels) // _COLUMNS)
    if not rows:
        return ""
    columns = min(_COLUMNS, len(panels))
    figure, grid = plt.subplots(
        rows, columns, figsize=(_PANEL[0] * _COLUMNS, _PANEL[1] * rows), squeeze=False
    )
    for axis, draw in zip(grid.flat, panels, strict=False):
        draw(axis)
    for axis in list(grid.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.tight_layout()
    return svg(figure)


def _lines(
    axis: Axes,
    history: History,
    title: str,
    names: Sequence[str],
    *,
    divisor: float = 1.0,
    limit: float | None = None,
    logarithmic: bool = False,
) -> None:
    paid = all("passes" in row for row in history)
    steps = [row["passes"] / 1e6 if paid else row["step"] for row in history]
    for name, tint in zip(names, _COLORS * len(names), strict=False):
        values = [row.get(name) for row in history]
        numbers = [v / divisor if isinstance(v, int | float) else float("nan") for v in values]
        # what is asked for is drawn anew each step, and architectures do not follow each other: points, not a line
        style: dict[str, Any] = (
            {"ls": "", "marker": ".", "ms": 3, "alpha": 0.6} if name.startswith(("asked", "own")) else {}
        )
        axis.plot(steps, numbers, color=tint, lw=1.1, label=_NAMES.get(name, name.replace("_", " ")), **style)
    if limit:
        axis.axhline(limit / divisor, color=RED, lw=1, ls="--", label="limit")
    if logarithmic:
        axis.set_yscale("log")
    elif title != "cross-entropy":
        axis.set_ylim(bottom=0)
    axis.set_title(title)
    axis.set_xlabel("million images passed" if paid else "step")
    if len(names) > 1 or limit or names[0] in _NAMES:
        axis.legend(frameon=False, fontsize=7.5)
