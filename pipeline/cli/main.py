"""The `edgenas` command."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import Any

import typer

from pipeline.cli import (
    adapt,
    boards,
    deploy,
    doctor,
    export,
    family,
    fit,
    flash,
    lut,
    profile,
    report,
    run,
    search,
    sweep,
    validate,
)
from pipeline.errors import ConfigError, EdgeNasError, StorageError
from pipeline.storage import NO_ROOM, remedy

# Read by the OpenMP library when torch is loaded: threads that spin while they wait stall the search as soon
# as another process wants the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="edgenas",
    help="From a data set to checked INT8 firmware on a microcontroller.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    doctor,
    boards,
    flash,
    profile,
    lut,
    fit,
    search,
    family,
    sweep,
    export,
    deploy,
    validate,
    run,
    adapt,
    report,
):
    command.register(app)

_USAGE_ERROR: Any = (
    typer.BadParameter.__base__
)  # of the click that this Typer uses, its own or the installed one


class Interrupted(BaseException):
    """SIGINT or SIGTERM: unwinds everything, so that emulators are stopped and files stay whole."""


def main() -> None:
    """Run the command line; user mistakes end with a message, a hint and status 2, never a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        if "--json" in sys.argv:
            sys.exit(_with_json_errors())
        app()
    except EdgeNasError as error:
        sys.exit(_complain(error))
    except Interrupted:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one while Python shuts down just ends it
            signal.signal(number, signal.SIG_DFL)
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output went away; nothing to report, and nowhere to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # a file or folder that no room has a better word for
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        sys.exit(_complain(StorageError(f"{where}{error.strerror}", hint=remedy(error))))


def _with_json_errors() -> int:
    """The command's exit status; a command line that cannot be understood gets an error document, too."""
    try:
        done = typer.main.get_command(app).main(prog_name=app.info.name, standalone_mode=False)
    except _USAGE_ERROR as error:
        name = error.ctx.command_path if error.ctx else app.info.name
        return _complain(ConfigError(error.format_message(), hint=f"see {name} --help"))
    return done if isinstance(done, int) else 0


def _complain(error: EdgeNasError) -> int:
    """Message and hint, as a document for `--json`; the exit status."""
    if "--json" in sys.argv:
        print(json.dumps({"error": error.message, "hint": error.hint}))
    else:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint:  {error.hint}", file=sys.stderr)
    return error.exit_code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


if __name__ == "__main__":
    main()
