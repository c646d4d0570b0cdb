"""The generated engine as a native program: for tests, and for accuracy over whole data sets."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.assets import asset_dir
from pipeline.engine.emit import emit_c
from pipeline.engine.model import Model
from pipeline.engine.sources import include_dir, kernel_headers, kernel_sources
from pipeline.errors import ModelError, ToolError

_MAIN = """\
/* Reads inputs from standard input until its end, writes outputs to standard output. */
#include <stdio.h>

#include "model.h"

int main(int count, char **arguments) {
#ifdef MODEL_SOUND_BYTES
    /* with an argument: clips in, features and outputs out */
    while (count > 1 && fread(model_sound(), 1, MODEL_SOUND_BYTES, stdin) == MODEL_SOUND_BYTES) {
        model_features();
        if (fwrite(model_input(), 1, MODEL_INPUT_BYTES, stdout) != MODEL_INPUT_BYTES) {
            return 1;
        }
        model_invoke();
        if (fwrite(model_output(), 1, MODEL_OUTPUT_BYTES, stdout) != MODEL_OUTPUT_BYTES) {
            return 1;
        }
    }
#endif
    (void)arguments;
    while (count == 1 && fread(model_input(), 1, MODEL_INPUT_BYTES, stdin) == MODEL_INPUT_BYTES) {
        model_invoke();
        if (fwrite(model_output(), 1, MODEL_OUTPUT_BYTES, stdout) != MODEL_OUTPUT_BYTES) {
            return 1;
        }
    }
    return 0;
}
"""
_SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


def cache_dir() -> Path:
    """Where native builds are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgenas"


class HostModel:
    """A model compiled for this machine; `sanitize` adds AddressSanitizer and UBSan.

    Raises ToolError where there is no host compiler.
    """

    def __init__(self, model: Model, *, sanitize: bool = False, timeout_s: float = 600.0) -> None:
        self.model = model
        self._timeout_s = timeout_s
        self._program = _build(emit_c(model) | {"main.c": _MAIN}, sanitize)

    def run(self, x: NDArray[np.int8]) -> NDArray[np.int8]:
        """Outputs [n, ...] of inputs [n, ...] (without the batch dimension of 1, or with it).

        Of a model with exits: the logits of the exit taken, and its number.
        """
        x = np.ascontiguousarray(x, np.int8)
        n = len(x)
        if x.size != n * self.model.input_bytes:
            raise ModelError(f"inputs of shape {x.shape[1:]} for a model of input {self.model.input_shape}")
        return np.frombuffer(self._run(x.tobytes()), np.int8).reshape(n, *self.model.answer_shape)

    def run_sound(self, clips: NDArray[np.int16]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """Features (n, ...) and outputs (n, ...) of clips (n, samples), of a model with a front end."""
        front_end = self.model.front_end
        if front_end is None or clips.dtype != np.int16 or clips.shape[1:] != (front_end.samples,):
            raise ModelError(f"clips of {clips.dtype} {clips.shape} for this model")
        answers = np.frombuffer(self._run(clips.tobytes(), "sound"), np.int8).reshape(len(clips), -1)
        made, outputs = np.split(answers, [self.model.input_bytes], axis=1)
        shape = (len(clips), *self.model.answer_shape)
        return made.reshape(len(clips), *front_end.shape), outputs.reshape(shape)

    def _run(self, data: bytes, *arguments: str) -> bytes:
        command = [str(self._program), *arguments]
        try:
            done = subprocess.run(
                command, input=data, capture_output=True, timeout=self._timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"the model's native build did not finish in {self._timeout_s:.0f} s") from error
        if done.returncode != 0:
            tail = done.stderr.decode("utf-8", "replace")[-2000:]
            raise ToolError(f"the model's native build failed (status {done.returncode}): {tail}")
        return done.stdout


def _build(files: dict[str, str], sanitize: bool) -> Path:
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", *(_SANITIZE if sanitize else ())]
    marker = asset_dir("firmware") / "port"
    digest = hashlib.sha256(repr((sorted(files.items()), flags)).encode())
    headers = [*kernel_headers(), *sorted(include_dir().rglob("*.h")), marker / "marker.h"]
    for path in [*kernel_sources(), *headers]:
        digest.update(path.read_bytes())
    program = cache_dir() / "host" / digest.hexdigest()[:24]
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgenas-host-") as name:
        folder = Path(name)
        for file_name, text in files.items():
            (folder / file_name).write_text(text, encoding="utf-8")
        built = folder / "model"
        command = ["gcc", *flags, f"-I{include_dir()}", f"-I{marker}", f"-I{folder}"]
        command += [str(folder / name) for name in sorted(files) if name.endswith(".c")]
        command += [*map(str, kernel_sources()), "-o", str(built)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        except FileNotFoundError as error:
            raise ToolError("no host compiler (gcc)", hint="apt-get install gcc libc6-dev") from error
        except subprocess.TimeoutExpired as error:
            raise ToolError("gcc did not finish in 300 s") from error
        if done.returncode != 0:
            raise ToolError(f"gcc failed on the generated model: {done.stderr[-1500:]}")
        temporary = program.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(built.read_bytes())
        temporary.chmod(0o755)
        temporary.replace(program)
    return program
