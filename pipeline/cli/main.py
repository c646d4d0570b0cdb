"""The `edgenas` command."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType

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
from pipeline.errors import EdgeNasError

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


class Interrupted(BaseException):
    """SIGINT or SIGTERM: unwinds everything, so that emulators are stopped and files stay whole."""


def main() -> None:
    """Run the command line; user mistakes end with a message, a hint and status 2, never a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except EdgeNasError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": error.message, "hint": error.hint}))
        else:
            print(f"error: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"hint:  {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output went away; nothing to report, and nowhere to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


if __name__ == "__main__":
    main()
