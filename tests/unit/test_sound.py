"""Models that take sound: the file, the memory, the generated C on this machine, and what the cost models say."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.data.dataset import DataSet
from pipeline.data.shift import ShiftConfig, shifted
from pipeline.data.speech import clips_of, fitted
from pipeline.engine import Model, emit_c, load
from pipeline.engine.host import HostModel
from pipeline.errors import DataError, LutError, ModelError
from pipeline.frontend import FrontEnd, features, from_bytes, to_bytes
from pipeline.frontend.probes import probing_clips
from pipeline.latency.cost import CostModel
from pipeline.latency.intervals import Interval
from pipeline.latency.lut import Lut
from pipeline.latency.sound import SoundCost, sound_cost_path
from pipeline.memory.overlay import overlay
from pipeline.memory.planner import plan
from pipeline.profiler.footprint import sample_network
from pipeline.profiler.sound import obtain_sound_cost
from pipeline.progress import Reporter
from pipeline.search.costs import build_tables
from pipeline.space.architecture import lower, parameters
from pipeline.space.search_space import SearchSpace
from pipeline.validate import random_inputs, read_inputs

SHORT = FrontEnd(samples=1500, window=128, hop=100, bands=10)
BOARD = load_board("qemu-cortex-m4")
front_ends = st.builds(
    lambda samples, window, hop, bands, mfccs: FrontEnd(
        samples=window + samples, window=window, hop=hop, bands=bands, coefficients=min(mfccs, bands)
    ),
    st.integers(0, 9000), st.sampled_from((128, 256, 512)), st.integers(60, 400),
    st.integers(2, 10), st.sampled_from((0, 5, 8)),
)  # fmt: skip


def space_for(front_end: FrontEnd) -> SearchSpace:
    return SearchSpace(front_end.shape, 10, 8, 1, (1, 1), ("dw3", "ir2", "skip"), (8, 16))


def model_for(front_end: FrontEnd, seed: int = 3, named: bool = True) -> Model:
    graph = lower(space_for(front_end).random(np.random.default_rng(seed)))
    return load(sample_network(graph, front_end=front_end if named else None))


def cost_of(front_end: FrontEnd, **changes: object) -> SoundCost:
    plain = SoundCost(front_end, 2e6, 1.9e6, 2.1e6, 1.6e6, 4, 4000, 4, "modelled")
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


# -- the file ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(front_end=front_ends)
def test_the_file_says_what_makes_its_input(front_end: FrontEnd) -> None:
    assert from_bytes(to_bytes(front_end)) == front_end
    assert model_for(front_end).front_end == front_end
    assert model_for(front_end, named=False).front_end is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"{}", to_bytes(SHORT)[:-3], to_bytes(SHORT).replace(b'"hop": 100', b'"hop": "100"'),
     to_bytes(SHORT).replace(b'"hop": 100', b'"hop": 0'), to_bytes(SHORT).replace(b"hop", b"hip"),
     re.sub(rb'"sample_rate": \d+', b'"sample_rate": 1' + b"0" * 400, to_bytes(SHORT))],
)  # fmt: skip
def test_damaged_front_ends_are_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="front end"):
        from_bytes(content)


def test_a_front_end_that_makes_another_input_is_refused() -> None:
    graph = lower(space_for(SHORT).random(np.random.default_rng(3)))
    with pytest.raises(ModelError, match="front end makes"):
        load(sample_network(graph, front_end=dataclasses.replace(SHORT, bands=9)))


# -- memory --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(front_end=front_ends, seed=st.integers(0, 10**6))
def test_nothing_that_is_alive_together_overlaps(front_end: FrontEnd, seed: int) -> None:
    graph = lower(space_for(front_end).random(np.random.default_rng(seed)))
    planned = plan(graph)
    placed = overlay(planned, graph, front_end)
    pieces = sorted(
        [(placed.sound_offset, front_end.sound_bytes), (placed.work_offset, front_end.work_bytes),
         (planned.offsets[graph.input], graph.tensor_bytes[graph.input])]
    )  # fmt: skip
    for (start, count), (following, _) in itertools.pairwise(pieces):
        assert start + count <= following
    last, size = pieces[-1]
    assert last + size <= placed.arena_bytes
    assert placed.arena_bytes >= planned.arena_bytes
    assert placed.sound_offset % 8 == placed.work_offset % 8 == 0
    # and no more than all of it behind one another
    assert placed.arena_bytes <= max(planned.arena_bytes, last + sum(count for _, count in pieces) + 24)


# -- the generated C -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", [SHORT, FrontEnd(coefficients=10, level="absolute")])
def test_generated_c_makes_the_features_and_the_outputs(front_end: FrontEnd) -> None:
    model = model_for(front_end)
    host = HostModel(model, sanitize=front_end is SHORT)
    clips = np.concatenate([probing_clips(front_end), random_inputs(model, 5).sound])
    made, outputs = host.run_sound(clips)
    wanted = features(front_end, clips)
    assert np.array_equal(made, wanted)
    # without a front end the same network takes the features, and so does this one
    plain = HostModel(model_for(front_end, named=False)).run(wanted)
    assert np.array_equal(outputs, plain)
    assert np.array_equal(host.run(wanted), plain)
    with pytest.raises(ModelError):
        host.run_sound(clips[:, 1:])


def test_models_without_a_front_end_have_nothing_of_it() -> None:
    files = emit_c(model_for(SHORT, named=False))
    assert set(files) == {"model.h", "model.c", "model_data.h"}
    assert "sound" not in "".join(files.values())


# -- costs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lut() -> Lut:
    return Lut.load(asset_dir("luts") / "qemu-cortex-m4" / "edgenas.csv")


def test_every_cost_has_the_front_end_in_it(lut: Lut) -> None:
    space = space_for(FrontEnd())
    sound = cost_of(FrontEnd())
    without, with_it = CostModel(BOARD, lut), CostModel(BOARD, lut, sound=sound)
    sizes = set()
    for seed in range(12):
        architecture = space.random(np.random.default_rng(seed))
        graph, count = lower(architecture), parameters(architecture)
        a, b = without.evaluate(graph, count), with_it.evaluate(graph, count)
        more_ms = lut.interval.high * sound.high / 168e3
        assert b.latency_ms == pytest.approx(a.latency_ms + more_ms)
        assert b.latency_ms == pytest.approx(with_it.predict(graph).high_cycles / 168e3)
        assert b.flash_bytes == a.flash_bytes + 4000
        arena = max(plan(graph).arena_bytes, overlay(plan(graph), graph, FrontEnd()).arena_bytes)
        assert b.sram_bytes == a.sram_bytes - plan(graph).arena_bytes + arena + 4
        sizes.add(arena > plan(graph).arena_bytes)
    assert sizes == {True, False}  # of small and of large networks
    tables = [build_tables(space, cost, samples=4) for cost in (without, with_it)]
    more = tables[1].latency_fixed - tables[0].latency_fixed
    assert more == pytest.approx(tables[1].front_end_ms) == pytest.approx(with_it.front_end_ms)
    assert with_it.without_sound().evaluate(graph, count) == a


def test_what_is_assumed_of_another_boards_cycles_counts_once(lut: Lut) -> None:
    sound = cost_of(FrontEnd(), assumed_low=0.9, assumed_high=1.5)
    graph = lower(space_for(FrontEnd()).random(np.random.default_rng(1)))
    for low, high in ((0.98, 1.02), (0.85, 1.8)):
        interval = Interval(low, high, 0, "modelled", "a test")
        cost = CostModel(BOARD, dataclasses.replace(lut, calibration=interval), sound=sound)
        assert cost.front_end_ms == pytest.approx(max(high, 1.5) * 2.1e6 / 168e3)
        alone = cost.predict(graph).front_end
        assert alone is not None
        assert low * alone.low == pytest.approx(min(low, 0.9) * 1.9e6)


def test_a_predictor_knows_nothing_of_the_front_end(lut: Lut) -> None:
    """It is of models alone, so that the front end's part is neither scaled by it nor lost."""
    torch = pytest.importorskip("torch")
    from pipeline.latency.predictor import LatencyPredictor, PredictorIdentity
    from pipeline.search.relaxation import Relaxation

    space = space_for(FrontEnd())
    twice = ((np.zeros((1, 2 * (3 + 2)), np.float32), np.zeros(1, np.float32)),)  # says nothing of its own
    expected = []
    for residual in (True, False):
        predictor = LatencyPredictor(
            PredictorIdentity(BOARD.name, BOARD.clock_hz, "x", "f", str(space.to_json()), "none", "r"), twice, residual,
            float(np.log(2)), 1.0, "modelled", 40,
        )  # fmt: skip
        for sound in (None, cost_of(FrontEnd())):
            tables = build_tables(space, CostModel(BOARD, lut, sound=sound), samples=4)
            relaxation = Relaxation(dataclasses.replace(tables, predictor=predictor))
            ops, widths = torch.full((2, 3), 1 / 3), torch.full((2, 2), 1 / 2)
            expected.append(relaxation.expected_from(ops, widths).latency_ms.item())
    more = lut.interval.high * 2.1e6 / 168e3
    assert expected[1] - expected[0] == pytest.approx(more, rel=1e-4)
    assert expected[3] - expected[2] == pytest.approx(more, rel=1e-4)


def test_kept_costs(tmp_path: Path, lut: Lut) -> None:
    sound, identity = cost_of(SHORT, note="seen"), lut.identity
    path = sound_cost_path(tmp_path, "b", SHORT)
    assert path != sound_cost_path(tmp_path, "b", dataclasses.replace(SHORT, hop=101))
    sound.save(path, identity)
    assert SoundCost.load(path, SHORT, identity) == sound
    with pytest.raises(LutError, match="front end"):
        SoundCost.load(path, dataclasses.replace(SHORT, hop=101), identity)
    with pytest.raises(LutError, match="compiler"):
        SoundCost.load(path, SHORT, dataclasses.replace(identity, compiler="another"))
    path.write_text(path.read_text().replace("2100000.0", "1100000.0"))
    with pytest.raises(LutError, match="checksum"):
        SoundCost.load(path, SHORT, identity)


def test_a_board_without_emulator_and_relatives_is_refused(tmp_path: Path) -> None:
    core = dataclasses.replace(BOARD.core, name="cortex-m99")
    board = dataclasses.replace(BOARD, name="mine", emulator=None, core=core)
    with pytest.raises(LutError, match=r"never measured on mine.*cortex-m99") as caught:
        obtain_sound_cost(board, SHORT, folder=tmp_path, reporter=Reporter(quiet=True))
    assert "add an emulated board" in caught.value.hint


# -- inputs --------------------------------------------------------------------------------------------------


def test_inputs_of_a_model_that_takes_sound(tmp_path: Path) -> None:
    model = model_for(SHORT)
    drawn = random_inputs(model, 6, seed=1)
    assert drawn.sound is not None
    assert drawn.sound.shape == (6, SHORT.samples)
    assert np.array_equal(drawn.x, features(SHORT, drawn.sound))
    np.savez(tmp_path / "sound.npz", x=drawn.sound, y=np.arange(6))
    read = read_inputs(tmp_path / "sound.npz", model, 4)
    assert np.array_equal(read.sound, drawn.sound[:4])
    assert np.array_equal(read.x, drawn.x[:4])
    assert read.labels is not None
    assert read.labels.tolist() == [0, 1, 2, 3]
    np.save(tmp_path / "features.npy", drawn.x)
    assert read_inputs(tmp_path / "features.npy", model, 4).sound is None
    with pytest.raises(DataError, match="no front end"):
        read_inputs(tmp_path / "sound.npz", model_for(SHORT, named=False), 4)
    np.save(tmp_path / "short.npy", drawn.sound[:, 1:])
    with pytest.raises(DataError, match=r"\(4, 1499\)"):
        read_inputs(tmp_path / "short.npy", model, 4)


def heard(count: int = 12) -> DataSet:
    """A data set of noise, whose images are the features of its clips."""
    rng = np.random.default_rng(0)
    sound = tuple(rng.normal(0, 3000, rng.integers(900, 2500)).astype(np.int16) for _ in range(count))
    images = features(SHORT, fitted(sound, SHORT.samples)).view(np.uint8) ^ np.uint8(0x80)
    y = np.arange(count) % 3
    return DataSet(
        "noise", images, y, images, y, images, y, 3, ("a", "b", "c"), "nowhere",
        front_end=SHORT, sound_test=sound,
    )  # fmt: skip


def test_clips_stay_with_their_images() -> None:
    data = heard()
    for one in (data, shifted(data, ShiftConfig(keep_classes=(0, 2)), seed=0)):
        clips = clips_of(one, 5)
        assert clips is not None
        assert np.array_equal(features(SHORT, clips).view(np.uint8) ^ np.uint8(0x80), one.x_test[:5])
    # of altered features there is no recording, but the device still has its front end
    noisy = shifted(data, ShiftConfig(noise=0.1), seed=0)
    assert clips_of(noisy, 5) is None
    assert noisy.front_end == SHORT
