"""`edgenas family`: architectures for another board or other limits from a finished hypernetwork search."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

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
from pipeline.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from pipeline.search import SearchResult


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
        sram_bytes: Annotated[int | None, typer.Option(help="Limit of SRAM.")] = None,
        flash_bytes: Annotated[int | None, typer.Option(help="Limit of flash.")] = None,
        parameters: Annotated[int | None, typer.Option(help="Limit of parameters.")] = None,
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
        family/BOARD.json into the run's folder.
        """
        from pipeline import stages
        from pipeline.run import Run
        from pipeline.search import Request, complexity_of
        from pipeline.search.candidates import way_out
        from pipeline.search.settings import check_yields_family
        from pipeline.space.architecture import lower

        run = Run.open(runfile, data=data, runs=runs, quiet=json)
        settings = run.settings
        check_yields_family(settings.search)
        own = board in ("", settings.board.name)
        given: dict[str, Any] = {
            "latency_ms": latency_ms, "sram_bytes": sram_bytes, "flash_bytes": flash_bytes,
            "parameters": parameters,
        }  # fmt: skip
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            if value <= 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {value:g}", hint="give a limit above 0")
        budgets = replace(settings.budgets, **given)
        cost = run.cost if own else run.cost_on(board)
        request = Request(
            stages.search_target(cost, budgets, settings.robustness),
            complexity_of(run.space.ops, dict(_component(text) for text in penalize or [])),
            members,
            train_steps=train_steps,
        )
        started = time.monotonic()
        result = run.family(request)
        seconds = time.monotonic() - started
        if not result.feasible:
            raise BudgetError(
                f"no member of the family meets every budget on {request.target.name}: {result.reason}",
                hint=way_out(result.reason, "loosen that budget"),
            )
        path = run.folder / "family" / f"{request.target.name}.json"
        if json:
            print_json({"seconds": round(seconds, 2), "written": str(path), **result.to_json()})
        else:
            graphs = [lower(c.architecture) for c in result.candidates]
            source = "estimated" if any(cost.predict(graph).unmeasured for graph in graphs) else "modelled"
            stdout.print(_table(result, request.target.name, budgets.latency_ms, seconds, source))
            stdout.print(f"written: {path}", markup=False)


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


def _table(result: SearchResult, board: str, limit: Any, seconds: float, source: str) -> Table:
    """`source`: provenance of the latencies, which are the table's upper ends."""
    title = f"{board}, at most {limit:g} ms (given): {len(result.candidates)} members in {seconds:.1f} s"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    columns = (
        f"latency, ms\n({source})",
        "SRAM\n(modelled)",
        "flash\n(modelled)",
        "parameters",
        "accuracy\n(measured)",
    )
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("architecture")
    for c in result.candidates:
        accuracy = f"{100 * c.shared_accuracy:.1f} %" if c.shared_accuracy is not None else "not trained"
        if c.proxy_accuracy is not None:
            accuracy = f"{100 * c.proxy_accuracy:.1f} % after {c.proxy_steps} steps"
        cost = c.cost
        table.add_row(
            f"{cost.latency_ms:.2f}", f"{cost.sram_bytes:,}", f"{cost.flash_bytes:,}",
            f"{cost.parameters:,}", accuracy, c.architecture.describe(),
        )  # fmt: skip
    return table
