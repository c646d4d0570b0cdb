"""The command line as a user meets it, and models to give it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from one_operator import Builder, options, quantization

RUNFILE = 'name = "bad"\nboard = "qemu-cortex-m4"\n\n[budgets]\nlatency_ms = 50.0\n'


def edgenas(*arguments: Any, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli.main", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """One message with a hint on stderr, status 2, nothing of Python's insides."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "\nhint:  " in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in:\n{done.stderr}"
    return done.stderr


def network(*, dtype: Any = np.int8, size: int = 8, last: str = "SOFTMAX") -> bytes:
    """A reshape to one row, then one operator over size x size values."""
    b = Builder()
    q = None if dtype is np.float32 else quantization(0.05, 3)
    x = b.tensor((1, size, size, 1), q, dtype=dtype, name="image")
    count = size * size
    flat = b.tensor((1, count), q, dtype=dtype, name="flat")
    b.operator("RESHAPE", (x, b.tensor((2,), None, [1, count], np.int32)), flat,
               options("ReshapeOptions", newShape=[1, count]))  # fmt: skip
    q = None if dtype is np.float32 else quantization(1 / 256, -128)
    out = b.tensor((1, count), q, dtype=dtype, name="probabilities")
    if last == "SOFTMAX":
        b.operator("SOFTMAX", (flat,), out, options("SoftmaxOptions", beta=1.0), 2)
    else:
        b.operator(last, (flat,), out)
    return b.content([x], out)
