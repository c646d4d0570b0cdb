"""`edgenas adapt` from a finished search to a validated model, under changed clocks, memories, data and load."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from needs import NEEDS_QEMU_ARM
from tinyruns import SPACE, TRAIN

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from pipeline.adapt import LOAD, EdgeRun, Options
from pipeline.errors import BudgetError, ConfigError
from pipeline.profiler.bench import BenchSession
from pipeline.profiler.journal import Measurement
from pipeline.run import Run
from pipeline.space.cells import CellSpace

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]

COMMON = """\
board = "qemu-cortex-m4"
seed = 3
[data]
name = "digits"
limit = 300
"""
CLOUD = (
    COMMON
    + SPACE
    + """\
[budgets]
latency_ms = 50.0
[search]
warmup_steps = 10
steps = 10
batch_size = 16
validation_batch_size = 16
paths = 2
candidates = 6
ranking_images = 60
semifinalists = 2
semifinal_steps = 4
finalists = 1
proxy_steps = 6
threads = 1
"""
)
EDGE = (
    COMMON
    + """\
[data.shift]
rotate_degrees = 30
[budgets]
latency_ms = {latency_ms}
sram_bytes = {sram_bytes}
[search]
threads = 1
[adapt]
cloud = "cloud"
share = 0.5
candidates = 4
{adapt}
"""
    + TRAIN
    + """\
float_epochs = 1
{prune}
[validate]
images = 4
"""
)
PRUNE = """\
[train.prune]
fraction = 0.3
rounds = 1
round_steps = 4
batches = 2
epochs = 1
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapt")
    (folder / "cloud.toml").write_text(CLOUD)
    Run.open(folder / "cloud.toml", runs=folder, quiet=True).search()
    return folder


def edge(
    runs: Path, name: str, adapt: str = "", options: Options | None = None, prune: str = "", **limits: Any
) -> EdgeRun:
    path = runs / f"{name}.toml"
    wanted = {"latency_ms": 50.0, "sram_bytes": 262_144} | limits
    path.write_text(EDGE.format(adapt=adapt, prune=prune, **wanted))
    run = EdgeRun.open(path, runs=runs, quiet=True)
    run.configure(options or Options())
    return run


def test_from_a_search_to_a_validated_model_at_half_the_clock(runs: Path) -> None:
    report = edge(runs, "half", "clock_hz = 84_000_000", latency_ms=20.0).everything()
    assert report["feasible"], report["reasons"]
    assert report["parity"]["mismatches"] == 0
    assert report["board"]["clock_hz"] == 84_000_000
    latency = report["latency_ms"]
    assert latency["predicted"]["value"] <= 20.0
    # the emulator's own count at that clock agrees with the rescaled table
    assert latency["emulated"]["value"] == pytest.approx(latency["predicted"]["value"], rel=0.02)
    adaptation = report["adaptation"]
    assert adaptation["condition"].startswith("84 MHz of 168 MHz, latency x 1 (given), at most 20 ms")
    assert adaptation["passes"] <= 0.5 * adaptation["cloud_passes"]
    assert "cloud" in report["provenance"]["adapted from"]
    saved = json.loads((runs / "half" / "report.json").read_text())
    assert saved["adaptation"] == adaptation
    page = (runs / "half" / "report.html").read_text()
    assert "84 MHz of 168 MHz" in page and "adapted from" in page
    assert (runs / "half" / "lut" / "qemu-cortex-m4" / "edgenas.csv").is_file()


CELLS = """\
[space]
kind = "cells"
stem_channels = 4
channels = [4, 8]
strides = [1, 2]
nodes = 2
"""


def test_cells_from_a_search_to_a_validated_model_at_half_the_clock(tmp_path: Path) -> None:
    """The cloud's best breaks the new limits; what is built keeps them. What is of blocks is told from it."""
    text = CLOUD.replace(SPACE, CELLS).replace("[search]\n", '[search]\nmethod = "hypernetwork"\n')
    (tmp_path / "cloud.toml").write_text(text)
    cloud = Run.open(tmp_path / "cloud.toml", runs=tmp_path, quiet=True).search().candidates
    limits = {
        "latency_ms": 2 * sorted(c.cost.latency_ms for c in cloud)[1],
        "sram_bytes": sorted(c.cost.sram_bytes for c in cloud)[1],
    }
    report = edge(tmp_path, "half", "clock_hz = 84_000_000", **limits).everything()
    assert report["feasible"], report["reasons"]
    assert report["parity"]["mismatches"] == 0
    latency = report["latency_ms"]
    assert latency["predicted"]["value"] <= limits["latency_ms"]
    assert latency["emulated"]["value"] == pytest.approx(latency["predicted"]["value"], rel=0.02)
    assert report["sram_bytes"]["emulated"]["value"] <= limits["sram_bytes"]
    assert report["adaptation"]["passes"] <= 0.5 * report["adaptation"]["cloud_passes"]
    assert CellSpace((28, 28, 1), 10, 4, 1, (4, 8), (1, 2), 2) == edge(tmp_path, "half", **limits).space
    with pytest.raises(BudgetError, match="SRAM"):
        edge(tmp_path, "tiny", sram_bytes=2_000).search()
    path = tmp_path / "blocks.toml"
    path.write_text(EDGE.format(adapt="", prune="", latency_ms=50.0, sram_bytes=262_144) + SPACE)
    run = EdgeRun.open(path, runs=tmp_path, quiet=True)
    run.configure(Options())
    with pytest.raises(ConfigError, match=r"another search space: kind blocks \(there cells\)"):
        run.search()


def test_what_was_adapted_is_pruned_from_its_inherited_weights_at_half_the_clock(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What pruning leaves is measured at the present clock."""
    from pipeline.train import prune as module

    started: list[Any] = []
    original = module.prune_and_train

    def spy(*args: Any, **options: Any) -> Any:
        started.append(options["start"])
        return original(*args, **options)

    monkeypatch.setattr(module, "prune_and_train", spy)
    report = edge(runs, "pruned", "clock_hz = 84_000_000", prune=PRUNE, latency_ms=20.0).everything()
    assert report["feasible"], report["reasons"]
    assert report["parity"]["mismatches"] == 0
    pruning = report["training"]["pruning"]
    assert report["macs"] == pruning["after"]["macs"] <= 0.7 * pruning["before"]["macs"]
    latency = report["latency_ms"]
    assert latency["emulated"]["value"] == pytest.approx(latency["predicted"]["value"], rel=0.002)
    assert latency["emulated"]["value"] < pruning["before"]["latency_ms"] <= 20.0
    # the float network started from what the edge stage has learnt, not from random weights
    assert len(started) == 1 and started[0] is not None


def test_cycles_stay_and_times_double_at_half_the_clock(runs: Path) -> None:
    whole, half = edge(runs, "a"), edge(runs, "b", "clock_hz = 84_000_000")
    op = whole.space.operators()[0]
    assert half.lut.rows == whole.lut.rows
    assert half.cost.op_latency_ms(op) == 2 * whole.cost.op_latency_ms(op)


def test_an_idle_emulator_has_a_load_of_one(runs: Path) -> None:
    run = edge(runs, "idle", "measure = true\nmeasure_operators = 5\nmeasure_runs = 2")
    load = run.load
    assert load is not None and load.operators == 5
    assert load.median == pytest.approx(1.0, abs=1e-3)
    assert load.upper == pytest.approx(1.0, abs=1e-3)
    # measured once: a second run takes the file
    again = edge(runs, "idle", "measure = true\nmeasure_operators = 5\nmeasure_runs = 2")
    again.session = None
    assert again.load == load


class Slowed(BenchSession):
    """The emulator under a load that is known: every third run takes 1.6 times as long, the others 1.2 times."""

    count = 0

    def measure(self, op: Any) -> Measurement:
        Slowed.count += 1
        seen = super().measure(op)
        return replace(seen, cycles=seen.cycles * (1.6 if Slowed.count % 3 == 0 else 1.2))


def test_a_measured_load_tightens_the_deadline(runs: Path) -> None:
    text = "measure = true\nmeasure_operators = 4\nmeasure_runs = 3"
    run = edge(runs, "loaded", text, latency_ms=16.0)
    run.session = Slowed(run.settings.board, runs / "bench")
    report = run.everything()
    load = json.loads((runs / "loaded" / LOAD).read_text())
    assert load["median"] == pytest.approx(1.2, abs=0.01)
    assert load["upper"] == pytest.approx(1.6, abs=0.01)
    assert report["feasible"]
    assert report["latency_ms"]["predicted"]["value"] * load["upper"] <= 16.0
    assert report["adaptation"]["deadline_ms"] == 16.0
    budget = report["budgets"]["latency_ms"]
    assert budget["value"] == pytest.approx(10.0, rel=0.01) and budget["provenance"] == "given"
    assert budget["note"].startswith("of an idle device: 16 ms (given) / a load of 1.6 (measured)")
    assert report["adaptation"]["deadline_idle_ms"] == pytest.approx(10.0, rel=0.01)


def test_held_conditions_tighten_the_deadline_too(runs: Path) -> None:
    """50 ms hold under the present load and a further factor, by which what is chosen without it is too slow."""
    free = edge(runs, "free", "latency_scale = 1.25").search().cost
    assert free is not None
    idle_ms = free.latency_ms / 1.1
    hold = f"[robustness]\nloads = [{50 / 1.25 / idle_ms}]\nhold = true\n"
    run = edge(runs, "held", "latency_scale = 1.25", prune=hold)
    result = run.search()
    assert result.candidates
    assert all(c.cost.latency_ms <= idle_ms for c in result.candidates)
    assert run.held_budgets.latency_ms == pytest.approx(idle_ms)  # of the exits' choice and pruning too
    assert f"at most 50 ms ({idle_ms:.4g} ms on the idle device, for robustness.hold)" in run.condition()
    assert "robustness.hold" not in edge(runs, "free", "latency_scale = 1.25").condition()
    with pytest.raises(BudgetError, match=r"robustness\.hold"):
        edge(runs, "too-much", prune=hold, latency_ms=free.latency_ms / 3).search()


def test_a_cloud_search_that_a_predictor_guided_is_adapted_with_the_table(runs: Path) -> None:
    guided = runs / "guided"
    shutil.copytree(runs / "cloud", guided)
    inputs = json.loads((guided / "search_inputs.json").read_text())
    inputs["search"]["latency"] = "predictor"
    (guided / "search_inputs.json").write_text(json.dumps(inputs))
    run = edge(runs, "by-table", options=Options(cloud=guided))
    run.settings = replace(run.settings, search=replace(run.settings.search, latency="predictor"))
    found = run.search()  # neither file's choice makes a predictor be fitted
    assert found.feasible and run.cost.predictor is None
    assert found.to_json() == edge(runs, "by-table-too").search().to_json()


def test_less_memory_is_kept_by_the_exact_planner(runs: Path) -> None:
    roomy = edge(runs, "roomy").search().cost
    assert roomy is not None
    with pytest.raises(BudgetError, match="SRAM"):
        edge(runs, "tiny", sram_bytes=4_000).search()
    smallest = min(c.cost.sram_bytes for c in edge(runs, "roomy").search().candidates)
    result = edge(runs, "less", sram_bytes=smallest).search()
    assert all(c.cost.sram_bytes <= smallest for c in result.candidates)


def test_the_same_twice_and_nothing_done_twice(runs: Path) -> None:
    first = edge(runs, "one").search()
    assert edge(runs, "two").search().to_json() == first.to_json()
    run = edge(runs, "one")
    run._find = lambda checkpoint: pytest.fail("searched again")  # type: ignore[method-assign,misc]
    assert run.search().to_json() == first.to_json()


def test_no_connection_is_made(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Independent of the guard: any connection of an internet family fails the test."""

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            pytest.fail(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    run = edge(runs, "offline")
    run.search()
    run.export()


def test_data_that_would_have_to_be_fetched_are_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.data import places
    from pipeline.offline import NetworkRefusedError

    monkeypatch.setattr(places, "usual_places", lambda: [])
    monkeypatch.setattr("pipeline.data.cifar10.usual_places", lambda: [], raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = runs / "fetch.toml"
    text = EDGE.format(adapt="", prune="", latency_ms=50.0, sram_bytes=262_144).replace(
        '"digits"', '"cifar10"'
    )
    path.write_text(text)
    run = EdgeRun.open(path, runs=runs, quiet=True)
    run.configure(Options())
    with pytest.raises(NetworkRefusedError, match="local data stay"):
        _ = run.data


def test_what_does_not_fit_the_cloud_is_named(runs: Path) -> None:
    path = runs / "other.toml"
    base = EDGE.format(adapt="", prune="", latency_ms=50.0, sram_bytes=262_144)
    other_space = base + SPACE.replace("[16, 24]", "[16, 32]")
    path.write_text(other_space)
    run = EdgeRun.open(path, runs=runs, quiet=True)
    run.configure(Options())
    with pytest.raises(ConfigError, match=r"another search space: channels \[16, 32\] \(there \[16, 24\]\)"):
        run.search()
    path.write_text(base.replace("qemu-cortex-m4", "qemu-cortex-m7"))
    run = EdgeRun.open(path, runs=runs, quiet=True)
    run.configure(Options())
    with pytest.raises(ConfigError, match="another latency table: board 'qemu-cortex-m7'"):
        run.search()
    with pytest.raises(ConfigError, match="there is no run folder"):
        edge(runs, "nowhere", options=Options(cloud=runs / "missing"))
    (runs / "unfinished").mkdir()
    with pytest.raises(ConfigError, match="has not finished"):
        edge(runs, "late", options=Options(cloud=runs / "unfinished"))
    with pytest.raises(ConfigError, match="adapts the run cloud"):
        Run.open(runs / "late.toml", runs=runs, quiet=True)
