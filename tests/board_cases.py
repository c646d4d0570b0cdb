"""The validation cases that every board must pass: emulated, simulated, native or real (tests/hardware).

A test class inherits `BoardCases` and gives the fixtures `board` and `port`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.boards import Board
from pipeline.engine import emit_c, load
from pipeline.export.reference import TflmReference
from pipeline.firmware import Build, build, render_app, render_bench
from pipeline.fleet import Targets
from pipeline.links import open_link
from pipeline.profiler.calibration import calibration_operators
from pipeline.profiler.footprint import sample_graph, sample_network
from pipeline.space.budgets import Budgets
from pipeline.space.opspec import OpSpec
from pipeline.validate import validate
from pipeline.wire.client import Client, RefusedError
from pipeline.wire.messages import Kind, Reason

OPERATORS = [op for op in calibration_operators()[::8] if op.kind != "reshape"]
# CRC-32 over the operators' output CRCs, as first computed on qemu-cortex-m4: every other board must agree
OPERATORS_CRC = 0xD2FBF7BF
IMAGES = 6
TOO_BIG = OpSpec("conv2d", 256, 256, 1024, 256, 256, 1024)

Flash = Callable[[Build], None]


class BoardCases:
    """`flash` puts a build onto a real board; where the link itself starts the build it does nothing."""

    @pytest.fixture(scope="class")
    @classmethod
    def flash(cls) -> Flash:
        return lambda built: None

    @pytest.fixture(scope="class")
    @classmethod
    def port(cls) -> str | None:
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, board: Board, flash: Flash, tmp_path_factory: pytest.TempPathFactory) -> Build:
        return build(render_bench(board, tmp_path_factory.mktemp("bench")), board)

    @pytest.fixture
    def client(self, board: Board, bench: Build, port: str | None, flash: Flash) -> Iterator[Client]:
        flash(bench)
        with open_link(board, bench.elf, port=port) as link:
            greeted = Client(link)
            greeted.hello()
            yield greeted

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls) -> bytes:
        return sample_network(sample_graph())

    def application(self, board: Board, network: bytes, budgets: Budgets, folder: Path) -> Build:
        return build(render_app(emit_c(load(network)), board, budgets, folder, 1.0), board)

    # -- the cases ---------------------------------------------------------------------------------------

    def test_it_says_who_it_is(self, client: Client, board: Board, bench: Build) -> None:
        hello = client.hello()
        assert (hello.kind, hello.board, hello.build_id) == (Kind.BENCH, board.name, bench.build_id)
        described = client.describe()
        assert (described.clock_hz, described.counter_hz) == (board.clock_hz, board.counter.hz)

    def test_operators_compute_the_same_bytes_as_on_every_other_board(self, client: Client) -> None:
        crc = 0
        for op in OPERATORS:
            crc = zlib.crc32(str(client.run_op(op).output_crc).encode(), crc)
        assert crc == OPERATORS_CRC

    def test_the_counter_counts_work(self, client: Client) -> None:
        """Eight times the work takes more than three times the ticks, and less than thirty times."""
        small, large = OpSpec("conv2d", 8, 8, 16, 8, 8, 32), OpSpec("conv2d", 16, 16, 16, 16, 16, 64)
        # The least of three: on a machine that does other work a wall clock counts that, too.
        ticks = [min(client.run_op(op, repetitions=20).ticks for _ in range(3)) for op in (small, large)]
        assert 3 * ticks[0] < ticks[1] < 30 * ticks[0]

    def test_memory_agrees_with_the_linker(self, client: Client, bench: Build) -> None:
        client.run_op(OPERATORS[0])
        memory = client.memory()
        assert memory.flash_bytes == bench.flash_bytes
        assert memory.static_bytes == bench.static_ram_bytes
        assert 0 < memory.stack_used_bytes <= memory.stack_reserve_bytes == bench.stack_bytes

    def test_it_refuses_what_does_not_fit_and_goes_on(self, client: Client) -> None:
        with pytest.raises(RefusedError) as caught:
            client.run_op(TOO_BIG)
        assert caught.value.reason in (Reason.TOO_BIG, Reason.BAD_ARGUMENT)
        assert client.run_op(OPERATORS[0]).output_bytes > 0

    def test_it_restarts_when_told_to(self, client: Client, bench: Build) -> None:
        client.hello()
        assert client.reset().build_id == bench.build_id
        assert client.run_op(OPERATORS[0]).output_bytes > 0

    def test_a_network_gives_the_reference_interpreters_bytes(
        self, board: Board, port: str | None, network: bytes, flash: Flash, tmp_path: Path
    ) -> None:
        model = load(network)
        x = np.random.default_rng(5).integers(-128, 128, (IMAGES, *model.input_shape[1:])).astype(np.int8)
        built = self.application(board, network, Budgets(), tmp_path)
        flash(built)
        targets = Targets(ports=(port,)) if port else Targets()
        if board.counts_instructions and not board.core.timing:
            pytest.fail(f"{board.name} counts instructions and has no timing model")
        found = validate(model, network, built, board, x, targets=targets)
        assert found.mismatches == 0
        assert found.broken == ()
        assert len(found.layer_cycles) == len(model.layers)
        assert all(cycles >= 0 for cycles in found.layer_cycles) and sum(found.layer_cycles) > 0

    def test_the_device_itself_finds_a_broken_budget(
        self, board: Board, port: str | None, network: bytes, flash: Flash, tmp_path: Path
    ) -> None:
        built = self.application(board, network, Budgets(latency_ms=0.001), tmp_path)
        flash(built)
        x = bytes(load(network).input_bytes)
        with open_link(board, built.elf, port=port) as link:
            client = Client(link)
            client.hello()
            result = client.invoke(x)
            check = client.check()
        assert "latency" in check.broken
        expected = TflmReference(network).run(np.zeros((1, *load(network).input_shape[1:]), np.int8))
        assert result.output == expected.tobytes()
