"""Runs single kernels natively under AddressSanitizer and UBSan.

One program serves all cases: it reads a kernel number, the parameter struct's numbers, its arrays and the inputs,
each into an allocation of exactly its size, and answers with the output.
"""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine import Model, include_dir, kernel_sources
from pipeline.engine.emit import SCRATCH_TYPES
from pipeline.engine.flatfile import parse
from pipeline.engine.operators import Lowered, lower_operator
from pipeline.space.kernels import KERNELS, select

_STRUCT_OF = {
    "conv": "conv", "conv_1x1": "conv", "depthwise": "conv", "depthwise_3x3": "conv", "depthwise_plain": "conv",
    "fully_connected": "conv", "add": "elementwise", "mul": "elementwise", "mean": "pool", "average_pool": "pool",
    "max_pool": "pool", "pad": "pad", "table": "table", "softmax": "softmax",
}  # fmt: skip

_PROGRAM = """\
#include <stdio.h>
#include <stdlib.h>
#include "edgenas/kernels.h"

static int32_t number(void) {
    int32_t value;
    if (fread(&value, 4, 1, stdin) != 1) exit(0);
    return value;
}

static void *bytes(void) {
    const size_t count = (size_t)number();
    void *data = malloc(count ? count : 1);
    if (fread(data, 1, count, stdin) != count) exit(1);
    return data;
}

@READERS@
int main(void) {
    for (;;) {
        const int32_t kernel = number();
        void *arrays[8] = {0};
        int used = 0;
        @DISPATCH@
    }
}
"""


def _fields() -> dict[str, tuple[list[str], list[str]]]:
    """(numbers, pointers) of each parameter struct, from the header itself."""
    header = re.sub(r"/\*.*?\*/", "", (include_dir() / "edgenas" / "kernels.h").read_text(), flags=re.S)
    found = {}
    for body, name in re.findall(r"typedef struct \{(.*?)\} edgenas_(\w+)_t;", header, flags=re.S):
        numbers, pointers = [], []
        for declaration in body.split(";"):
            text = " ".join(declaration.split())
            if "*" in text:
                pointers.append(text.split("*")[1].strip())
            elif text:
                numbers += [part.strip() for part in text.split(" ", 1)[1].split(",")]
        found[name] = (numbers, pointers)
    return found


class KernelRunner:
    def __init__(self, folder: Path) -> None:
        self._fields = _fields()
        readers, dispatch = [], []
        for struct_name, (numbers, pointers) in self._fields.items():
            lines = [f"    p->{n} = (__typeof__(p->{n}))number();" for n in numbers]
            lines += [f"    p->{n} = arrays[(*used)++] = bytes();" for n in pointers]
            body = "\n".join(lines)
            readers.append(
                f"static void read_{struct_name}(edgenas_{struct_name}_t *p, void **arrays, int *used) {{\n"
                f"{body}\n    (void)arrays; (void)used;\n}}\n"
            )
        for i, kernel in enumerate(KERNELS):
            struct_name = _STRUCT_OF[kernel.removeprefix("edgenas_")]
            two = struct_name == "elementwise"
            second = ", b" if two else ""
            scratch = ", scratch" if kernel in SCRATCH_TYPES else ""
            dispatch.append(
                f"if (kernel == {i}) {{ edgenas_{struct_name}_t p; read_{struct_name}(&p, arrays, &used); "
                f"int8_t *a = bytes(); {'int8_t *b = bytes();' if two else ''} "
                "const size_t count = (size_t)number(); int8_t *out = malloc(count); "
                "void *scratch = malloc((size_t)number() + 1); "
                f"{kernel}(&p, a{second}, out{scratch}); fwrite(out, 1, count, stdout); fflush(stdout); "
                f"free(a); {'free(b);' if two else ''} free(out); free(scratch); "
                "while (used > 0) free(arrays[--used]); continue; }"
            )
        source = folder / "runner.c"
        text = _PROGRAM.replace("@READERS@", "\n".join(readers)).replace(
            "@DISPATCH@", "\n        ".join(dispatch)
        )
        source.write_text(text)
        program = folder / "runner"
        command = ["gcc", "-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
                   f"-I{include_dir()}", str(source), *map(str, kernel_sources()), "-o", str(program)]  # fmt: skip
        subprocess.run(command, check=True, timeout=300)
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(folder / "stderr").open("wb")
        )
        self._stderr = folder / "stderr"

    def run(self, model: Model, x: np.ndarray) -> np.ndarray:
        """Output of a model of one layer for one input."""
        (layer,) = model.layers
        node = model.graph.nodes[layer.node]
        count = model.graph.tensor_bytes[node.output]
        scratch = select(layer.op).scratch_bytes
        return self._call(layer.kernel, layer.struct, layer.fields, layer.arrays, [x], count, scratch)

    def run_two_inputs(self, content: bytes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Output of a file of one elementwise operator, in the shape of the file's output."""
        flat = parse(content)
        low: Lowered = lower_operator(flat, flat.operators[0])
        kernel = select(low.op).name
        flat_output = flat.tensors[flat.outputs[0]]
        out = self._call(kernel, low.struct, low.fields, low.arrays, [a, b], flat_output.elements, 0)
        return out.reshape(flat_output.shape)

    def _call(self, kernel: str, struct_name: str, fields: dict[str, int], arrays: dict[str, Any],
              inputs: list[np.ndarray], count: int, scratch: int) -> np.ndarray:  # fmt: skip
        numbers, pointers = self._fields[struct_name]
        assert set(numbers) == set(fields) and set(pointers) == set(arrays), "struct and engine disagree"
        message = [struct.pack("<i", KERNELS.index(kernel))]
        message += [struct.pack("<i", fields[name]) for name in numbers]
        for data in [*(arrays[name] for name in pointers), *inputs]:
            raw = np.ascontiguousarray(data).tobytes()
            message += [struct.pack("<i", len(raw)), raw]
        message.append(struct.pack("<ii", count, scratch))
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(b"".join(message))
        self._process.stdin.flush()
        answer = self._process.stdout.read(count)
        if len(answer) != count:
            self._process.wait(timeout=10)
            raise AssertionError(f"the kernel died:\n{self._stderr.read_text()[-3000:]}")
        return np.frombuffer(answer, np.int8)
