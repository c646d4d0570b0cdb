"""Files that are either whole or not there, when to write them, and folders that can be written to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, StorageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_FIRST_S = 1.0  # until a checkpoint is written for the first time
_claimed: dict[tuple[int, int], int] = {}  # descriptors of this process's own folders, by device and inode


class Rhythm:
    """When a long computation writes its checkpoint.

    After a second, then at twice the distance each time, at most `every_s` seconds apart: one that is interrupted
    soon loses little too.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._wait_s = min(_FIRST_S, every_s)
        self._last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._wait_s

    def written(self) -> None:
        self._wait_s = min(2 * self._wait_s, self._every_s)
        self._last = time.monotonic()


# What torch.load raises for bytes that are no checkpoint: which of them depends on where it stumbles.
UNREADABLE = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, pickle.PickleError,
    struct.error,
)  # fmt: skip


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write beside `path`, then rename over it: an interruption leaves the old file or the new one.

    Raises StorageError (no room, no permission); what was there before is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        kept = "; what was there before is kept" if path.is_file() else ""
        raise StorageError(f"{path} cannot be written: {error.strerror}{kept}", hint=remedy(error)) from error


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def checksum(row: Any) -> int:
    """CRC-32 of a journal's row, a JSON-able value: a damaged byte can leave a row that still reads as one."""
    return zlib.crc32(json.dumps(row, sort_keys=True, separators=(",", ":")).encode())


def usable_folder(path: Path, option: str) -> Path:
    """`path`, made where it is missing. Raises ConfigError that names `option` where nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        why = "it is a file" if path.is_file() else error.strerror
        hint = remedy(error) if error.errno in NO_ROOM else "give a folder that you may write to"
        raise ConfigError(f"{option}: {path} cannot be used as a folder: {why}", hint=hint) from error
    return path


def claim(folder: Path, hint: str) -> None:
    """Keep `folder` for this process until it ends, so that no two of them mix their files there.

    Raises ConfigError with `hint` where another process has it. File systems without locks claim nothing.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    try:
        if (status.st_dev, status.st_ino) not in _claimed:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _claimed[status.st_dev, status.st_ino] = descriptor
            return
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(f"another edgenas is at work in {folder}", hint=hint) from error
    except OSError:
        pass
    os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Others that want `folder`, in this process or another, wait meanwhile: it may be emptied and made anew.

    File systems without locks let everybody in.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remedy(error: OSError) -> str:
    """What to do about a file that cannot be read or written."""
    if error.errno in NO_ROOM:
        return "make room on that disk and give the same command again"
    if error.errno == errno.EFBIG:
        return "allow larger files (ulimit -f), or use another file system, and give the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "use a place that you may write to, or change its permissions"
    return "see that the path is right, and whether it leads to a file or a folder"


def why_unreadable(error: Exception) -> str:
    """What is said of a .npy or .npz file that NumPy refuses: its own words speak of its arguments."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "pickle" in str(error):
        return "it holds Python objects, or is no file of arrays at all"
    return str(error) or "it ends too early"
