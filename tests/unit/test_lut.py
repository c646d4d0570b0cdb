"""The latency table: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.assets import asset_dir
from pipeline.errors import LutError
from pipeline.latency.lut import Identity, Lut, Overhead, Row
from pipeline.latency.rows import rows_checksum
from pipeline.latency.tablefiles import read_toml
from pipeline.memory.flash import FlashModel
from pipeline.space.graph import Node, OpGraph
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec

IDENTITY = Identity(
    "some-board", 168_000_000, "code in flash", "edgenas", "0123", "4567", 'gcc "12" \\ é', "-O2", "core 1",
    "instructions",
)  # fmt: skip
FLASH = FlashModel(
    3621, 29.8, 1408, 4, 2048, {"edgenas_add": ("add.c:edgenas_add",)}, {"add.c:edgenas_add": 440}
)
CONV = OpSpec("conv2d", 4, 4, 8, 4, 4, 8)
ADD = OpSpec("add", 4, 4, 8, 4, 4, 8, in2_h=4, in2_w=4, in2_c=8)
BIG = OpSpec("conv2d", 99, 99, 64, 99, 99, 64)
RESHAPE = OpSpec("reshape", 4, 4, 8, 1, 1, 128)


def row(op: OpSpec, cycles: float, *, p95: float | None = None, refused: str = "") -> Row:
    n = 0 if refused else 3
    return Row(op, select(op).name, cycles, cycles if p95 is None else p95, round(cycles / 1.25), n, refused)


def table(*rows: Row, identity: Identity = IDENTITY, overhead: Overhead | None = None) -> Lut:
    rows = rows or (row(CONV, 1000.0, p95=1001.5), row(ADD, 200.0), row(BIG, 0.0, refused='TOO_BIG 9,"x"'))
    return Lut(identity, {r.op.key: r for r in rows}, overhead or Overhead(15.0, 8.5, 266.1, 202.1), FLASH)


def graph(*ops: OpSpec) -> OpGraph:
    sizes = (ops[0].in_bytes, *(op.out_bytes for op in ops))
    nodes = tuple(Node(op, (i, i) if op.kind == "add" else (i,), i + 1) for i, op in enumerate(ops))
    return OpGraph(sizes, nodes, 0, len(ops))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lut") / "some-board" / "edgenas.csv"
    table().save(path)
    return path


def test_round_trip(saved: Path) -> None:
    assert Lut.load(saved) == table()
    assert Lut.load(saved.with_suffix(".toml"), IDENTITY) == table()


def test_saving_what_was_read_changes_nothing(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "some-board" / "edgenas.csv"
    Lut.load(saved).save(again)
    for suffix in (".csv", ".toml"):
        assert again.with_suffix(suffix).read_bytes() == saved.with_suffix(suffix).read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([".csv", ".toml"]), st.integers(0, 10**6), st.integers(1, 255))
def test_flipped_bits_are_noticed(saved: Path, tmp_path: Path, suffix: str, where: int, flip: int) -> None:
    folder = tmp_path / "some-board"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved.parent, folder)
    path = folder / f"edgenas{suffix}"
    content = bytearray(path.read_bytes())
    content[where % len(content)] ^= flip
    path.write_bytes(content)
    try:
        assert Lut.load(folder / "edgenas.csv") == table()
    except LutError as error:
        assert "edgenas profile --board" in error.hint


def test_an_edited_row_is_named_by_its_line(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "edgenas.csv"
    shutil.copy(saved.with_suffix(".toml"), tmp_path)
    lines = saved.read_text().splitlines()
    edited = next(i for i, line in enumerate(lines) if "1000.0" in line)
    lines[edited] = lines[edited].replace("1000.0", "900.0")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(LutError, match=f"line {edited + 1}: the checksum"):
        Lut.load(path)


@pytest.mark.parametrize("change", ["drop", "repeat"])
def test_rows_that_went_missing_or_came_twice(saved: Path, tmp_path: Path, change: str) -> None:
    shutil.copy(saved.with_suffix(".toml"), tmp_path)
    lines = saved.read_text().splitlines()
    lines = lines[:-1] if change == "drop" else [*lines, lines[-1]]
    (tmp_path / "edgenas.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(LutError, match="operators" if change == "drop" else "twice"):
        Lut.load(tmp_path / "edgenas.csv")


def test_rows_of_another_table_are_refused(saved: Path, tmp_path: Path) -> None:
    """As many rows, each with its checksum: only what the .toml says of them all tells."""
    path = tmp_path / "some-board" / "edgenas.csv"
    faster = [replace(r, cycles=r.cycles / 2, p95=r.p95 / 2) for r in table().rows.values()]
    replace(table(), rows={r.op.key: r for r in faster}).save(path)
    assert Lut.load(path) != table()
    shutil.copy(saved.with_suffix(".toml"), path.with_suffix(".toml"))
    with pytest.raises(LutError, match="other operators than those its"):
        Lut.load(path)


def test_shipped_tables_say_which_rows_are_theirs() -> None:
    for path in sorted(asset_dir("luts").glob("*/edgenas.csv")):
        assert read_toml(path.with_suffix(".toml"))["rows_checksum"] == rows_checksum(Lut.load(path).rows)


def test_windows_line_ends_do_no_harm(saved: Path, tmp_path: Path) -> None:
    for suffix in (".csv", ".toml"):
        text = saved.with_suffix(suffix).read_bytes().replace(b"\n", b"\r\n")
        (tmp_path / f"edgenas{suffix}").write_bytes(text)
    assert Lut.load(tmp_path / "edgenas.csv") == table()


def test_a_date_in_a_table_is_an_edit_like_any_other(saved: Path, tmp_path: Path) -> None:
    for path in saved.parent.iterdir():
        shutil.copy(path, tmp_path / path.name)
    description = tmp_path / "edgenas.toml"
    description.write_text(description.read_text() + "\nmeasured = 2026-11-22\n")
    with pytest.raises(LutError, match="does not match the contents"):
        Lut.load(tmp_path / "edgenas.csv")


def test_hints_fit_what_is_missing_or_damaged(saved: Path, tmp_path: Path) -> None:
    def hint(path: Path) -> str:
        with pytest.raises(LutError) as caught:
            read_toml(path)
        return caught.value.hint

    assert "edgenas profile --board qemu-rv32" in hint(tmp_path / "qemu-rv32" / "edgenas.toml")
    # the folder of a table may have any name: none is passed off as a board's
    assert "--board" not in hint(tmp_path / "edgenas.toml")
    calibration = tmp_path / "qemu-rv32" / "edgenas.intervals.toml"
    calibration.parent.mkdir()
    calibration.write_text('checksum = "0"\n')
    assert "delete it, or calibrate anew: edgenas lut check --board qemu-rv32 --calibrate" in hint(
        calibration
    )
    assert "path of a table" in hint(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".toml"])
def test_missing_file(saved: Path, tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "qemu-rv32"
    shutil.copytree(saved.parent, folder)
    (folder / f"edgenas{suffix}").unlink()
    with pytest.raises(LutError, match="there is no table") as caught:
        Lut.load(folder / "edgenas.csv")
    named = "some-board" if suffix == ".csv" else folder.name  # the identity says more than the folder
    assert f"--board {named}" in caught.value.hint


@pytest.mark.parametrize(
    ("field", "value"),
    [("clock_hz", 1), ("engine_revision", "ffff"), ("compiler", "gcc 13"), ("flags", "-O3")],
)
def test_another_identity_is_refused_by_field(saved: Path, field: str, value: object) -> None:
    other = replace(IDENTITY, **{field: value})
    with pytest.raises(LutError, match=f"{field} is .*{value}"):
        Lut.load(saved, other)


def test_the_journal_key_ignores_what_operators_do_not_depend_on() -> None:
    assert replace(IDENTITY, firmware_revision="else").hash == IDENTITY.hash
    assert replace(IDENTITY, compiler="else").hash != IDENTITY.hash


def test_prediction_is_the_sum_of_rows_and_overheads() -> None:
    prediction = table().predict(graph(CONV, ADD, RESHAPE))
    assert [node.cycles for node in prediction.per_node] == [1015.0, 215.0, 0.0]
    assert prediction.total_cycles == pytest.approx(1015.0 + 215.0 + 266.1)
    assert prediction.sums[1] == pytest.approx(prediction.total_cycles + 1.5)
    assert prediction.high_cycles == pytest.approx(table().interval.high * prediction.sums[1])
    assert prediction.latency_ms(168_000_000) == pytest.approx((1015 + 215 + 266.1) / 168e3)
    assert {node.provenance for node in prediction.per_node} == {"modelled"}
    assert prediction.unmeasured == ()


def test_a_counter_of_cycles_measures() -> None:
    lut = table(identity=replace(IDENTITY, counter="cycles"))
    assert lut.predict_op(CONV).provenance == "measured"


def test_what_was_not_measured_is_estimated_and_named() -> None:
    lut = table(*(row(replace(CONV, out_c=c, in_c=c), 100.0 + 40 * 4 * c * c) for c in range(2, 40, 2)))
    op = replace(CONV, in_c=12, out_c=20)
    prediction = lut.predict(graph(op))
    node = prediction.per_node[0]
    assert node.provenance == "estimated"
    assert node.low < node.cycles < node.high
    assert prediction.unmeasured == (op.key,)


def test_a_refused_operator_is_estimated() -> None:
    odd = replace(CONV, in_h=3, in_w=3, out_h=3, out_w=3)  # runs the loop of a last single pixel, as BIG does
    lut = table(row(CONV, 1000.0), row(odd, 2000.0), row(BIG, 0.0, refused="TOO_BIG"))
    assert BIG not in lut
    assert lut.missing([BIG]) == []
    assert lut.predict_op(BIG).provenance == "estimated"


def test_a_kernel_without_rows_is_an_error() -> None:
    with pytest.raises(LutError, match="edgenas_softmax") as caught:
        table().predict_op(OpSpec("softmax", 1, 1, 10, 1, 1, 10))
    assert "edgenas profile --board some-board" in caught.value.hint


def test_a_row_of_another_kernel_does_not_count() -> None:
    stale = replace(row(CONV, 1000.0), kernel="edgenas_conv")
    assert select(CONV).name == "edgenas_conv_1x1"
    assert table(stale).missing([CONV, RESHAPE]) == [CONV]


def test_cycles_per_instruction() -> None:
    ratio = table(overhead=Overhead()).cycles_per_instruction(graph(CONV, ADD))
    assert ratio == pytest.approx(1200 / (800 + 160))
