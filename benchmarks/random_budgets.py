"""Runs with random budgets on four boards: whether what is exported and linked keeps each of them.

    python benchmarks/random_budgets.py --runs 100 --journal random_budgets.jsonl > random_budgets.txt
    python benchmarks/random_budgets.py --space cells --runs 48 --journal cells.jsonl

Each run is what `edgenas run` does, from a run file: search, training (one epoch, quantization-aware), export,
firmware, and two images on the emulated board. Boards and methods take turns, some runs of blocks have early exits,
some of either space prune. The budgets are drawn at random, some below the smallest network. They are held here
against what the linked program says (bytes in the ELF, told by the device too), the emulated latency and the exported
file's parameters, not against predictions. Where a run says that nothing fits, every architecture of the space is
costed to see whether that is so. "Headroom" is how far the observed figure lies below the predicted one: a limit that
lies between them would be broken. Each run is a line of the journal, one journal a space, and is not done again.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.boards import load_board
from pipeline.errors import BudgetError, EdgeNasError
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.profiler.profile import lut_path, obtain
from pipeline.progress import Reporter
from pipeline.run import Run
from pipeline.search.candidates import UNITS
from pipeline.space import Budgets, Cost
from pipeline.space.architecture import Architecture, lower, parameters
from pipeline.space.cells import CELL_OPS, CellSpace
from pipeline.space.search_space import SearchSpace

BOARDS = ("qemu-cortex-m4", "qemu-cortex-m7", "qemu-rv32", "qemu-cortex-a53")
METHODS = {
    "blocks": ("edgenas", "hypernetwork", "random", "evolution", "hwdarts", "mobilenetv2"),
    "cells": ("hypernetwork", "random", "evolution", "hwdarts"),
}
STRIDES, OPS, CHANNELS = (2, 2, 1), ("dw3", "ir2", "se4", "skip"), (16, 24, 32)
NODES, CELL_STEM, CELL_CHANNELS, CELL_STRIDES = 2, 8, (8, 16), (2, 2)
# a limit over the quantile that it is drawn from: costs of cells lie close together
SLACK = {"blocks": (0.75, 1.1), "cells": (0.95, 1.1)}
LIMITED = ("latency_ms", "sram_bytes", "flash_bytes", "parameters")

RUNFILE = """\
name = "{name}"
board = "{board}"
seed = {seed}

[data]
name = "{data}"
limit = 200

[budgets]
{budgets}

[space]
{space}

[search]
method = "{method}"
warmup_steps = 4
steps = 6
batch_size = 16
validation_batch_size = 16
paths = 2
candidates = 6
ranking_images = 40
semifinalists = 2
semifinal_steps = 2
finalists = 1
proxy_steps = 4
threads = 1
device = "cpu"

{hyper}

[train]
float_epochs = 1
qat_epochs = 1
batch_size = 32
threads = 1
calibration_batches = 2

{prune}

[validate]
images = 2
"""
HYPER = {
    "blocks": "[search.hyper]\nfamily = 4",
    # so that limits count beside S (docs/search.md, "Cell spaces")
    "cells": "[search.hyper]\nfamily = 4\ncondition_weight = 10.0\nspend_weight = 3.0",
}
PRUNE = """\
[train.prune]
fraction = 0.3
rounds = 1
round_steps = 2
batches = 2
epochs = 1
"""


def space_of(kind: str, exits: tuple[int, ...]) -> SearchSpace | CellSpace:
    if kind == "cells":
        return CellSpace((28, 28, 1), 10, CELL_STEM, 1, CELL_CHANNELS, CELL_STRIDES, NODES)
    return SearchSpace((28, 28, 1), 10, strides=STRIDES, ops=OPS, channels=CHANNELS, exits=exits)


def space_lines(kind: str, exits: tuple[int, ...]) -> str:
    """`space_of` as a run file says it."""
    lines: dict[str, Any] = {"strides": STRIDES, "ops": OPS, "channels": CHANNELS}
    if kind == "cells":
        lines = {
            "kind": "cells", "nodes": NODES, "stem_channels": CELL_STEM, "channels": CELL_CHANNELS,
            "strides": CELL_STRIDES, "ops": CELL_OPS,
        }  # fmt: skip
    if exits:
        lines["exits"] = exits
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())


def everything(space: SearchSpace | CellSpace) -> Iterator[Architecture]:
    if isinstance(space, CellSpace):
        return map(space.build, itertools.product(range(len(space.ops)), repeat=space.positions))
    return (space.build(choices) for choices in itertools.product(space.options, repeat=len(STRIDES)))


@functools.cache
def space_costs(
    board: str, kind: str, exits: tuple[int, ...], count: int = 0, tables: Path | None = None
) -> tuple[Cost, ...]:
    """The predicted cost of every architecture of the space, or of `count` random ones, by the board's table in
    `tables` or the one that ships."""
    space, loaded = space_of(kind, exits), load_board(board)
    own = lut_path(loaded, tables) if tables else lut_path(loaded)
    model = CostModel(loaded, Lut.load(own if own.is_file() else lut_path(loaded)))
    rng = np.random.default_rng(0)
    chosen = (space.random(rng) for _ in range(count)) if count else everything(space)
    return tuple(model.evaluate(lower(a), parameters(a)) for a in chosen)


def draw_budgets(
    rng: np.random.Generator, costs: tuple[Cost, ...], board: str, slack: tuple[float, float]
) -> Budgets:
    """A deadline, and each other budget or none, near random quantiles of `costs`; some below the space's smallest.

    Never more than the board has: a run file may not say so.
    """
    memory = load_board(board).memory
    most = {"sram_bytes": memory.sram.bytes, "flash_bytes": memory.flash.bytes}
    limits: dict[str, Any] = {}
    for name in LIMITED:
        if name != "latency_ms" and rng.random() < 0.3:
            continue
        values = np.array([getattr(c, name) for c in costs])
        limit = float(np.quantile(values, rng.random() ** 2)) * rng.uniform(*slack)
        limits[name] = round(limit, 4) if name == "latency_ms" else min(int(limit), most.get(name, 1 << 62))
    return Budgets(**limits)


def run_file(
    number: int, space: str = "blocks", tables: Path | None = None
) -> tuple[str, Budgets, tuple[int, ...]]:
    """Run `number` in that kind of space, complete: its text, budgets and exits."""
    rng = np.random.default_rng([number, 0xB0D])
    board = BOARDS[number % len(BOARDS)]
    # a whole round of boards per method, so that the two do not go in step
    methods = METHODS[space]
    method = methods[number // len(BOARDS) % len(methods)]
    kind = rng.choice(["plain", "exits", "prune"], p=[0.8, 0.1, 0.1])
    exits = (1,) if kind == "exits" and space == "blocks" else ()
    budgets = draw_budgets(rng, space_costs(board, space, exits, 100, tables), board, SLACK[space])
    lines = [f"{name} = {value}" for name, value in asdict(budgets).items() if value is not None]
    text = RUNFILE.format(
        name=f"run{number}", board=board, seed=number, data=rng.choice(["digits", "fashion_mnist"]),
        budgets="\n".join(lines), space=space_lines(space, exits), method=method,
        prune=PRUNE if kind == "prune" else "",
        hyper=HYPER[space] if method == "hypernetwork" else "",  # refused with any other
    )  # fmt: skip
    return text, budgets, exits


def observe(document: dict[str, Any]) -> dict[str, float]:
    """What the report has of the linked and emulated program, budget by budget."""
    where = document["observed"]["name"]
    latency = document["latency_ms"][where]
    return {
        "latency_ms": latency.get("high") or latency["value"],
        "sram_bytes": document["sram_bytes"][where]["value"],
        "flash_bytes": document["flash_bytes"][where]["value"],
        "parameters": document["parameters"],
    }


def one(number: int, space: str, folder: Path) -> dict[str, Any]:
    """One run as a record of the journal. What the shipped table lacks is measured once a board."""
    tables, board = folder / "tables", load_board(BOARDS[number % len(BOARDS)])
    obtain(board, space_of(space, ()).operators(), folder=tables, reporter=Reporter(quiet=True))
    text, budgets, exits = run_file(number, space, tables)
    path = folder / f"run{number}.toml"
    path.write_text(text, encoding="utf-8")
    if tables.is_dir():
        shutil.copytree(tables, folder / f"run{number}" / "lut")
    limits = {name: value for name, value in asdict(budgets).items() if value is not None}
    run = Run.open(path, runs=folder, quiet=True)
    settings = run.settings
    record: dict[str, Any] = {
        "run": number, "space": space, "board": settings.board.name, "method": settings.search.method,
        "data": settings.data.name, "exits": bool(exits), "pruned": settings.train.prune.active, "budgets": limits,
    }  # fmt: skip
    try:
        document = run.everything()
    except BudgetError as error:
        return record | infeasible(
            str(error), budgets, space_costs(settings.board.name, space, exits, tables=tables)
        )
    finally:
        shutil.rmtree(folder / f"run{number}", ignore_errors=True)
    seen = observe(document)
    latency = document["latency_ms"]["predicted"]
    predicted = {
        "latency_ms": latency.get("high") or latency["value"],
        "sram_bytes": document["sram_bytes"]["predicted"]["value"],
        "flash_bytes": document["flash_bytes"]["predicted"]["high"],
    }
    return record | {
        "outcome": "feasible",
        "observed": seen,
        "predicted": predicted,
        "broken": [name for name, limit in limits.items() if seen[name] > limit],
        "report_feasible": document["feasible"],
        "reasons": document["reasons"],
        "mismatches": document["parity"]["mismatches"],
    }


def infeasible(message: str, budgets: Budgets, costs: tuple[Cost, ...]) -> dict[str, Any]:
    """Which budgets the message names, those that it has to name, and how many architectures would fit."""
    named = [field for field, (_unit, label) in UNITS.items() if f"{label} " in message]
    alone = [
        f.name
        for f in fields(Budgets)
        if (limit := getattr(budgets, f.name)) is not None and limit < min(getattr(c, f.name) for c in costs)
    ]
    possible = sum(not budgets.violations(c) for c in costs)
    return {"outcome": "infeasible", "message": message, "named": named, "must": alone, "possible": possible}


def cpu_s() -> float:
    """CPU seconds of this process and of the compilers and emulators that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--space", choices=sorted(METHODS), default="blocks")
    parser.add_argument("--journal", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = args.journal.read_text().splitlines() if args.journal.is_file() else []
    done = {record["run"]: record for record in map(json.loads, lines)}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.first, args.first + args.runs):
            if number in done:
                continue
            started = cpu_s()
            try:
                record = one(number, args.space, Path(folder))
            except EdgeNasError as error:  # neither an answer nor a refusal for budgets
                record = {"run": number, "outcome": "failed", "message": str(error)}
            done[number] = record | {"cpu_s": round(cpu_s() - started, 1)}
            with args.journal.open("a") as journal:
                journal.write(json.dumps(done[number]) + "\n")
            print(f"run {number}: {record['outcome']}", file=sys.stderr, flush=True)
    report([record for number, record in sorted(done.items())], METHODS[args.space])


def report(records: list[dict[str, Any]], methods: tuple[str, ...]) -> None:
    feasible = [r for r in records if r["outcome"] == "feasible"]
    none = [r for r in records if r["outcome"] == "infeasible"]
    failed = [r for r in records if r["outcome"] == "failed"]
    broken = [r for r in feasible if r["broken"] or not r["report_feasible"]]
    print(f"{len(records)} runs: {len(feasible)} exported and linked, {len(none)} found nothing that fits,")
    print(f"{len(failed)} failed otherwise. Budgets broken: {len(broken)}.")
    for record in broken + failed:
        print(f"- {record}")
    missed = [r for r in none if r["possible"]]
    unnamed = [r for r in none if not r["named"] or set(r["must"]) - set(r["named"])]
    print(
        f"Of the {len(none)}, {sum(bool(r['must']) for r in none)} have a budget below the whole space's smallest;"
    )
    print(
        f"{len(unnamed)} do not name the budget that is to blame; in {len(missed)} the space had something after"
    )
    print(f"all ({', '.join(sorted({r['method'] for r in missed})) or 'none'}).")
    print(f"CPU seconds a run: {np.mean([r['cpu_s'] for r in records]):.1f}.\n")
    table("board", BOARDS, records)
    table("method", methods, records)
    print("| headroom of the prediction, least and most | latency | SRAM | flash |\n|---|---|---|---|")
    for board in BOARDS:
        own = [r for r in feasible if r["board"] == board]
        if not own:
            continue
        cells = []
        for name in LIMITED[:3]:
            gaps = [r["predicted"][name] - r["observed"][name] for r in own]
            parts = [gap / r["observed"][name] for gap, r in zip(gaps, own, strict=True)]
            cells.append(
                f"{min(parts):.4%} to {max(parts):.4%}"
                if name == "latency_ms"
                else f"{min(gaps)} to {max(gaps)} bytes"
            )
        print(f"| {board} ({len(own)} runs) | {' | '.join(cells)} |")


def table(key: str, values: tuple[str, ...], records: list[dict[str, Any]]) -> None:
    print(f"| {key} | runs | exported | nothing fits | broken |\n|---|---|---|---|---|")
    for value in values:
        own = [r for r in records if r.get(key) == value]
        made = [r for r in own if r["outcome"] == "feasible"]
        broken = sum(bool(r["broken"]) or not r["report_feasible"] for r in made)
        none = sum(r["outcome"] == "infeasible" for r in own)
        print(f"| {value} | {len(own)} | {len(made)} | {none} | {broken} |")
    print()


if __name__ == "__main__":
    main()
