"""What `run` and `validate` print at the end."""

from __future__ import annotations

from typing import Any

from pipeline.cli.common import print_figures, stdout
from pipeline.figures import Figure

_LABELS = {"latency_ms": "latency", "energy_mj": "energy", "sram_bytes": "SRAM", "flash_bytes": "flash"}


def print_outcome(document: dict[str, Any]) -> None:
    """Figures beside their budgets, then the verdict."""
    rows = []
    for name, figure in document["accuracy"].items():
        if figure:
            rows.append((f"accuracy, {name.replace('_', '-')}", Figure.from_json(figure)))
    for key, label in _LABELS.items():
        for source, figure in document.get(key, {}).items():
            rows.append((f"{label}, {source}", Figure.from_json(figure)))
        if key in document["budgets"]:
            rows.append((f"{label}, budget", Figure.from_json(document["budgets"][key])))
    for name, figure in (document.get("exits") or {}).get("expected_ms", {}).items():
        rows.append((f"latency, expected on {name}", Figure.from_json(figure)))
    sound = document.get("front_end")
    if sound:
        for source, figure in sound["latency_ms"].items():
            rows.append((f"front end, {source}", Figure.from_json(figure)))
    print_figures(document["name"], rows)
    parity = document["parity"]
    stdout.print(
        f"{document['parameters']:,} parameters; {parity['images']} images on the device, "
        f"{parity['mismatches']} differ from {parity['reference']}",
        markup=False,
    )
    if sound:
        parity = sound["parity"]
        stdout.print(
            f"front end: the features of {parity['mismatches']} of {parity['clips']} clips ({parity['source']}) "
            "differ from NumPy's",
            markup=False,
        )
    for reason in document["reasons"]:
        stdout.print(f"NOT ACCEPTED: {reason}", markup=False)
    if document["feasible"]:
        stdout.print("every budget holds, every byte agrees", markup=False)
