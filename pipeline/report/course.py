"""How a search went, step by step, whatever its method records. SVG text to place inline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.report.plots import BLUE, GREEN, ORANGE, RED, plt, svg

History = Sequence[dict[str, Any]]
_Part = tuple[str, History, dict[str, float]]  # a board's name, records and limits

_COLORS = (BLUE, ORANGE, GREEN, "#8454b3", "#0e7c86")
_DASHES = ("-", ":", "-.")  # of lines beyond the colours
_COLUMNS = 4
_FEW = 40  # points; more are drawn smaller
_PANEL = (3.25, 2.6)  # inches
_NAMES = {
    "train_loss": "training split", "val_loss": "validation split", "path_loss": "sampled paths",
    "train_accuracy": "training split", "val_accuracy": "validation split", "path_accuracy": "sampled paths",
    "best_accuracy": "best so far", "own_accuracy": "each on its own", "lambda": "λ, one after another",
    "mu": "μ (latency)", "nu": "ν (memory)", "nu_sram_bytes": "ν (SRAM)", "nu_flash_bytes": "ν (flash)",
    "nu_parameters": "ν (parameters)", "entropy": "entropy of the choices",
    "latency_ms": "expected", "asked_latency_ms": "asked for", "sram_bytes": "expected", "flash_bytes": "expected",
    "parameters": "expected", "answer_latency_ms": "most probable choices",
    "multiplier_latency_ms": "multiplier (latency)", "multiplier_sram_bytes": "multiplier (SRAM)",
    "multiplier_flash_bytes": "multiplier (flash)", "multiplier_parameters": "multiplier (parameters)",
}  # fmt: skip
_COSTS = (
    ("latency_ms", "expected latency (ms)", 1.0),
    ("sram_bytes", "expected SRAM (KiB)", 1024.0),
    ("flash_bytes", "expected flash (KiB)", 1024.0),
    ("parameters", "expected parameters (thousands)", 1000.0),
)


def search_course(
    history: History, budgets: dict[str, float], boards: Sequence[tuple[str, dict[str, float]]] = ()
) -> str:
    """Loss, accuracy, expected costs with their limits, multipliers, decidedness; then what else is recorded.

    Panels whose fields no record has are left out, so methods may record what they like. `history` needs a
    number `step`; its other numbers are drawn, anything else is ignored. Where every record has `passes`, they are
    drawn over these: what it cost. Where records say of which board their costs are (`board`, an index), each of
    `boards` (name, budgets; the run's first) has a panel of its latency; memory is that of the run's board.
    """
    fields = {
        name: None
        for row in history
        for name, value in row.items()
        if name not in ("step", "passes") and isinstance(value, int | float) and not isinstance(value, bool)
    }
    panels: list[Callable[[Axes], None]] = []

    def panel(title: str, names: Sequence[str], rows: History = history, **how: Any) -> None:
        there = [name for name in names if name in fields]
        for name in there:
            del fields[name]
        if there:
            panels.append(lambda axis: _lines(axis, rows, title, there, **how))

    panel("cross-entropy", [name for name in fields if name.endswith("_loss")])
    panel("accuracy on the validation split (%)", ["own_accuracy", "best_accuracy"], divisor=0.01)
    panel("accuracy on batches (%)", [name for name in fields if name.endswith("_accuracy")], divisor=0.01)
    fields.pop("board", None)
    served = _by_board(history, budgets, boards)
    for name, title, divisor in _COSTS:
        known = {each: None for each in (name, f"answer_{name}", f"asked_{name}") if each in fields}
        # what is stored does not depend on the board
        split = (
            [("", history, budgets)]
            if name == "parameters"
            else served
            if name == "latency_ms"
            else served[:1]
        )
        for board, part, limits in split:
            limit = limits.get(name)
            if limit or name == "latency_ms":
                fields |= known
                panel(
                    f"{title}, {board}" if board else title, list(known), part, divisor=divisor, limit=limit
                )
        for each in known:
            fields.pop(each, None)
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


def _by_board(
    history: History, budgets: dict[str, float], boards: Sequence[tuple[str, dict[str, float]]]
) -> list[_Part]:
    """Name, records and limits of each board that the records are of; no name where they are all of one."""
    found = sorted({row["board"] for row in history if isinstance(row.get("board"), int)})
    if len(found) < 2 and len(boards) < 2:
        return [("", history, budgets)]
    known = dict(enumerate(boards)) or {0: ("board 0", budgets)}
    parts: list[_Part] = []
    for number in sorted({*found, *known}):
        name, limits = known.get(number, (f"board {number}", {}))
        parts.append((name, [row for row in history if row.get("board") == number], limits))
    return parts


def _unit(most: float) -> tuple[str, float]:
    """What an axis up to `most` counts in: word and size."""
    return ("million ", 1e6) if most >= 1e6 else ("thousand ", 1e3) if most >= 1e3 else ("", 1.0)


def _broken(history: History) -> History:
    """With a gap wherever a sweep's lambda changes: each begins anew, and no line leads from one to the next."""
    rows: list[dict[str, Any]] = []
    for row in history:
        if rows and row.get("lambda") != rows[-1].get("lambda"):
            rows.append({name: row.get(name) for name in ("step", "passes", "lambda") if name in row})
        rows.append(row)
    return rows


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
    history = _broken(history)
    paid = all("passes" in row for row in history)
    unit, many = _unit(max((row["passes"] for row in history), default=0.0) if paid else 0.0)
    steps = [row["passes"] / many if paid else row["step"] for row in history]
    for number, name in enumerate(names):
        again, place = divmod(number, len(_COLORS))
        values = [row.get(name) for row in history]
        numbers = [v / divisor if isinstance(v, int | float) else float("nan") for v in values]
        # what is asked for is drawn anew each step, and architectures do not follow each other: points, not a line
        style: dict[str, Any] = {"color": _COLORS[place], "ls": _DASHES[again % len(_DASHES)], "lw": 1.1} | (
            {"ls": "", "marker": ".", "ms": 3 if len(history) > _FEW else 8, "alpha": 0.6}
            if name.startswith(("asked", "own"))
            else {"drawstyle": "steps-post"}  # the best holds until a better one is found
            if name.startswith("best")
            else {}
        )
        axis.plot(steps, numbers, label=_NAMES.get(name, name.replace("_", " ")), **style)
    if limit:
        axis.axhline(limit / divisor, color=RED, lw=1, ls="--", label="limit")
    if logarithmic:
        positive = [v for row in history for name in names if (v := row.get(name)) and v > 0]
        if any(row.get(name) == 0 for row in history for name in names) and positive:
            axis.set_yscale("symlog", linthresh=min(positive))  # a sweep may begin at 0
        else:
            axis.set_yscale("log")
    elif title != "cross-entropy":
        axis.set_ylim(bottom=0)
    axis.set_title(title)
    axis.set_xlabel(f"{unit}images passed" if paid else "step")
    if not paid:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(names) > 1 or limit or names[0] in _NAMES:
        axis.legend(facecolor="white", edgecolor="none", framealpha=0.8, fontsize=7.5)
