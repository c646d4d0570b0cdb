"""`edgenas flash`: a program into a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import DEFAULT_RUNS, BoardName, Json, RunsDir, example, print_json, stdout


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas flash --board nucleo-f446re"))
    def flash(
        board: BoardName,
        elf: Annotated[
            Path | None, typer.Option("--elf", help="Firmware; default: builds the operator benchmark.")
        ] = None,
        port: Annotated[
            str | None,
            typer.Option(
                "--port", "-p", help="Where the board answers: /dev/tty*, COM*, socket://, rfc2217://."
            ),
        ] = None,
        serial: Annotated[
            str | None, typer.Option("--serial", help="USB serial number, where several boards are alike.")
        ] = None,
        kind: Annotated[
            str | None, typer.Option("--with", help="Tool; default: the board's first that is installed.")
        ] = None,
        upload_port: Annotated[
            str | None, typer.Option("--upload-port", help="Where the bootloader listens, if not on --port.")
        ] = None,
        runs: RunsDir = DEFAULT_RUNS,
        json: Json = False,
    ) -> None:
        """Write a program into a board, greet it, and check that this very build answers.

        Emulated boards are flashed through gdb and live as long as this command.
        """
        from pipeline.boards import load_board
        from pipeline.firmware import build, render_bench
        from pipeline.flashers import choose, flash_and_greet
        from pipeline.storage import usable_folder

        chosen = load_board(board)
        choose(chosen, kind)  # before a build that nothing here could flash
        if elf is None:
            folder = usable_folder(runs / f"bench-{chosen.name}", "--runs")
            elf = build(render_bench(chosen, folder), chosen).elf
        done = flash_and_greet(chosen, elf, kind=kind, port=port, upload_port=upload_port, serial=serial)
        if json:
            print_json({
                "board": done.hello.board, "elf": str(done.elf), "flasher": done.flasher,
                "log": str(done.log), "where": done.where, "kind": done.hello.kind.name.lower(),
                "build_id": done.hello.build_id.hex(),
            })  # fmt: skip
        else:
            stdout.print(
                f"{done.hello.board} on {done.where} runs {done.hello.kind.name.lower()} firmware, build "
                f"{done.hello.build_id.hex()} (flashed with {done.flasher}; log: {done.log})", markup=False,
            )  # fmt: skip
