"""`edgenas family`: architectures for another board or other limits from a finished hypernetwork search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipeline.cli.common import (
    DEFAULT_RUNS,
    DataPath,
    Json,
    RunFile,
    RunsDir,
    example,
    finite,
    print_json,
    stdout,
)
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.familystage import FamilyAnswer


def register(app: typer.Typer) -> None:
    @app.command(
        epilog=example(
            "edgenas family examples/fashion_mnist_hypernetwork.toml --board qemu-rv32 --latency-ms 20"
        )
    )
    def family(
        runfile: RunFile,
        board: Annotated[str, typer.Option("--board", "-b", help="Board; the run file's unless given.")] = "",
        latency_ms: Annotated[
            float | None, typer.Option(callback=finite, help="Deadline; the run file's unless given.")
        ] = None,
        sram_bytes: Annotated[
            int | None, typer.Option(help="Limit of SRAM; the run file's, else all of the board's.")
        ] = None,
        flash_bytes: Annotated[
            int | None, typer.Option(help="Limit of flash; the run file's, else all of the board's.")
        ] = None,
        parameters: Annotated[
            int | None, typer.Option(help="Limit of parameters; the run file's unless given.")
        ] = None,
        penalize: Annotated[
            list[str] | None,
            typer.Option(
                help="OPERATOR=S, a component of S (0 to 1); the others share the rest. Repeatable."
            ),
        ] = None,
        members: Annotated[int, typer.Option(help="Architectures to look at.")] = 16,
        train_steps: Annotated[int, typer.Option(help="Train the best few alone for so many steps.")] = 0,
        data: DataPath = None,
        runs: RunsDir = DEFAULT_RUNS,
        json: Json = False,
    ) -> None:
        """Ask a trained hypernetwork for architectures; every one is checked exactly, nothing is searched anew.

        Needs a finished `edgenas search` of the same run file. Ranks by accuracy with shared weights; writes
        family/BOARD.json into the run's folder, its name ending with what is asked for besides
        (BOARD-20ms-ir6=0.5.json).
        """
        from pipeline.familystage import FamilyQuestion
        from pipeline.run import Run

        penalties = dict(_component(text) for text in penalize or [])
        question = FamilyQuestion(
            board, latency_ms, sram_bytes, flash_bytes, parameters, penalties, members, train_steps
        )
        answer = Run.open(runfile, data=data, runs=runs, quiet=json).family(question)
        if json:
            print_json({"seconds": round(answer.seconds, 2), "written": str(answer.path), **answer.to_json()})
        else:
            stdout.print(_table(answer))
            stdout.print(f"written: {answer.path}", markup=False)


def _component(text: str) -> tuple[str, float]:
    """`ir6=0.5` as a pair. Raises ConfigError for anything else."""
    name, separator, value = text.partition("=")
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(value)
        return name, number
    except ValueError as error:
        raise ConfigError(
            f"--penalize {text}: that is not OPERATOR=NUMBER"
            if separator
            else f"--penalize {text} has no '='",
            hint="for example --penalize ir6=0.5",
        ) from error


def _table(answer: FamilyAnswer) -> Table:
    limit = (
        f"at most {answer.limit_ms:g} ms (given)" if answer.limit_ms is not None else "no limit of latency"
    )
    title = f"{answer.board}, {limit}: {len(answer.result.candidates)} members in {answer.seconds:.1f} s"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    columns = (
        f"latency, ms\n({answer.provenance})",
        "SRAM\n(modelled)",
        "flash\n(modelled)",
        "parameters",
        "accuracy\n(measured)",
    )
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("architecture")
    for c in answer.result.candidates:
        accuracy = "not trained"
        if c.shared_accuracy is not None:
            accuracy = f"{100 * c.shared_accuracy:.1f} % with shared weights"
        if c.proxy_accuracy is not None:
            accuracy = f"{100 * c.proxy_accuracy:.1f} % after {c.proxy_steps} steps"
        cost = c.cost
        table.add_row(
            f"{cost.latency_ms:.2f}", f"{cost.sram_bytes:,}", f"{cost.flash_bytes:,}",
            f"{cost.parameters:,}", accuracy, c.architecture.describe(),
        )  # fmt: skip
    return table
