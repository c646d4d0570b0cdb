"""The firmware as a process on another Linux machine, over the system's ssh."""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import LinkError, ToolError
from pipeline.links.process import ProcessLink

_COPY_TIMEOUT_S = 120.0
# no password prompt: a lab's runs are unattended
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15")
_TARGET = re.compile(r"ssh://((?:\w[\w.-]*@)?\w[\w.-]*)(?::(\d+))?/?")


def open_ssh(board: Board, elf: Path, target: str) -> ProcessLink:
    """Copies `elf` to the host of `target` (ssh://user@host[:port]) and runs it; its stdio is the link.

    Raises LinkError: not such a target, no connection, or the copy failed (with what ssh said); ToolError: no
    ssh on this machine.
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        raise LinkError(f"'{target}' is no SSH target", hint="write ssh://user@host or ssh://user@host:port")
    host, port = match.group(1), match.group(2)
    program = shutil.which("ssh")
    if program is None:
        raise ToolError("ssh is not installed", hint="sudo apt install openssh-client")
    ssh = [program, *_OPTIONS, *(["-p", port] if port else []), host]
    path = f"/tmp/edgenas-{board.name}-{uuid.uuid4().hex}"  # of this link's own: another may run the same program
    _copy(ssh, elf, path, host)
    command = [*ssh, f"{path}; status=$?; rm -f {path}; exit $status"]
    return ProcessLink(lambda fd: command, name=f"{host} ({board.name})", over_stdio=True)


def _copy(ssh: list[str], elf: Path, path: str, host: str) -> None:
    """Through the same ssh, so that nothing else need be installed."""
    receive = f"cat > {path} && chmod +x {path}"
    try:
        with elf.open("rb") as content:
            done = subprocess.run(
                [*ssh, receive], stdin=content, capture_output=True, timeout=_COPY_TIMEOUT_S, check=False
            )
    except subprocess.TimeoutExpired as error:
        raise LinkError(
            f"copying the program to {host} took over {_COPY_TIMEOUT_S:g} s", hint="is the network up?"
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise LinkError(
            f"cannot copy the program to {host}: {said[-1] if said else 'ssh failed'}",
            hint="try `ssh HOST true`: it must work without a password",
        )
