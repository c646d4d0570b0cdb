"""`edgenas doctor`: what is installed here and what to do about each gap."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.common import Json, example, print_json, stdout
from pipeline.doctor import examine


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas doctor"))
    def doctor(json: Json = False) -> None:
        """Show toolchains, emulators, packages, data and boards, and what to do about each gap.

        Exit status 1 when something needed for a shipped board is missing.
        """
        checks = examine()
        if json:
            print_json([check.to_json() for check in checks])
        else:
            table = Table(box=None, pad_edge=False)
            for column in ("", "what", "found", "what to do"):
                table.add_column(column)
            for check in checks:
                mark = "ok" if check.ok else ("MISSING" if check.needed else "-")
                table.add_row(mark, *map(escape, (check.name, check.found, "" if check.ok else check.remedy)))
            stdout.print(table)
        raise typer.Exit(0 if all(check.ok or not check.needed for check in checks) else 1)
