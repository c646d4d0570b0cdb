"""Nothing of this process may reach another machine while local data are worked on."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import EdgeNasError

_EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo")
_depth = 0
_hooked = False


class NetworkRefusedError(EdgeNasError):
    """Something tried to reach another machine where data must stay on this one."""


@contextmanager
def local_only() -> Iterator[None]:
    """Raise NetworkRefusedError for any connection, datagram or name look-up beyond this machine meanwhile.

    Holds for all threads of this process, by an audit hook of the interpreter (so for every library that uses
    Python's sockets); sockets of the machine itself stay usable. Child processes are not watched.
    """
    global _depth, _hooked
    if not _hooked:
        sys.addaudithook(_refuse)  # cannot be removed again; idle outside of this context
        _hooked = True
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if _depth == 0 or event not in _EVENTS:
        return
    host = arguments[0] if event == "socket.getaddrinfo" else _host(arguments[1])
    if host is not None and not _here(host):
        raise NetworkRefusedError(
            f"a connection to {host} was refused: local data stay on this machine",
            hint="give the data set's file or folder with --data; nothing is downloaded in this stage",
        )


def _host(address: Any) -> Any:
    """The host of a socket address; None for sockets of this machine (a path, or already connected)."""
    return address[0] if isinstance(address, tuple) and address else None


def _here(host: Any) -> bool:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if name in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False
