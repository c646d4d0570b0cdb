"""The `edgenas` command."""

from __future__ import annotations

import json
import sys

import click
import typer

from pipeline.cli import boards, deploy, doctor, export, profile, report, run, search, validate
from pipeline.errors import EdgeNasError

app = typer.Typer(
    name="edgenas",
    help="From a data set to checked INT8 firmware on a microcontroller.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (doctor, boards, profile, search, export, deploy, validate, run, report):
    command.register(app)


def main() -> None:
    """Run the command line; user mistakes end with a message, a hint and status 2, never a traceback."""
    as_json = "--json" in sys.argv
    try:
        status = app(standalone_mode=False)
    except EdgeNasError as error:
        if as_json:
            print(json.dumps({"error": error.message, "hint": error.hint}))
        else:
            print(f"error: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"hint:  {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        _interrupted()
    except KeyboardInterrupt:
        _interrupted()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: nothing to report
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _interrupted() -> None:
    print("interrupted; run the same command again and it goes on where it stopped", file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
    main()
