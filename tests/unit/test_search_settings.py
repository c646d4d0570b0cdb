"""Settings that a method does not read are refused; those without effect on the outcome repeat nothing."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from search_standins import DATA, SMALL, TINY, MacCost
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import ConfigError
from pipeline.latency.lut import Lut
from pipeline.progress import Reporter
from pipeline.run import Run
from pipeline.runfile import load_runfile
from pipeline.search import names, search
from pipeline.search.ablation import AblationConfig
from pipeline.search.config import SearchConfig
from pipeline.search.hwdartsconfig import HwDartsConfig
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.proxyconfig import ProxyConfig
from pipeline.search.settings import check_settings, read_by
from pipeline.space import Budgets
from pipeline.sweep.open import open_sweep

LUTS = Path(__file__).parents[2] / "luts"
RUNFILE = """\
name = "tiny"
board = "qemu-cortex-m4"

[data]
name = "digits"
limit = 100

[budgets]
latency_ms = 300.0

[space]
strides = [2, 2]
ops = ["dw3", "skip"]
channels = [16, 24]

[search]
method = "{method}"
warmup_steps = 3
steps = 3
batch_size = 8
validation_batch_size = 8
paths = 2
candidates = 4
ranking_images = 16
semifinalists = 2
semifinal_steps = 2
finalists = 1
proxy_steps = 2
device = "cpu"
{more}
"""


def write(folder: Path, method: str = "edgenas", more: str = "") -> Path:
    path = folder / "run.toml"
    path.write_text(RUNFILE.format(method=method, more=more))
    return path


@pytest.mark.parametrize(
    ("given", "key", "readers"),
    [
        ({"ablation": AblationConfig(guide="macs")}, "ablation.guide", {"edgenas"}),
        ({"ablation": AblationConfig(adaptive=False)}, "ablation.adaptive", {"edgenas"}),
        ({"latency": "predictor"}, "latency", {"edgenas", "hypernetwork", "hwdarts"}),
        ({"hyper": HyperConfig(kappa=0.2)}, "hyper.kappa", {"hypernetwork"}),
        ({"hyper": HyperConfig(boards=("esp32",))}, "hyper.boards", {"hypernetwork"}),
        ({"hwdarts": HwDartsConfig(steps=3)}, "hwdarts.steps", {"hwdarts"}),
        ({"proxies": ProxyConfig(names=("macs",))}, "proxies.names", {"random", "evolution"}),
        ({"population": 5}, "population", {"evolution"}),
        ({"given": ("skip",)}, "given", {"given"}),
    ],
)
def test_setting_that_the_method_does_not_read_is_refused(
    given: dict[str, Any], key: str, readers: set[str]
) -> None:
    for method in names():
        config = SearchConfig(method=method, **given)
        if method in readers:
            check_settings(config, [method])
            assert read_by(config, method) == config
            continue
        with pytest.raises(
            ConfigError, match=rf"search\.{key} has no effect with method '{method}': "
        ) as error:
            check_settings(config, [method])
        assert "leave it out" in error.value.hint and all(name in error.value.hint for name in readers)
        assert read_by(config, method) == SearchConfig(method=method)
        check_settings(config, [method, *readers])  # a sweep of several: one of them reads it
    check_settings(SearchConfig(method="my own", **given), ["my own"])


def test_the_search_itself_refuses_too() -> None:
    config = replace(TINY, method="random", ablation=AblationConfig(latency_penalty=False))
    with pytest.raises(ConfigError, match=r"search\.ablation\.latency_penalty has no effect"):
        search(SMALL, DATA, MacCost(), Budgets(), config, seed=0)


@pytest.mark.parametrize("method", ["random", "evolution", "mobilenetv2"])
def test_no_models_are_built_for_a_method_without_gradients(method: str, tmp_path: Path) -> None:
    file = write(tmp_path, method, 'latency = "predictor"')
    with pytest.raises(ConfigError, match=r"run\.toml: search\.latency has no effect with method"):
        Run.open(file, runs=tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_multiply_accumulates_and_a_predictor_cannot_both_guide(tmp_path: Path) -> None:
    file = write(tmp_path, more='latency = "predictor"\n[search.ablation]\nguide = "macs"')
    with pytest.raises(
        ConfigError, match=r"run\.toml:\d+: search\.latency .* no effect with .*ablation\.guide"
    ):
        load_runfile(file)


def test_sweep_refuses_what_none_of_its_searches_reads(tmp_path: Path) -> None:
    quiet = Reporter(quiet=True)
    file = write(tmp_path, more='[search.hyper]\nboards = ["qemu-rv32"]')
    for methods, says in (("edgenas,random", "has no effect with"), ("hypernetwork", "no effect in a sweep")):
        with pytest.raises(ConfigError, match=rf"search\.hyper\.boards .*{says}"):
            open_sweep(load_runfile(file), tmp_path / "out", quiet, methods=methods, seeds="0")
    file = write(tmp_path, "given", 'given = ["dw3-24", "dw5-16"]')
    with pytest.raises(ConfigError, match="block 1 is 'dw5-16'"):
        open_sweep(load_runfile(file), tmp_path / "out", quiet, methods="given,random", seeds="0")
    file = write(tmp_path, more="[train.prune]\nfraction = 0.5")
    with pytest.raises(ConfigError, match=r"\[train\.prune\] has no effect in a sweep"):
        open_sweep(load_runfile(file), tmp_path / "out", quiet, methods="random", seeds="0", train=True)
    file = write(tmp_path, more='latency = "predictor"')
    with pytest.raises(ConfigError, match=r"search\.latency has no effect"):
        open_sweep(load_runfile(file), tmp_path / "out", quiet, methods="random,evolution", seeds="0")


def test_sweep_of_cells_refuses_methods_of_blocks(tmp_path: Path) -> None:
    file = write(tmp_path, "hypernetwork")
    blocks = 'strides = [2, 2]\nops = ["dw3", "skip"]'
    file.write_text(file.read_text().replace(blocks, 'kind = "cells"\nnodes = 1\nstrides = [2, 2]'))
    with pytest.raises(ConfigError, match="--methods: 'edgenas' does not know cell spaces") as error:
        open_sweep(
            load_runfile(file), tmp_path / "out", Reporter(quiet=True), methods="random,edgenas", seeds="0"
        )
    assert error.value.hint == "known: hypernetwork, hwdarts, random, evolution"


@pytest.mark.parametrize("method", ["edgenas", "hwdarts", "random"])
def test_family_of_another_method_is_refused_before_anything_is_measured(method: str, tmp_path: Path) -> None:
    said = CliRunner().invoke(
        app,
        ["family", str(write(tmp_path, method)), "--runs", str(tmp_path / "runs"), "--board", "qemu-rv32"],
    )
    assert isinstance(said.exception, ConfigError)
    assert f"'{method}': only searches of the hypernetwork" in str(said.exception)
    assert not list((tmp_path / "runs" / "tiny").iterdir())


class Interrupted(Exception):
    pass


def test_what_has_no_effect_repeats_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted under one setting and gone on with under another; a finished one is not done again."""
    done: list[int] = []
    stop_at = [4]

    def opened(more: str) -> Run:
        run = Run.open(write(tmp_path, more=more), runs=tmp_path / "runs", quiet=True)
        run.__dict__["lut"] = Lut.load(LUTS / "qemu-cortex-m4" / "edgenas")
        return run

    def update(self: Any, count: int, text: str = "", total: int | None = None) -> None:
        done.append(count)
        if count >= stop_at[0]:
            raise Interrupted

    monkeypatch.setattr("pipeline.progress.Bar.update", update)
    before = "threads = 2\ncheckpoint_seconds = 1e-9"
    after = "threads = 1\nworkers = 2\ncheckpoint_seconds = 1e9"
    with pytest.raises(Interrupted):
        opened(before).search()
    assert done == [1, 2, 3, 4]
    done.clear()
    stop_at[0] = 10**9
    result = opened(after).search()
    assert min(done) in (4, 5)  # steps are counted when they are finished, before they are saved
    assert result.feasible
    found = (tmp_path / "runs" / "tiny" / "search.json").stat().st_mtime_ns
    assert json.dumps(opened(before).search().to_json()) == json.dumps(result.to_json())
    assert (tmp_path / "runs" / "tiny" / "search.json").stat().st_mtime_ns == found
    assert len(list((tmp_path / "runs" / "tiny" / "checkpoints").glob("search-*"))) == 1
    assert opened(before + "\nfreedom = 0.5")._search_key() != opened(before)._search_key()


def test_the_benchmark_of_random_budgets_sets_only_what_its_methods_read(tmp_path: Path) -> None:
    """Its run files are made at random; a setting that is refused would fail a whole method's runs."""
    script = LUTS.parent / "benchmarks" / "random_budgets.py"
    spec = importlib.util.spec_from_file_location("random_budgets", script)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    for space, methods in benchmark.METHODS.items():
        seen = set()
        for number in range(0, 4 * len(methods), 4):  # one board, method by method
            file = tmp_path / f"{number}.toml"
            file.write_text(benchmark.run_file(number, space)[0], encoding="utf-8")
            loaded = load_runfile(file)
            check_settings(loaded.search, [loaded.search.method], cells=space == "cells")
            assert loaded.space.build((28, 28, 1), 10) == benchmark.space_of(space, loaded.space.exits)
            seen.add(loaded.search.method)
        assert seen == set(methods)
