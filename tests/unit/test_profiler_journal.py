"""The journal and what becomes of its measurements."""

from __future__ import annotations

import dataclasses
import random
import sqlite3
from pathlib import Path

import pytest

from pipeline.errors import LutError
from pipeline.profiler.calibration import calibration_operators
from pipeline.profiler.footprint import sample_graph
from pipeline.profiler.journal import Journal, Measurement, summarize
from pipeline.space.kernels import KERNELS, select
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

OP = OpSpec("mean", 3, 3, 8, 1, 1, 8)
OTHER = OpSpec("mean", 3, 3, 9, 1, 1, 9)


def test_what_was_added_survives_and_belongs_to_its_identity(tmp_path: Path) -> None:
    first = Measurement(OP, 100.5, 80, 128, 0xFFFFFFFF)
    with Journal(tmp_path / "a" / "j.sqlite", "one") as journal:
        journal.add(first)
        journal.add(Measurement(OTHER, refused="TOO_BIG 9"))
    with Journal(tmp_path / "a" / "j.sqlite", "one") as journal:
        assert journal.of(OP) == [dataclasses.replace(first, number=1)]
        refused = journal.row(OTHER)
        assert refused is not None and refused.refused == "TOO_BIG 9"
    with Journal(tmp_path / "a" / "j.sqlite", "two") as journal:
        assert journal.of(OP) == []
        assert journal.row(OP) is None


def test_median_and_percentile() -> None:
    runs = [Measurement(OP, cycles, 10) for cycles in (5.0, 1.0, 2.0, 3.0, 100.0)]
    row = summarize(OP, [*runs, Measurement(OP, refused="died")])
    assert row is not None
    assert (row.cycles, row.n, row.instructions) == (3.0, 5, 10)
    assert row.p95 == pytest.approx(100 - 0.2 * 95)


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(LutError, match=r"journal\.sqlite is not a measurement journal"):
        Journal(path, "one")


def test_a_damaged_journal_is_named_and_never_a_traceback(tmp_path: Path) -> None:
    """Pages of it zeroed, overwritten or cut off; single bytes changed."""
    ops = calibration_operators()[:80]
    with Journal(tmp_path / "whole", "one") as journal:
        journal._db.execute("PRAGMA synchronous = OFF")
        for op in ops:
            journal.add(Measurement(op, 1234.5, 1000, 2000, 77))
    whole, rng = (tmp_path / "whole").read_bytes(), random.Random(1)
    path, noticed = tmp_path / "damaged.sqlite", 0
    for attempt in range(60):
        content = bytearray(whole)
        page = rng.randrange(len(whole) // 4096) * 4096
        if attempt % 3 == 0:
            content[page : page + 4096] = bytes(4096) if rng.random() < 0.5 else rng.randbytes(4096)
        elif attempt % 3 == 1:
            del content[rng.randrange(100, len(content)) :]
        else:
            for _ in range(16):
                content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            with Journal(path, "one") as journal:
                journal._db.execute("PRAGMA synchronous = OFF")
                for op in ops:
                    journal.row(op)
                journal.suspect([journal.add(Measurement(OP, 1.0, 1, 1, 1))])
        except LutError as error:
            noticed += 1
            assert path.name in error.message and error.hint
    assert noticed > 20


def test_values_that_no_measurement_has(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with Journal(path, "one") as journal:
        journal.add(Measurement(OP, 5.0))
        journal._db.execute("UPDATE measurements SET cycles = 'many'")
        with pytest.raises(LutError, match="is damaged"):
            journal.row(OP)


def test_a_changed_number_is_noticed_and_rows_of_earlier_versions_count(tmp_path: Path) -> None:
    """One digit of a ticks count, in the middle of a row that is still one."""
    path = tmp_path / "j.sqlite"
    with Journal(path, "one") as journal:
        journal._db.executescript(
            "ALTER TABLE measurements DROP COLUMN checksum; ALTER TABLE measurements DROP COLUMN suspect"
        )
        journal._db.execute(
            "INSERT INTO measurements (identity, op, kernel, cycles, instructions, ticks, output_crc, refused, at) "
            "VALUES ('one', ?, ?, 7.0, 5, 123456789, 9, '', '')",
            (OP.key, select(OP).name),
        )
        journal._db.commit()
    with Journal(path, "one") as journal:
        journal.add(
            Measurement(OP, 8, 5, 987654321, 9)
        )  # cycles as a whole number, which the column keeps as 8.0
        assert [m.cycles for m in journal.of(OP)] == [7.0, 8.0]
    whole = path.read_bytes()
    number = (987654321).to_bytes(4, "big")
    assert whole.count(number) == 1
    path.write_bytes(whole.replace(number, (987654320).to_bytes(4, "big")))
    with Journal(path, "one") as journal:
        with pytest.raises(LutError, match="damaged: measurement 2 does not match its checksum") as caught:
            journal.of(OP)
        assert "DELETE FROM measurements WHERE id" in caught.value.hint
        journal._db.execute("DELETE FROM measurements WHERE id = 2")
        assert [m.cycles for m in journal.of(OP)] == [7.0]


def test_a_journal_in_use_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, connect = tmp_path / "j.sqlite", sqlite3.connect
    Journal(path, "one").close()
    other = connect(path)
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout: connect(path, timeout=0.05))
    with pytest.raises(LutError, match="cannot be used: database is locked") as caught:
        Journal(path, "one")
    other.close()
    assert "another edgenas" in caught.value.hint and "move it away" not in caught.value.hint


def test_the_calibration_set_reaches_every_kernel() -> None:
    counts = dict.fromkeys(KERNELS, 0)
    for op in calibration_operators():
        counts[select(op).name] += 1
    assert min(counts.values()) >= 8


def test_calibration_operators_are_consistent() -> None:
    """Output sizes follow from input, kernel, stride, dilation and padding (TFLite's formula)."""
    windows = ("conv2d", "depthwise_conv2d", "avg_pool", "max_pool")
    for op in calibration_operators():
        if op.kind in windows:
            reach = (op.kernel_h - 1) * op.dilation_h + 1
            assert op.out_h == (op.in_h + op.pad_top + op.pad_bottom - reach) // op.stride_h + 1, op.key
            reach = (op.kernel_w - 1) * op.dilation_w + 1
            assert op.out_w == (op.in_w + op.pad_left + op.pad_right - reach) // op.stride_w + 1, op.key
        assert OpSpec.from_key(op.key) == op


def test_the_sample_network_has_every_kernel_of_the_default_space() -> None:
    space = SearchSpace.for_input((28, 28, 1), 10)
    wanted = {select(op).name for op in space.operators()}
    assert {select(node.op).name for node in sample_graph().nodes} >= wanted
