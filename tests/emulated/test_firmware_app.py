"""The application around a model, in QEMU: outputs, time, memory, budgets, faults, and what does not fit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import Board, load_board
from pipeline.errors import BudgetError, LinkError, ToolError
from pipeline.firmware import Build, build, code_size, render_app, static_ram_bytes
from pipeline.links import open_link
from pipeline.space.budgets import Budgets
from pipeline.wire import Client, Kind, Reason, RefusedError
from pipeline.wire.messages import InvokeRequest, LoadInputRequest, Op, ReadRequest

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]

INPUT_BYTES = 700
OUTPUT_BYTES = 1400
LOOSE = Budgets(latency_ms=50.0, sram_bytes=100_000, flash_bytes=100_000)

MODEL_H = f"""\
#include <stdint.h>
#define MODEL_INPUT_BYTES {INPUT_BYTES}u
#define MODEL_OUTPUT_BYTES {OUTPUT_BYTES}u
#define MODEL_ARENA_BYTES 2104u
#define MODEL_LAYERS 2u
int8_t *model_input(void);
const int8_t *model_output(void);
void model_invoke(void);
"""
# Two layers: the input negated in place (255 - x as unsigned), then written twice.
MODEL_C = """\
#include "model.h"
#include "marker.h"
static int8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));
int8_t *model_input(void) { return arena; }
const int8_t *model_output(void) { return arena + 704; }
static void negate(void) { for (int i = 0; i < 700; ++i) arena[i] = (int8_t)~arena[i]; }
static void twice(void) { for (int i = 0; i < 1400; ++i) arena[704 + i] = arena[i % 700]; }
void model_invoke(void) {
    EDGENAS_MARK_BEGIN(0);
    negate();
    EDGENAS_MARK_END(0);
    EDGENAS_MARK_BEGIN(1);
    twice();
    EDGENAS_MARK_END(1);
}
"""
SOURCES = {"model.h": MODEL_H, "model.c": MODEL_C}


def expected(x: bytes) -> bytes:
    return bytes(255 - value for value in x) * 2


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board("qemu-cortex-m4")


@pytest.fixture(scope="module")
def app(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(render_app(SOURCES, board, LOOSE, tmp_path_factory.mktemp("app"), 1.5), board)


def test_outputs_are_the_models(app: Build, board: Board) -> None:
    draw = random.Random(5)
    with open_link(board, app.elf) as link:
        client = Client(link)
        hello = client.hello()
        assert (hello.kind, hello.build_id) == (Kind.APP, app.build_id)
        assert (client.describe().input_bytes, client.describe().output_bytes) == (INPUT_BYTES, OUTPUT_BYTES)
        ticks = set()
        for _ in range(3):
            x = draw.randbytes(INPUT_BYTES)
            result = client.invoke(x)
            assert result.output == expected(x)
            ticks.add(result.ticks)
        assert len(ticks) == 1  # these layers' time does not depend on the data
        layers = client.layer_ticks()
        assert len(layers) == 2
        assert all(t > 0 for t in layers)
        assert 0 <= result.ticks - sum(layers) < 50


def test_device_checks_its_own_figures(app: Build, board: Board, tmp_path: Path) -> None:
    with open_link(board, app.elf) as link:
        client = Client(link)
        client.hello()
        with pytest.raises(RefusedError) as caught:
            client.check()
        assert caught.value.reason == Reason.NO_RESULT
        ticks = client.invoke(bytes(INPUT_BYTES)).ticks
        check, memory = client.check(), client.memory()
    assert check.ok
    # 1.6 ticks an instruction, 1.5 cycles an instruction, 168 MHz
    assert check.latency_us == pytest.approx(ticks / 1.6 * 1.5 / 168, abs=1.01)
    assert (check.sram_bytes, check.flash_bytes) == (app.sram_bytes, app.flash_bytes)
    assert memory.arena_bytes == 2104
    assert memory.static_bytes == app.static_ram_bytes
    assert 0 < memory.stack_used_bytes <= board.stack_bytes
    assert app.static_ram_bytes == static_ram_bytes(board, 2104, 2)  # what is predicted without this build

    tight = Budgets(latency_ms=0.001, sram_bytes=app.sram_bytes - 1, flash_bytes=app.flash_bytes // 2)
    built = build(render_app(SOURCES, board, tight, tmp_path, 1.5), board)
    with open_link(board, built.elf) as link:
        client = Client(link)
        client.hello()
        client.invoke(bytes(INPUT_BYTES))
        check = client.check()
    assert check.broken == ("latency", "sram", "flash")
    assert (check.latency_budget_us, check.sram_budget_bytes) == (1, app.sram_bytes - 1)


def test_an_inference_consumes_its_input(app: Build, board: Board) -> None:
    with open_link(board, app.elf) as link:
        client = Client(link)
        client.hello()
        client.load_input(bytes(INPUT_BYTES))
        with pytest.raises(RefusedError) as caught:
            client._line.request(Op.INVOKE, InvokeRequest(1).pack())  # another CRC than the input's
        assert caught.value.reason == Reason.NO_INPUT
        x = bytes(INPUT_BYTES)
        assert client.invoke(x).output == expected(x)
        for request in (LoadInputRequest(INPUT_BYTES - 1).pack() + b"ab", LoadInputRequest(2**32 - 1).pack()):
            with pytest.raises(RefusedError) as caught:
                client._line.request(Op.LOAD_INPUT, request)
            assert caught.value.reason == Reason.OUT_OF_RANGE
        for offset, count in ((OUTPUT_BYTES, 1), (0, 513), (2**32 - 1, 2)):
            with pytest.raises(RefusedError) as caught:
                client._line.request(Op.READ_OUTPUT, ReadRequest(offset, count).pack())
            assert caught.value.reason == Reason.OUT_OF_RANGE


def test_a_fault_is_reported(board: Board, tmp_path: Path) -> None:
    """Endless recursion runs into the end of SRAM, below the stack, instead of into the arena."""
    code = MODEL_C.replace(
        "void model_invoke(void) {",
        "static int dig(volatile int *above) { volatile int here[16]; here[0] = *above + 1;\n"
        "    return dig(here) + here[0]; }\n"
        "void model_invoke(void) { volatile int start = 0; arena[0] = (int8_t)dig(&start);",
    )
    built = build(render_app(SOURCES | {"model.c": code}, board, LOOSE, tmp_path, 1.5), board)
    with open_link(board, built.elf) as link:
        client = Client(link, patience_s=1.0)
        client.hello()
        with pytest.raises(LinkError) as caught:
            client.invoke(bytes(INPUT_BYTES), limit_s=0.5)
        assert "fault" in caught.value.message
        assert client.hello().fault_status != 0


def test_a_hang_is_reported(board: Board, tmp_path: Path) -> None:
    code = MODEL_C.replace("void model_invoke(void) {", "void model_invoke(void) { for (;;) {}")
    built = build(render_app(SOURCES | {"model.c": code}, board, LOOSE, tmp_path, 1.5), board)
    with open_link(board, built.elf) as link:
        client = Client(link, patience_s=0.5)
        client.hello()
        with pytest.raises(LinkError, match="INVOKE"):
            client.invoke(bytes(INPUT_BYTES), limit_s=1.0)


def test_builds_are_repeatable(board: Board, tmp_path: Path, app: Build) -> None:
    again = build(render_app(SOURCES, board, LOOSE, tmp_path / "elsewhere", 1.5), board)
    assert again.build_id == app.build_id
    assert again.elf.read_bytes() == app.elf.read_bytes()
    moved = tmp_path / "moved"
    (tmp_path / "elsewhere").rename(moved)
    assert build(moved, board).build_id == app.build_id
    changed = SOURCES | {"model.c": MODEL_C + "/* changed */\n"}
    other = build(render_app(changed, board, LOOSE, tmp_path / "elsewhere", 1.5), board)
    assert other.build_id != app.build_id


def test_a_model_too_large_for_the_board(board: Board, tmp_path: Path) -> None:
    big = SOURCES | {"model.h": MODEL_H.replace("2104u", "300000u")}
    with pytest.raises(BudgetError, match=r"exceeds SRAM by \d+ bytes"):
        build(render_app(big, board, LOOSE, tmp_path / "ram", 1.5), board)
    weights = "const signed char weights[600000] = {1};\n"
    code = MODEL_C.replace("= arena[i % 700]", "= arena[i % 700] + weights[(unsigned)arena[i % 700] * 9u]")
    big = SOURCES | {"model.c": weights + code}
    with pytest.raises(BudgetError, match=r"exceeds flash by \d+ bytes"):
        build(render_app(big, board, LOOSE, tmp_path / "flash", 1.5), board)


def test_a_failed_compilation_shows_the_compilers_words(board: Board, tmp_path: Path) -> None:
    broken = SOURCES | {"model.c": "int wrong = ;\n"}
    with pytest.raises(ToolError, match="expected expression") as caught:
        build(render_app(broken, board, LOOSE, tmp_path, 1.5), board)
    assert "build.log" in caught.value.hint


def test_code_size_adds_up(board: Board, tmp_path: Path) -> None:
    """Base and kernels, measured apart, against one program that links two kernels sharing helpers."""
    measured = code_size(board)
    kernels = ["edgenas_conv", "edgenas_conv_1x1", "edgenas_softmax"]
    calls = "".join(f"((void (*)(void)){name})(); " for name in kernels)
    code = f'#include "edgenas/kernels.h"\n{MODEL_C}'.replace("    twice();", f"    twice(); {calls}")
    plain = build(render_app(SOURCES, board, LOOSE, tmp_path / "plain", 1.5), board)
    full = build(render_app(SOURCES | {"model.c": code}, board, LOOSE, tmp_path / "full", 1.5), board)
    # each call is one 4-byte branch; the compiler may save a register around them
    assert full.flash_bytes - plain.flash_bytes == pytest.approx(measured.kernels_bytes(kernels) + 12, abs=16)
    assert measured.kernels_bytes(kernels) < sum(measured.kernels_bytes([name]) for name in kernels)
