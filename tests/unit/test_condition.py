"""The device's condition: clocks that a table may be scaled to, load measured against it, and staying offline."""

from __future__ import annotations

import socket
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import adapt
from pipeline.adapt import EdgeRun
from pipeline.boards import load_board
from pipeline.errors import ConfigError, LinkError, LutError
from pipeline.latency.condition import at_clock
from pipeline.latency.lut import Lut, Row
from pipeline.offline import NetworkRefusedError, local_only
from pipeline.profiler.journal import Measurement
from pipeline.profiler.load import LoadScale, measure_load, spread
from pipeline.profiler.profile import lut_path
from pipeline.progress import Reporter
from pipeline.runfile import load_runfile
from pipeline.search.adaptconfig import AdaptConfig
from pipeline.search.config import SearchConfig
from pipeline.searchinputs import CloudRun
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

M4 = load_board("qemu-cortex-m4")


def test_a_board_without_wait_states_runs_at_half_the_clock() -> None:
    half = at_clock(M4, M4.clock_hz // 2)
    assert half.clock_hz == 84_000_000
    assert half.counter == M4.counter  # counts instructions, in the emulator's time
    assert replace(half, clock_hz=M4.clock_hz) == M4
    assert at_clock(M4, 0) is M4 and at_clock(M4, M4.clock_hz) is M4


def test_a_counter_of_cycles_slows_down_with_the_clock() -> None:
    ibex = load_board("rtl-ibex")
    half = at_clock(ibex, ibex.clock_hz // 2)
    assert half.counter.hz * 2 == ibex.counter.hz


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("stm32f407-discovery", "wait states"),
        ("nucleo-f767zi", "7 in flash"),
        ("host", "holds times"),
        ("hifive1-revb", "dividers in the board's file"),
    ],
)
def test_other_boards_say_why_their_table_cannot_be_scaled(name: str, why: str) -> None:
    board = load_board(name)
    with pytest.raises(ConfigError, match=why):
        at_clock(board, board.clock_hz // 2)


def test_a_faster_clock_is_refused() -> None:
    with pytest.raises(ConfigError, match="is above the 168,000,000 Hz"):
        at_clock(M4, 200_000_000)


def table() -> Lut:
    return Lut.load(lut_path(M4))


@dataclass
class Standin:
    """A target whose k-th run takes `factors[k % n]` times the table's cycles."""

    lut: Lut
    factors: list[float]
    refuse: str = ""
    starts: int = 1
    asked: list[OpSpec] = field(default_factory=list)

    def measure(self, op: OpSpec) -> Measurement:
        factor = self.factors[len(self.asked) % len(self.factors)]
        self.asked.append(op)
        row = self.lut.row(op)
        assert row is not None
        return Measurement(op, row.cycles * factor, refused=self.refuse)

    def close(self) -> None: ...


RUN = """\
board = "qemu-cortex-m4"
[budgets]
latency_ms = 50.0
[adapt]
cloud = "there"
measure = true
{more}
"""


def test_a_load_is_measured_once_and_again_where_it_is_to_be_measured_otherwise(tmp_path: Path) -> None:
    file, lut = tmp_path / "run.toml", table()

    def measured(more: str, lut: Lut = lut) -> tuple[LoadScale | None, int]:
        file.write_text(RUN.format(more=more))
        run = EdgeRun(load_runfile(file), tmp_path, None, Reporter(quiet=True))
        space = SearchSpace.for_input((28, 28, 1), 10)
        run.__dict__ |= {
            "_idle": lut,
            "cloud": SimpleNamespace(space=space),
            "session": Standin(lut, [1.0, 1.5]),
        }
        assert isinstance(run.session, Standin)
        return run.load, len(run.session.asked)

    first, runs = measured("")
    assert first is not None and runs == 12 * 5
    assert measured("candidates = 8") == (first, 0)
    for more, expected in (
        ("measure_runs = 3", 12 * 3), ("measure_operators = 4", 4 * 5), ("measure_quantile = 0.5", 12 * 5)
    ):  # fmt: skip
        found, runs = measured(more)
        assert found != first and runs == expected
        assert measured(more) == (found, 0)
    other = replace(lut, identity=replace(lut.identity, engine_revision="another"))
    # what another board or table showed is no load of this one
    assert measured("candidates = 8", other)[1] == 12 * 5


def test_what_does_not_fit_the_cloud_is_refused_before_a_table_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, space = table().identity, SearchSpace.for_input((28, 28, 1), 10)
    cloud = CloudRun(
        tmp_path, "there", space, SearchConfig(), asdict(identity), 100, tmp_path / "search.pt", 1.0
    )

    def measuring(*_: object) -> Lut:
        pytest.fail("measured a table")

    monkeypatch.setattr(adapt, "obtain_lut", measuring)
    monkeypatch.setattr(adapt, "current_identity", lambda board: replace(identity, board=board.name))
    file = tmp_path / "run.toml"
    for board, there, says in (
        ("qemu-rv32", space, "another latency table: board 'qemu-rv32'"),
        ("qemu-cortex-m4", replace(space, stem_channels=8), "another search space: stem_channels 8"),
    ):
        file.write_text(RUN.format(more="").replace("qemu-cortex-m4", board))
        run = EdgeRun(load_runfile(file), tmp_path, None, Reporter(quiet=True))
        run.__dict__ |= {"cloud": cloud, "space": there}
        with pytest.raises(ConfigError, match=says):
            run.search()


def test_load_is_the_ratio_to_the_table() -> None:
    lut = table()
    rows = spread(lut, [row.op for row in lut.rows.values()], 6)
    factors = list(np.linspace(1.0, 1.5, 30))
    session = Standin(lut, factors)
    load = measure_load(session, M4, rows, 5, 0.9)
    assert len(session.asked) == 30
    assert load.median == pytest.approx(1.25)
    assert load.upper == pytest.approx(np.quantile(factors, 0.9))
    assert load.latency_scale == load.upper


def test_a_faster_board_is_not_trusted() -> None:
    assert LoadScale(0.8, 0.9, 0.95, 3, 3).latency_scale == 1.0


def test_operators_are_spread_over_the_table() -> None:
    lut = table()
    rows = spread(lut, [row.op for row in lut.rows.values()], 5)
    cycles = [row.cycles for row in lut.rows.values() if not row.refused]
    assert len(rows) == 5
    assert [rows[0].cycles, rows[-1].cycles] == [min(cycles), max(cycles)]
    assert rows == sorted(rows, key=lambda row: row.cycles)
    few: list[Row] = spread(lut, [rows[1].op, rows[3].op], 5)
    assert [row.op for row in few] == [rows[1].op, rows[3].op]
    with pytest.raises(LutError, match="measured none"):
        spread(replace(lut, rows={}), [rows[0].op], 5)


def test_a_refusal_is_an_error() -> None:
    lut = table()
    rows = spread(lut, [row.op for row in lut.rows.values()], 2)
    with pytest.raises(LinkError, match=r"refused .*ARENA"):
        measure_load(Standin(lut, [1.0], refuse="ARENA 5"), M4, rows, 1, 0.9)


@pytest.mark.parametrize(
    "values",
    [
        {"latency_scale": 0.5},
        {"latency_scale": float("nan")},
        {"measure_quantile": 0.0},
        {"share": 1.5},
        {"focus": 1.0},
        {"candidates": 0},
        {"contestants": 0},
        {"learning_rate": 0.0},
        {"measure": True, "latency_scale": 1.5},
    ],
)
def test_options_out_of_range_are_named(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"adapt.{next(reversed(values))}"):
        AdaptConfig(**values)  # type: ignore[arg-type]


def test_local_connections_work_and_others_do_not() -> None:
    with local_only():
        server = socket.create_server(("127.0.0.1", 0))
        with socket.create_connection(server.getsockname(), timeout=5):
            pass
        server.close()
        ours, theirs = socket.socketpair()
        ours.send(b"x")
        assert theirs.recv(1) == b"x"
        ours.close()
        theirs.close()
        for attempt in (
            lambda: socket.create_connection(("192.0.2.1", 80), timeout=0.1),
            lambda: socket.getaddrinfo("example.invalid", 80),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9)),
            lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
        ):
            with pytest.raises(NetworkRefusedError, match="local data stay"):
                attempt()


def test_other_threads_are_held_too_and_freed_afterwards() -> None:
    found: list[BaseException] = []

    def attempt() -> None:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.connect(("192.0.2.1", 9))  # sets the peer only: nothing is sent
        except (NetworkRefusedError, OSError) as error:
            found.append(error)
        finally:
            udp.close()

    with local_only():
        with local_only():
            pass
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert [type(error) for error in found] == [NetworkRefusedError]
    attempt()
    assert not [error for error in found[1:] if isinstance(error, NetworkRefusedError)]
