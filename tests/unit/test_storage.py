"""Files that are whole or not there, folders that cannot be written to, and what a user reads of both."""

from __future__ import annotations

import errno
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from one_operator import Builder, options, quantization

from pipeline.assets import asset_dir
from pipeline.cli import main
from pipeline.engine import Model, load
from pipeline.errors import ConfigError, DataError, EdgeNasError, StorageError
from pipeline.profiler.journal import Journal
from pipeline.search.checkpoint import Checkpoint
from pipeline.search.inherit import load_weights, save_weights
from pipeline.space.opspec import OpSpec
from pipeline.stages import profile_boards
from pipeline.storage import Rhythm, alone_in, usable_folder, write_text
from pipeline.train.checkpoint import load_checkpoint, save_checkpoint
from pipeline.validate import read_inputs

BIG = {"w": torch.zeros(100_000)}
SMALL = {"w": torch.ones(3)}


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: writes fail as on a full disk, after a part of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def checked(error: EdgeNasError, *words: str) -> None:
    assert error.exit_code == 2 and error.hint
    assert all(word in error.message for word in words), error.message


def test_who_wants_a_folder_that_another_is_making_anew_waits(tmp_path: Path) -> None:
    inside, leave, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with alone_in(tmp_path / "build"):
            inside.set()
            assert leave.wait(30)
            order.append("first")

    def second() -> None:
        with alone_in(tmp_path / "build"):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    threads[1].join(0.3)
    assert not order
    with alone_in(tmp_path / "another"):
        leave.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first", "second"]


@pytest.mark.parametrize(("every", "expected"), [(20.0, [1, 3, 7, 15, 31, 51]), (0.5, [1, 2, 3, 4, 5, 6])])
def test_the_first_checkpoint_comes_after_a_second_and_later_ones_at_growing_distances(
    every: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds at which a computation writes whose steps take one each."""
    clock = [100.0]
    monkeypatch.setattr("pipeline.storage.time.monotonic", lambda: clock[0])
    rhythm, found = Rhythm(every), []
    for second in range(1, 60):
        clock[0] = 100.0 + second
        if rhythm.due():
            found.append(second)
            rhythm.written()
    assert found[: len(expected)] == expected


def test_a_search_keeps_its_last_checkpoint_where_there_is_no_room(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "deep" / "search.pt", {"seed": "1"}, 0.0)
    checkpoint.save(SMALL)
    with room_for(10_000), pytest.raises(StorageError) as caught:
        checkpoint.save(BIG)
    checked(caught.value, "search.pt", "File too large", "what was there before is kept")
    found = checkpoint.load()
    assert found is not None and torch.equal(found["w"], SMALL["w"])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["search.pt"]
    checkpoint.save(BIG)
    found = checkpoint.load()
    assert found is not None and torch.equal(found["w"], BIG["w"])


def test_so_does_a_training(tmp_path: Path) -> None:
    path = tmp_path / "train.pt"
    save_checkpoint(path, {"identity": "a", **SMALL})
    with room_for(10_000), pytest.raises(StorageError, match=r"train\.pt cannot be written: File too large"):
        save_checkpoint(path, {"identity": "a", **BIG})
    assert torch.equal(load_checkpoint(path, "a")["w"], SMALL["w"])
    save_weights(path, [SMALL])
    with room_for(10_000), pytest.raises(StorageError):
        save_weights(path, [BIG])
    assert torch.equal(load_weights(path)[0]["w"], SMALL["w"])
    assert [found.name for found in tmp_path.iterdir()] == ["train.pt"]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    assert usable_folder(tmp_path / "a" / "b", "--out").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("mine")
    for path, why in (
        (tmp_path / "file", "it is a file"),
        (tmp_path / "file" / "sub", "Not a directory"),
        (Path("/proc/nothing"), "No such file or directory"),  # read-only for root, too
    ):
        with pytest.raises(ConfigError) as caught:
            usable_folder(path, "--out")
        checked(caught.value, "--out", str(path), why)
    assert (tmp_path / "file").read_text() == "mine"
    with room_for(0), pytest.raises(StorageError) as full:
        write_text(tmp_path / "new" / "x.txt", "text")
    checked(full.value, "x.txt")
    assert "kept" not in full.value.message and not list((tmp_path / "new").iterdir())


def test_a_table_that_could_not_be_written_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import stages
    from pipeline.boards import load_board

    monkeypatch.setattr(stages, "profile", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out: .*file.* cannot be used"):
        profile_boards([load_board("qemu-cortex-m4")], None, tmp_path / "file", quiet=True)


def test_profile_measures_the_space_of_the_data_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image folder that the run file's own path does not lead to, through the command line."""
    from typer.testing import CliRunner

    from pipeline import stages
    from pipeline.cli.main import app
    from pipeline.latency.lut import Lut

    asked: list[Path | None] = []

    def load_data(run: object, path: Path | None) -> object:
        asked.append(path)
        return SimpleNamespace(input_shape=(10, 14, 2), classes=3)

    def profile(board: object, ops: list[OpSpec], **_: object) -> Lut:
        assert {(op.in_h, op.in_w, op.in_c) for op in ops if op.in_c == 2} == {(10, 14, 2)}
        return Lut.load(asset_dir("luts") / "qemu-cortex-m4" / "edgenas.csv")

    monkeypatch.setattr(stages, "load_data", load_data)
    monkeypatch.setattr(stages, "profile", profile)
    runfile = tmp_path / "r.toml"
    runfile.write_text('board = "qemu-cortex-m4"\n[budgets]\nlatency_ms = 50.0\n[space]\nblocks = 2\n')
    command = ["profile", "--board", "qemu-cortex-m4", "--out", str(tmp_path), "--json"]
    given = ["--data", str(tmp_path / "images")]
    done = CliRunner().invoke(app, [*command, "--run", str(runfile), *given])
    assert done.exit_code == 0 and asked == [tmp_path / "images"], done.output
    without = CliRunner().invoke(app, [*command, *given])
    assert isinstance(without.exception, ConfigError) and "--run" in without.exception.hint


def test_journal_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="journal") as caught:
        Journal(tmp_path / "file" / "journal.sqlite", "id")
    checked(caught.value, "journal.sqlite", "File exists")


def outcome(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Exit status of the command line with `arguments`, in this process."""
    monkeypatch.setattr("sys.argv", ["edgenas", *arguments])
    with pytest.raises(SystemExit) as caught:
        main.main()
    return caught.value.code


def test_what_nobody_foresaw_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: OSError) -> Any:
        def boards() -> None:
            raise error

        return boards

    for number, hint in (
        (errno.EACCES, "permissions"),
        (errno.ENOSPC, "make room"),
        (errno.EFBIG, "ulimit -f"),
        (errno.ENOTDIR, "folder"),
    ):
        error = OSError(number, "reason", "/some/where")
        monkeypatch.setattr("pipeline.cli.boards.board_names", fail(error))
        assert outcome(monkeypatch, "boards") == 2
        said = capsys.readouterr().err
        assert "error: /some/where: reason\n" in said and hint in said.split("hint:")[1]
        assert outcome(monkeypatch, "boards", "--json") == 2
        assert '"error": "/some/where: reason"' in capsys.readouterr().out
    monkeypatch.setattr("pipeline.cli.boards.board_names", fail(OSError("a defect of ours")))
    monkeypatch.setattr("sys.argv", ["edgenas", "boards"])
    with pytest.raises(OSError, match="a defect of ours"):
        main.main()


@pytest.fixture(scope="module")
def model() -> Model:
    b = Builder()
    q = quantization(0.05, 3)
    x = b.tensor((1, 2, 2, 1), q)
    out = b.tensor((1, 4), q)
    b.operator("RESHAPE", (x, b.tensor((2,), None, [1, 4], np.int32)), out,
               options("ReshapeOptions", newShape=[1, 4]))  # fmt: skip
    return load(b.content([x], out))


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros(2, np.int64), ("y has shape (2,)", "x (3, 2, 2, 1)")),
        (np.zeros((3, 10), np.int64), ("y has shape (3, 10)",)),
        (np.array(["a", "b", "c"]), ("y holds <U1",)),
        (np.array(1), ("y has shape ()",)),
        (np.array([1, 2, 4]), ("y holds 1 to 4", "4 outputs")),  # counted from 1
        (np.array([-1, 2, 0]), ("y holds -1 to 2",)),
    ],
)
def test_labels_that_do_not_belong_to_the_inputs(
    y: Any, words: tuple[str, ...], model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.zeros((3, 2, 2, 1), np.int8), y=y)
    with pytest.raises(DataError) as caught:
        read_inputs(path, model, 3)
    checked(caught.value, "inputs.npz", *words)
    np.savez(path, x=np.zeros((3, 2, 2, 1), np.int8), y=np.array([1, 2, 0]))
    labels = read_inputs(path, model, 2).labels
    assert labels is not None and labels.tolist() == [1, 2]


def test_inputs_without_an_x_or_without_any_input(model: Model, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", images=np.zeros((3, 2, 2, 1), np.int8), z=np.zeros(1))
    with pytest.raises(DataError, match=r"other\.npz has no array 'x', it holds: images, z"):
        read_inputs(tmp_path / "other.npz", model, 3)
    np.save(tmp_path / "none.npy", np.zeros((0, 2, 2, 1), np.int8))
    with pytest.raises(DataError, match=r"none\.npy holds no inputs"):
        read_inputs(tmp_path / "none.npy", model, 3)


def test_inputs_that_are_no_numbers(model: Model, tmp_path: Path) -> None:
    x = np.zeros((3, 2, 2, 1))
    x[1, 0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match="nan") as caught:
        read_inputs(tmp_path / "x.npy", model, 3)
    assert caught.value.hint
    assert len(read_inputs(tmp_path / "x.npy", model, 1).x) == 1


def test_the_content_of_inputs_counts_and_not_their_files_name(model: Model, tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.int8).reshape(3, 2, 2, 1)
    for name, write in (("array.npz", np.save), ("named.npy", lambda f, x: np.savez(f, x=x))):
        with (tmp_path / name).open("wb") as file:
            write(file, x)
        assert np.array_equal(read_inputs(tmp_path / name, model, 3).x, x)


@pytest.mark.parametrize("content", [b"no array at all", b"", b"PK\x03\x04 torn"])
def test_inputs_that_are_no_arrays(content: bytes, model: Model, tmp_path: Path) -> None:
    for name in ("inputs.npy", "inputs.npz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_inputs(tmp_path / name, model, 3)
        checked(caught.value, name)
        assert "allow_pickle" not in caught.value.message
    with pytest.raises(DataError, match="Is a directory"):
        read_inputs(tmp_path, model, 3)
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        read_inputs(tmp_path / "objects.npy", model, 3)
