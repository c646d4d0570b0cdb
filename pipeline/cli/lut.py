"""`edgenas lut`: is a latency table right, and how do two of them differ?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipeline.cli.common import MOST_SEED, BoardName, Json, example, print_json, stdout


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="Check a latency table on whole models; compare two tables.", no_args_is_help=True
    )
    app.add_typer(group, name="lut")

    @group.command(epilog=example("edgenas lut check --board qemu-cortex-m4 --count 50 --workers 2"))
    def check(
        board: BoardName,
        count: Annotated[int, typer.Option("--count", min=2, help="Random architectures.")] = 200,
        seed: Annotated[int, typer.Option("--seed", min=0, max=MOST_SEED, help="Of the architectures.")] = 0,
        tables: Annotated[
            Path | None, typer.Option("--tables", help="Folder of tables; default: those that ship.")
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", help="Folder of the journal; default: runs/check-<board>.")
        ] = None,
        port: Annotated[
            list[str] | None,
            typer.Option(
                "--port",
                help="A board with an operating system: ssh://user@host, or local; repeat it for several.",
            ),
        ] = None,
        workers: Annotated[int, typer.Option("--workers", min=1, help="Emulators at work side by side.")] = 1,
        calibrated: Annotated[
            bool,
            typer.Option(
                "--calibrate",
                help="Give the table the interval that these models show; judge it by another --seed.",
            ),
        ] = False,
        json: Json = False,
    ) -> None:
        """Build and run random architectures of the default search space; compare with the table's predictions."""
        from pipeline.check import check_board
        from pipeline.fleet import Targets
        from pipeline.latency.intervals import percent

        found = check_board(
            board, count, seed=seed, calibrated=calibrated, tables=tables, out=out,
            targets=Targets(tuple(port or ()), workers), quiet=json,
        )  # fmt: skip
        summary = found.summary
        if json:
            print_json(summary)
            return
        low, high = summary["observed_ms"]
        stdout.print(
            f"{summary['models']} architectures on {summary['board']}, {low:.1f} to {high:.1f} ms "
            f"({summary['observed_by']})",
            markup=False,
        )
        table = Table(box=None, pad_edge=False)
        for column in ("prediction by", "MAE, ms", "MAPE", "worst", "Spearman"):
            table.add_column(column, justify="right" if column != "prediction by" else "left")
        for name, key in (("table", "table"), ("MACs, best linear fit", "macs")):
            e = summary[key]
            table.add_row(
                name, f"{e['mae_ms']:.3g}", f"{percent(e['mape'], '')} %", f"{percent(e['worst'], '')} %",
                f"{e['spearman']:.6f}",
            )  # fmt: skip
        stdout.print(table)
        interval, judges = found.interval, " (those that calibrated it)" if calibrated else ""
        stdout.print(
            f"{interval.describe()}: {100 * summary['coverage']:.1f} % of {summary['models']} models inside{judges}, "
            f"{100 * summary['above']:.1f} % above\nflash off by at most "
            f"{100 * summary['flash_worst']:.3f} %, SRAM by {summary['sram_worst_bytes']} bytes",
            markup=False,
        )
        for case in summary["worst"]:
            stdout.print(
                f"  {percent(case['error'])} %  {case['architecture']}\n"
                f"            mostly {case['layer']}: {percent(case['layer_part'])} % of the whole",
                markup=False,
            )
        stdout.print(f"page: {found.page}", markup=False)

    @group.command(epilog=example("edgenas lut diff luts/qemu-cortex-m4/edgenas.csv other/edgenas.csv"))
    def diff(
        first: Annotated[Path, typer.Argument(help="A table (.csv).")],
        second: Annotated[Path, typer.Argument(help="Another one.")],
        json: Json = False,
    ) -> None:
        """Show what two tables were measured under, and where their cycles differ. Exit status 1 where they do."""
        from pipeline.check import compare_tables
        from pipeline.latency.lut import Lut

        found = compare_tables(*(Lut.load(path, calibration=False) for path in (first, second)))
        if json:
            print_json(found.to_json())
        else:
            for name, (one, other) in (*found.identity.items(), *found.overhead.items()):
                stdout.print(f"{name}: {one} | {other}", markup=False)
            table = Table(box=None, pad_edge=False)
            for column in ("kernel", "operators", "differ", "median", "least", "largest"):
                table.add_column(column, justify="left" if column == "kernel" else "right")
            for row in found.by_kernel():
                ratios = (f"{row[key]:.4f}" for key in ("median", "least", "largest"))
                table.add_row(row["kernel"], str(row["operators"]), str(row["differ"]), *ratios)
            stdout.print(table)
            for op, ratio in found.worst():
                stdout.print(f"  {ratio:.4f}  {op}", markup=False)
            for path, only in ((first, found.only_first), (second, found.only_second)):
                if only:
                    stdout.print(f"{len(only)} operators only in {path}", markup=False)
        raise typer.Exit(0 if found.same else 1)
