"""Decoding machine code in several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import ModuleType
from typing import Any

import capstone
import pytest

from pipeline.latency.timing import cortex_a53, cortex_m4, cortex_m7, riscv_blocks
from pipeline.latency.timing.decoder import Decoder

# it eq; moveq r0, r1; ldr r2, [r3, #4]; ldrd r9, r4, [r7]; add r1, r2; b .
THUMB = bytes.fromhex("08bf 0846 5a68 d7e90094 1144 fee7")


@pytest.mark.parametrize("model", [cortex_m4, cortex_m7, cortex_a53, riscv_blocks])
def test_each_thread_decodes_with_a_handle_of_its_own(model: ModuleType) -> None:
    both = Barrier(2, timeout=30)

    def handle(_: int) -> tuple[Any, bool]:
        decoder: Decoder = model._DECODER
        both.wait()  # so that two threads are at it
        return decoder.handle, bool(decoder.handle.detail)

    with ThreadPoolExecutor(2) as pool:
        (first, details), (second, others) = pool.map(handle, range(2))
    assert first is not second and first.csh.value != second.csh.value
    assert details and others
    assert model._DECODER.handle is model._DECODER.handle


def test_what_instructions_write_comes_out_in_every_thread() -> None:
    decoder = Decoder(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)

    def written(_: int) -> list[set[str]]:
        found: list[set[str]] = []
        for _ in range(200):
            found = [
                {decoder.register(r) for r in one.regs_access()[1]} for one in decoder.disasm(THUMB, 0x100)
            ]
        return found

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(written, range(6)))
    assert results[0][1:5] == [{"r0"}, {"r2"}, {"r4", "sb"}, {"r1"}]
    assert all(result == results[0] for result in results)
