"""Plots of the report, as SVG text to be placed inline."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, GREEN, RED = "#2563a8", "#d9822b", "#2f8f5b", "#c23030"

mpl.rcParams.update(
    {
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "svg.fonttype": "none",  # text stays text: small, selectable
        "svg.hashsalt": "edgenas",  # the same figures give the same file
    }
)


def svg(figure: Canvas) -> str:
    """The figure as an <svg> element; closes it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def training_progress(history: Sequence[dict[str, Any]]) -> str:
    """Training loss and validation accuracy per epoch; the quantization-aware epochs are shaded."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.5))
    epochs = [row["epoch"] for row in history]
    quantized = [row["epoch"] for row in history if row["phase"] == "qat"]
    for axis, name, scale in ((axes[0], "loss", 1.0), (axes[1], "val_accuracy", 100.0)):
        axis.plot(
            epochs, [row.get(name, float("nan")) * scale for row in history], color=BLUE, lw=1.4, marker="."
        )
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if quantized:
            axis.axvspan(min(quantized) - 0.5, max(quantized) + 0.5, color=ORANGE, alpha=0.12, lw=0)
    axes[0].set_title("training loss")
    axes[1].set_title("validation accuracy (%)")
    if quantized:
        axes[1].text(
            0.98, 0.04, "shaded: quantization-aware", transform=axes[1].transAxes, ha="right", color=ORANGE
        )
    figure.tight_layout()
    return svg(figure)


def arena_map(buffers: Sequence[dict[str, Any]], arena_bytes: int, layers: int) -> str:
    """The planned arena: each buffer a rectangle over the layers it lives and the bytes it takes.

    `buffers` hold name, offset, bytes, first and last (layer indices, inclusive).
    """
    figure, axis = plt.subplots(figsize=(13, 3.2))
    palette = [BLUE, ORANGE, GREEN, "#8454b3", "#0e7c86", "#a8562a", "#5f6c7b"]
    for number, buffer in enumerate(buffers):
        width = buffer["last"] - buffer["first"] + 1
        color = palette[number % len(palette)]
        axis.add_patch(
            Rectangle(
                (buffer["first"] - 0.5, buffer["offset"]),
                width,
                buffer["bytes"],
                facecolor=color,
                alpha=0.55,
                edgecolor="white",
                lw=0.8,
            )
        )
        if buffer["bytes"] > 0.09 * arena_bytes:
            axis.text(
                buffer["first"] - 0.5 + width / 2,
                buffer["offset"] + buffer["bytes"] / 2,
                f"{buffer['bytes'] / 1024:.1f} KiB",
                ha="center",
                va="center",
                fontsize=7,
                color=INK,
            )
    axis.axhline(arena_bytes, color=RED, lw=1, ls="--")
    axis.text(layers - 0.5, arena_bytes, f" arena {arena_bytes:,} bytes", color=RED, va="bottom", ha="right")
    axis.set_xlim(-0.6, max(layers, 1) - 0.4)
    axis.set_ylim(0, arena_bytes * 1.1 if arena_bytes else 1)
    axis.set_xlabel("layer")
    axis.set_ylabel("offset (bytes)")
    figure.tight_layout()
    return svg(figure)


def layer_latency(layers: Sequence[dict[str, Any]], observed: dict[str, str]) -> str:
    """Predicted beside observed cycles per layer; `observed` says how these came about."""
    figure, axis = plt.subplots(figsize=(13, 2.6))
    index = [layer["index"] for layer in layers]
    axis.bar(
        [i - 0.2 for i in index],
        [layer["predicted_cycles"] / 1e3 for layer in layers],
        width=0.4,
        color=BLUE,
        label="predicted (LUT)",
    )
    emulated = [layer.get("emulated_cycles") for layer in layers]
    if any(value is not None for value in emulated):
        axis.bar(
            [i + 0.2 for i in index],
            [(value or 0) / 1e3 for value in emulated],
            width=0.4,
            color=ORANGE,
            label=observed["name"]
            if observed["name"] == observed["provenance"]
            else f"{observed['name']} ({observed['provenance']})",
        )
    axis.set_xlabel("layer")
    axis.set_ylabel("kilocycles")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.legend(frameon=False)
    axis.margins(x=0.01)
    figure.tight_layout()
    return svg(figure)
