"""A link to a child process (an emulator, or firmware built for the host) over a socket pair.

The child inherits one end: no port number, hence no race for one, and nobody else can connect.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from pipeline.errors import LinkError, ToolError
from pipeline.links.link import Link

_STDERR_LINES = 20
_PR_SET_PDEATHSIG = 1


def _death_signal() -> Callable[[], None] | None:
    """On Linux, a function run in the child that makes it end when the parent does, however that ends."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)

    return in_child


class ProcessLink(Link):
    """Starts `command(fd)`, which talks through the inherited file descriptor `fd`, or, with `over_stdio`, through
    its standard input and output.

    The child ends with the thread that opened the link (Linux), on `close`, or when the pair breaks.
    Raises ToolError where the program cannot be started, with `hint`.
    """

    patience_s = 15.0  # it shares this machine's processors with whatever else runs here

    def __init__(
        self, command: Callable[[int], Sequence[str]], *, name: str, hint: str = "", over_stdio: bool = False
    ) -> None:
        self._name = name
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        arguments = list(command(theirs.fileno()))
        try:
            self._process = subprocess.Popen(
                arguments, stdin=theirs.fileno() if over_stdio else subprocess.DEVNULL,
                stdout=theirs.fileno() if over_stdio else subprocess.DEVNULL, stderr=self._stderr,
                pass_fds=(theirs.fileno(),), preexec_fn=_death_signal(),
            )  # fmt: skip
        except OSError as error:
            ours.close()
            self._stderr.close()
            raise ToolError(f"cannot start {arguments[0]}: {error.strerror}", hint=hint) from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, data: bytes) -> None:
        deadline = time.monotonic() + 10.0
        view = memoryview(data)
        self._socket.setblocking(False)
        while view:
            _, writable, _ = select.select([], [self._socket], [], max(0.0, deadline - time.monotonic()))
            if not writable:
                raise LinkError(f"{self._name} takes no more bytes", hint=self.obituary())
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise LinkError(f"{self._name} has gone away", hint=self.obituary()) from error

    def read(self, timeout_s: float) -> bytes:
        readable, _, _ = select.select([self._socket], [], [], max(0.0, timeout_s))
        if not readable:
            return b""
        try:
            data = self._socket.recv(65536)
        except OSError as error:
            raise LinkError(f"{self._name} has gone away", hint=self.obituary()) from error
        if not data:
            raise LinkError(f"{self._name} has gone away", hint=self.obituary())
        return data

    def close(self) -> None:
        self._socket.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def finish(self, timeout_s: float = 10.0) -> None:
        """Ends the child with a request (SIGTERM) so that it can write what it holds, then closes."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired as error:
                self.close()
                raise LinkError(f"{self._name} did not end within {timeout_s:g} s") from error
        self.close()

    def alive(self) -> bool:
        return self._process.poll() is None

    def exit_code(self) -> int | None:
        return self._process.poll()

    def stderr_tail(self) -> str:
        if self._stderr.closed:
            return ""
        self._stderr.flush()
        size = os.fstat(self._stderr.fileno()).st_size
        data = os.pread(self._stderr.fileno(), 8192, max(0, size - 8192))
        return "\n".join(data.decode(errors="replace").splitlines()[-_STDERR_LINES:])

    def obituary(self) -> str:
        """How the child ended and what it said last."""
        try:
            code: int | None = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        if code is None:
            state = "still running"
        elif code < 0:
            state = f"killed by {signal.Signals(-code).name}"
        else:
            state = f"exit code {code}"
        tail = self.stderr_tail()
        return f"{state}; it last wrote: {tail}" if tail else f"{state}; it wrote nothing"

    def describe(self) -> str:
        return self._name
