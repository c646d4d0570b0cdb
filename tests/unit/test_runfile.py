"""Run files: defaults, and errors that name the key and the line."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.boards import load_board
from pipeline.errors import ConfigError
from pipeline.run import Run
from pipeline.runfile import RunFile, load_runfile
from pipeline.tomltable import Table, fill

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
GOOD = """\
name = "small"
board = "qemu-cortex-m4"

[budgets]
latency_ms = 50.0

[search]
steps = 10

[space]
ops = ["dw3", "skip"]
channels = [16, 24]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_examples_load() -> None:
    for path in EXAMPLES.rglob("*.toml"):
        run = load_runfile(path)
        json.dumps(run.to_json())
        assert run.budgets.latency_ms


def test_defaults_and_given_values(tmp_path: Path) -> None:
    run = load_runfile(write(tmp_path, GOOD))
    assert run.search.steps == 10
    assert run.budgets.sram_bytes == run.board.memory.sram.bytes
    space = run.space.build((28, 28, 1), 10)
    assert space.ops == ("dw3", "skip") and space.channels == (16, 24) and len(space.strides) == 7


@pytest.mark.parametrize(
    ("old", "new", "complaint", "hint"),
    [
        ("steps = 10", "step = 10", r"run.toml:8: 'search.step' is not a known key", "did you mean 'steps'"),
        ("steps = 10", 'steps = "ten"', r"run.toml:8: 'search.steps' must be an integer", ""),
        ("latency_ms = 50.0", "latency_ms = -1", r"run.toml:5: 'budgets.latency_ms' is -1", "at least"),
        ("latency_ms = 50.0", "latency_ms = 0", r"run.toml:5: 'budgets.latency_ms' is 0", "at least 0.001"),
        ("latency_ms = 50.0", "latency_ms = inf", r"run.toml:5: 'budgets.latency_ms' is inf", "finite"),
        ("latency_ms = 50.0", "latency_ms = nan", r"run.toml:5: 'budgets.latency_ms' is nan", "finite"),
        ("latency_ms = 50.0", "latency_ms = 1e10", r"run.toml:5: .*latency_ms", "at most 15,978.3 ms"),
        ("[search]", "[train]\nmixup = inf\n[search]", r"run.toml:8: 'train.mixup' is inf", "finite"),
        ("[search]", "[robustness]\nloads = [nan]\n[search]", r"run.toml:8: 'robustness.loads' is nan", ""),
        ("[budgets]", f"seed = {2**63}\n[budgets]", r"run.toml:4: 'seed' has more than 64 bits", "at most"),
        ("[budgets]", f"seed = {'9' * 5000}\n[budgets]", r"run.toml is not valid TOML", ""),
        ("latency_ms = 50.0", "", r"run.toml:4: 'budgets.latency_ms' is missing", "add it"),
        (
            "latency_ms = 50.0",
            "latency_ms = 5\nsram_bytes = 99999999",
            r"run.toml:6: .*sram_bytes",
            "at most",
        ),
        ('board = "qemu-cortex-m4"', 'board = "m4"', r"unknown board 'm4'", "ship"),
        ('board = "qemu-cortex-m4"', "", r"run.toml:\d+: 'board' is missing", ""),
        ('name = "small"', 'name = "../up"', r"run.toml:1: 'name' is '../up'", "folder"),
        ("[space]", "[space", r"not valid TOML", "line"),
        ("[search]", "[data]\nname = 'mnisty'\n[search]", r"'data.name' is 'mnisty'", "fashion_mnist"),
        ("[search]", "[serach]", r"run.toml:7: 'serach' is not a known key", "search"),
        ("steps = 10", 'gradient = "magic"', r"run.toml:8: .*gradient", ""),
        ("steps = 10", "kappa = 0.1", r"run.toml:8: 'search.kappa' is not a known key", "[search.hyper]"),
        (
            "steps = 10",
            "hyper_lr = 0.1",
            r"run.toml:8: 'search.hyper_lr' is not a known key",
            "'lr' of [search.hyper]",
        ),
        ("steps = 10", "[search.hyper]\nkappa = 0", r"run.toml:9: search.hyper.kappa", ""),
        (
            "[search]",
            "[train]\nepochs = 3\n[search]",
            r"run.toml:8: 'train.epochs' is not a known key",
            "did you mean 'float_epochs' or 'qat_epochs' or 'epochs' of [train.teacher] or ",
        ),
        (
            "[budgets]",
            "[budget]",
            r"run.toml:1: 'budgets' is missing",
            "'budget' in line 4 is not a known key: did you mean 'budgets'?",
        ),
        (
            'board = "qemu-cortex-m4"',
            'bord = "host"',
            r"'board' is missing",
            "'bord' in line 2 is not a known key: did you mean 'board'?",
        ),
        ('"dw3", "skip"', '"dw3", "dwx"', r"run.toml:11: unknown block operator 'dwx'", "dw3"),
        ("[16, 24]", "[24, 16]", r"run.toml:12: .*channels must be in increasing order", ""),
        ("[16, 24]", "[16]\nstrides = [2, 3]", r"run.toml:13: block stride must be 1 or 2", ""),
        ("[16, 24]", "[16]\nexits = [9]", r"run.toml:13: exits: there is no block 9", "there are 7"),
        ("[16, 24]", "[16]\nstem_stride = 3", r"run.toml:13: .*stem_stride", ""),
        # told by their keys: other keys' names occur in these words, too
        ("[16, 24]", "[16]\nblocks = 0", r"run.toml:13: a search space needs at least one block", ""),
        ("[16, 24]", '[16]\nkind = "cells"\nstrides = [2, 1]', r"run.toml:14: .*cells with 1 channels", ""),
        ("[16, 24]", "[16]\nstem_channels = 0", r"run.toml:13: stem_channels must be", ""),
        ("steps = 10", 'paths = 1\ngradient = "score"', r"run.toml:8: search.paths must be at least 2", ""),
        (
            "steps = 10",
            "batch_size = 8\nvalidation_batch_size = 1",
            r"run.toml:9: search.validation_batch_size",
            "",
        ),
        (
            "[search]",
            "[train.quantization]\nweights = 'channel'\nauto = ['int4/max/average']\n[search]",
            r"run.toml:9: quantization weights = 'int4'",
            "channel",
        ),
        (
            "[search]",
            "[search.exits]\naccuracy_drop = 2.0\n[search]",
            r"run.toml:8: search.exits.accuracy_drop",
            "",
        ),
        ("[16, 24]", '[16]\nkind = "graph"', r"run.toml:13: space.kind is 'graph'", "cells"),
        (
            "[16, 24]",
            "[16]\nblocks = 3\nstrides = [2, 1]",
            r"run.toml:14: 'space.strides' has 2 entries for 3 blocks",
            "one a block",
        ),
        ("[search]", "[validate]\nimages = 0\n[search]", r"run.toml:8: 'validate.images' is 0", "at least 1"),
        ("[search]", "[validate]\nimages = -1\n[search]", r"run.toml:8: .*is -1", "at least 1"),
        ("steps = 10", "steps = 'ten'", r"'search.steps' must be an integer", "docs/search.md"),
        ("[search]", "[train]\nmomentum = 'x'\n[search]", r"'train.momentum' must be", "docs/training.md"),
        ("steps = 10", '[search.hyper]\nboards = ["m4"]', r"run.toml:9: unknown board 'm4'", "ship"),
        (
            "50.0\n\n[search]",
            '15_000.0\n[search.hyper]\nboards = ["qemu-rv32", "qemu-cortex-m7"]\n[search]',
            r"run.toml:7: 'search.hyper.boards' has qemu-cortex-m7, and budgets.latency_ms = 15,000",
            "at most 5,592.405 ms",
        ),
        (
            "steps = 10",
            "mu = 0.2\nnu = 1e-300",
            r"run.toml:9: search.nu = 1e-300 is too small",
            "at least 1e-30",
        ),
        ("steps = 10", 'method = "edgnas"', r"run.toml:8: unknown search method 'edgnas'", "edgenas"),
        (
            "[search]",
            "[robustness]\nloads = [2.0]\nclocks_hz = [840_000_000]\n[search]",
            r"run.toml:9: robustness.clocks_hz = 840,000,000 is above",
            "",
        ),
        ("[budgets]\nlatency_ms = 50.0", "budgets.latency_ms = 'x'", r"run.toml:4: 'budgets.latency_ms'", ""),
        ("[budgets]\nlatency_ms = 50.0", "budgets = {latency_ms = -1}", r"run.toml:4: 'budgets.lat", ""),
        (
            "steps = 10",
            "[search.exits]\nexpected_latency_ms = 20.0",
            r"run.toml:9: 'search.exits.expected_latency_ms' is a goal of early exits, and the space has none",
            "[space] exits",
        ),
        (
            "steps = 10",
            "exits.expected_latency_ms = 50.0",
            r"run.toml:8: 'search.exits.expected_latency_ms' is a goal of early exits",
            "",
        ),
        (
            "steps = 10",
            "exits.search = true",
            r"run.toml:8: search.exits.search = true: nothing says",
            "mean",
        ),
        (
            "steps = 10",
            'exits = {search = true, expected_latency_ms = 9.0}\n[adapt]\ncloud = "before"',
            r"run.toml:8: 'search.exits.search' has no effect in the edge stage",
            "leave it out",
        ),
        ("steps = 10", "hyper.kapa = 1", r"run.toml:8: 'search.hyper.kapa' is not a known key", "kappa"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, old: str, new: str, complaint: str, hint: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_runfile(write(tmp_path, GOOD.replace(old, new)))
    assert hint in str(caught.value)


def test_two_boards_of_one_name_are_refused_and_the_runs_own_may_be_listed(tmp_path: Path) -> None:
    """Tables, results and budgets are told apart by a board's name."""
    shipped = {name: load_board(name).path for name in ("qemu-cortex-m4", "qemu-rv32")}
    copies = {name: tmp_path / f"copy-of-{name}.toml" for name in shipped}
    for name, path in copies.items():
        path.write_text(shipped[name].read_text().replace("hz = ", "hz = 1"))  # another clock

    def load(*boards: object) -> RunFile:
        text = f"[search.hyper]\nboards = {[str(board) for board in boards]}\n[search]"
        return load_runfile(write(tmp_path, GOOD.replace("[search]", text)))

    own, rv32 = "qemu-cortex-m4", "qemu-rv32"
    assert load(own, shipped[own], rv32).search.hyper.boards[0] == own
    for boards, culprit, name, twin in (
        ((rv32, copies[own]), copies[own], own, "the run's own board"),
        ((rv32, shipped[rv32]), shipped[rv32], rv32, f"'{rv32}'"),
        ((copies[rv32], own, rv32), rv32, rv32, f"'{copies[rv32]}'"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(*boards)
        told = f"'search.hyper.boards' has '{culprit}', a board named {name} as {twin} is"
        assert caught.value.message == f"run.toml:8: {told}"
        assert "another 'name'" in caught.value.hint


def test_the_runs_own_board_is_searched_for_once_however_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "cost_on", lambda self, name: name)
    listed = ["qemu-cortex-m4", str(load_board("qemu-cortex-m4").path), "qemu-rv32"]
    text = f'method = "hypernetwork"\nhyper.boards = {listed}'
    power = "[energy]\nvoltage_v = 3.3\ncurrent_ma = 10.0\nuncertainty = 0.1\nreference = 'own meter'\n"
    path = write(tmp_path, GOOD.replace("steps = 10", text) + power)
    assert Run.open(path, runs=tmp_path / "runs", quiet=True).other_costs == ("qemu-rv32",)


def test_a_goal_that_every_network_meets_is_none(tmp_path: Path) -> None:
    text = GOOD + "exits = [2]\n[search.exits]\nexpected_latency_ms = {}\n"
    assert load_runfile(write(tmp_path, text.format(49.0))).search.exits.expected_latency_ms == 49.0
    told = r"run.toml:15: 'search.exits.expected_latency_ms' is 50, and budgets.latency_ms = 50 holds"
    with pytest.raises(ConfigError, match=told) as caught:
        load_runfile(write(tmp_path, text.format(50.0)))
    assert "below the limit of the worst case" in caught.value.hint


def test_the_edge_stage_may_have_a_goal_for_the_clouds_exits(tmp_path: Path) -> None:
    space = GOOD.index("[space]")
    text = GOOD[:space] + '[search.exits]\nexpected_latency_ms = 20.0\n[adapt]\ncloud = "before"\n'
    assert load_runfile(write(tmp_path, text)).search.exits.expected_latency_ms == 20.0


def test_strides_alone_say_how_many_blocks_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "strides = [2, 1, 2]\n")
    assert len(load_runfile(path).space.build((28, 28, 1), 10).strides) == 3


def test_a_teacher_that_is_not_there_is_missed_before_anything_runs(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + '[train.teacher]\nweight = 0.5\nfiles = ["gone.pt"]\n')
    with pytest.raises(ConfigError, match=r"train\.teacher\.files: there is no file gone\.pt"):
        Run.open(path, runs=tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_a_runs_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    path, folder = write(tmp_path, GOOD), tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    held = "import sys, pathlib; from pipeline.storage import claim; claim(pathlib.Path(sys.argv[1]), '')"
    command = [sys.executable, "-c", f"{held}; print('held', flush=True); sys.stdin.read()", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="another edgenas is at work in") as caught:
            Run.open(path, runs=tmp_path / "runs", quiet=True)
        assert "--runs" in caught.value.hint
    for _ in range(2):  # the other one has ended; this process may open it as often as it likes
        Run.open(path, runs=tmp_path / "runs", quiet=True)


@pytest.mark.parametrize("key", ['cloud = "before"', "clock_hz = 84_000_000", "measure = true"])
def test_a_run_file_that_adapts_is_not_run_as_if_it_did_not(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, f"{GOOD}[adapt]\n{key}\n")
    with pytest.raises(ConfigError, match="adapts") as caught:
        Run.open(path, runs=tmp_path / "runs", quiet=True)
    assert f"edgenas adapt {path}" in caught.value.hint


def test_a_missing_training_device_is_told_before_the_search(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + '[train]\ndevice = "cuda:99"\n')
    run = Run.open(path, runs=tmp_path / "runs", quiet=True)  # a search alone needs no such device
    with pytest.raises(ConfigError, match=r"train\.device is 'cuda:99'"):
        run.export()
    assert not list((tmp_path / "runs" / "small").iterdir())


def test_a_missing_search_device_is_told_before_the_table_is_measured(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("[search]", '[search]\ndevice = "cuda:99"'))
    run = Run.open(path, runs=tmp_path / "runs", quiet=True)
    with pytest.raises(ConfigError, match=r"search\.device is 'cuda:99'"):
        run.search()
    assert not list((tmp_path / "runs" / "small").iterdir())


@given(st.integers(0, len(GOOD) - 1), st.text(max_size=3))
def test_edits_load_or_explain(tmp_path_factory: pytest.TempPathFactory, position: int, text: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "run.toml"
    path.write_text(GOOD[:position] + text + GOOD[position + 1 :], encoding="utf-8")
    try:
        load_runfile(path)
    except ConfigError as error:
        assert error.message


@dataclass(frozen=True)
class _Inner:
    rate: float = 1.0


@dataclass(frozen=True)
class _Outer:
    steps: int = 3
    inner: _Inner = field(default_factory=_Inner)


def test_a_dataclass_in_a_dataclass_is_a_table_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("steps = 5\n[inner]\nrate = 2.5\n")
    table = Table.read(path)
    assert fill(table, _Outer()) == _Outer(5, _Inner(2.5))
    table.close()
    path.write_text("[inner]\nrat = 2.5\n")
    table = Table.read(path)
    fill(table, _Outer())
    with pytest.raises(ConfigError, match=r"a\.toml:2: 'inner\.rat'"):
        table.close()


@pytest.mark.parametrize("old", ["rate", "inner_rate"])
def test_a_key_of_an_inner_table_that_is_given_outside_is_told_its_place(tmp_path: Path, old: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"{old} = 2.0\n")
    table = Table.read(path)
    fill(table, _Outer())
    with pytest.raises(ConfigError, match=f"'{old}' is not a known key") as caught:
        table.close()
    assert "'rate' of [inner]" in caught.value.hint


def raised_without_a_key() -> list[str]:
    """`raise ConfigError(...)` without `key=` where the dataclasses of a run file check their fields."""
    package, found = Path(pipeline.__file__).parent, []
    files = [*package.glob("search/*config.py"), *package.glob("train/*config.py"), package / "data" / "options.py",
             package / "data" / "shift.py", package / "space" / "vetoes.py", package / "robustness.py"]  # fmt: skip
    for path in files:
        checks = [
            n for n in ast.walk(ast.parse(path.read_text())) if getattr(n, "name", "") == "__post_init__"
        ]
        for call in (call for check in checks for call in ast.walk(check) if isinstance(call, ast.Call)):
            raises = isinstance(call.func, ast.Name) and call.func.id == "ConfigError"
            if raises and "key" not in {keyword.arg for keyword in call.keywords}:
                found.append(f"{path.name}:{call.lineno}")
    return found


def test_what_a_field_is_refused_for_names_its_key() -> None:
    assert [where for where in raised_without_a_key() if not where.startswith("exitconfig.py")] == []
