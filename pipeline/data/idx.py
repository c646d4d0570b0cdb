"""The IDX file format of the MNIST family (http://yann.lecun.com/exdb/mnist, "file formats")."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

_UNSIGNED_BYTE = 0x08


def read_idx(raw: bytes, origin: str) -> NDArray[np.uint8]:
    """Decode a (gzipped or plain) IDX file of unsigned bytes; `origin` names it in errors (DataError)."""
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{origin} is damaged: {error}", hint="delete it and fetch it again") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE:
        raise DataError(f"{origin} is not an IDX file of bytes", hint="delete it and fetch it again")
    rank = raw[3]
    header = 4 + 4 * rank
    if len(raw) < header:
        raise DataError(f"{origin} ends inside its header", hint="delete it and fetch it again")
    shape = struct.unpack(f">{rank}I", raw[4:header])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(raw) - header != expected:
        raise DataError(
            f"{origin} has {len(raw) - header} bytes of data, its header promises {expected}",
            hint="delete it and fetch it again",
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
