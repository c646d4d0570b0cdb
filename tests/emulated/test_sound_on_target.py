"""Sound in, classes out, in QEMU: the front end inside the application, its budgets, and a whole run on recordings."""

from __future__ import annotations

import json
import shutil
import wave
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from needs import NEEDS_QEMU_ARM
from tinyruns import SEARCH, SPACE, TRAIN

from pipeline.boards import Board, load_board
from pipeline.engine import Model, emit_c, load
from pipeline.export.reference import TflmReference
from pipeline.firmware import Build, build, render_app
from pipeline.frontend import FrontEnd, features
from pipeline.latency.emulated import emulated_features
from pipeline.links import open_link
from pipeline.profiler.footprint import sample_network
from pipeline.profiler.sound import measure_sound_cost
from pipeline.space.architecture import lower
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.validate import validate
from pipeline.wire import Client, Reason, RefusedError
from pipeline.wire.messages import FeaturesRequest, LoadInputRequest, Op, ReadRequest

BOARDS = {"qemu-cortex-m4": ("qemu-system-arm", "arm-none-eabi-gcc"),
          "qemu-rv32": ("qemu-system-riscv32", "riscv64-unknown-elf-gcc")}  # fmt: skip
pytestmark = pytest.mark.emulated
LOOSE = Budgets(latency_ms=500.0, sram_bytes=200_000, flash_bytes=200_000)
# half a second, and MFCCs on the second board
FRONT_ENDS = {"qemu-cortex-m4": FrontEnd(samples=4000), "qemu-rv32": FrontEnd(samples=4000, coefficients=13)}


def spoken(count: int, samples: int, seed: int = 0, rate: int = 8000) -> np.ndarray:
    """Something like words: a voiced part with moving formants, a fricative, silence; loud and quiet."""
    rng = np.random.default_rng(seed)
    clips = np.zeros((count, samples))
    time = np.arange(samples) / rate
    for clip in clips:
        pitch = rng.uniform(90, 250)
        formants = rng.uniform((250, 900), (800, 2500))
        glide = rng.uniform(-600, 600, 2)
        voiced = sum(
            np.sin(2 * np.pi * pitch * n * time) / (1 + ((pitch * n - f - g * time) / 120) ** 2)
            for n in range(1, 15) for f, g in zip(formants, glide, strict=True)
        )  # fmt: skip
        start, end = sorted(rng.integers(0, samples, 2))
        clip[start:end] = voiced[start:end]
        clip[end:] += 0.2 * np.diff(rng.normal(0, 1, samples - end + 1))
        clip *= rng.uniform(300, 20_000) / max(1e-9, np.abs(clip).max())
        clip += rng.normal(0, 8, samples)
    return np.clip(np.rint(clips), -32768, 32767).astype(np.int16)


@dataclass(frozen=True)
class App:
    board: Board
    model: Model
    tflite: bytes
    build: Build
    folder: Path


@pytest.fixture(scope="module", params=sorted(BOARDS))
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    if not all(map(shutil.which, (*BOARDS[request.param], "ninja"))):
        pytest.skip(f"needs {', '.join(BOARDS[request.param])}")
    board, front_end = load_board(request.param), FRONT_ENDS[request.param]
    space = SearchSpace(front_end.shape, 10, 8, 2, (2, 1), ("dw3", "ir2"), (8, 16))
    graph = lower(space.random(np.random.default_rng(5)))
    tflite = sample_network(graph, front_end=front_end)
    model, folder = load(tflite), tmp_path_factory.mktemp(request.param)
    yield App(board, model, tflite, made(board, model, LOOSE, folder), folder)


def made(board: Board, model: Model, budgets: Budgets, folder: Path) -> Build:
    return build(
        render_app(emit_c(model), board, budgets, folder, 1.5, 1.25 if model.front_end else None), board
    )


def test_features_and_outputs_are_the_hosts(app: App) -> None:
    front_end = app.model.front_end
    assert front_end is not None
    clips = spoken(4, front_end.samples)
    wanted = features(front_end, clips)
    assert len(np.unique(wanted)) > 100  # there is something to be heard
    outputs = TflmReference(app.tflite).run(wanted)
    with open_link(app.board, app.build.elf) as link:
        client = Client(link)
        client.hello()
        assert client.describe().sound_bytes == front_end.sound_bytes
        assert client.describe().arena_bytes == app.model.arena_bytes
        for clip, feature, output in zip(clips, wanted, outputs, strict=True):
            heard = client.features(clip.astype("<i2").tobytes())
            assert heard.features == feature.tobytes()
            assert heard.ticks > 0
            assert client.invoke_loaded(heard.features).output == output.tobytes()
            # the old way: the same features, sent
            assert client.invoke(feature.tobytes()).output == output.tobytes()
        memory, check = client.memory(), client.check()
    assert memory.static_bytes == app.build.static_ram_bytes
    assert memory.stack_used_bytes < memory.stack_reserve_bytes
    assert check.ok


def test_the_protocol_refuses_what_makes_no_sense(app: App) -> None:
    front_end = app.model.front_end
    assert front_end is not None
    sound = spoken(1, front_end.samples)[0].astype("<i2").tobytes()
    crc = FeaturesRequest(zlib.crc32(sound)).pack()
    with open_link(app.board, app.build.elf) as link:
        client = Client(link)
        client.hello()

        def refused(op: Op, payload: bytes) -> int:
            with pytest.raises(RefusedError) as caught:
                client._line.request(op, payload)
            return int(caught.value.reason)

        assert refused(Op.FEATURES, crc) == Reason.NO_INPUT  # nothing loaded
        assert refused(Op.READ_INPUT, ReadRequest(0, 1).pack()) == Reason.NO_INPUT
        for offset, data in ((len(sound), b"a"), (2**32 - 1, b""), (len(sound) - 1, b"ab")):
            assert refused(Op.LOAD_SOUND, LoadInputRequest(offset).pack() + data) == Reason.OUT_OF_RANGE
        for op in (Op.LOAD_SOUND, Op.FEATURES, Op.READ_INPUT):
            assert refused(op, b"abc") == Reason.BAD_LENGTH
        client.features(sound)
        count = app.model.input_bytes
        for offset, wanted in ((count, 1), (0, 513), (2**32 - 1, 2)):
            assert refused(Op.READ_INPUT, ReadRequest(offset, wanted).pack()) == Reason.OUT_OF_RANGE
        assert (
            refused(Op.FEATURES, FeaturesRequest(1).pack()) == Reason.NO_INPUT
        )  # another clip than was meant
        client._line.request(Op.FEATURES, crc)  # the clip is still there
        # an input, and an inference, take the clip's memory
        client.load_input(bytes(count))
        assert refused(Op.FEATURES, crc) == Reason.NO_INPUT
        client.invoke(client.features(sound).features)
        assert refused(Op.FEATURES, crc) == Reason.NO_INPUT
        assert refused(Op.READ_INPUT, ReadRequest(0, 1).pack()) == Reason.NO_INPUT


def test_the_device_counts_its_front_end(app: App) -> None:
    """Latency is that of both, each by its own cycles an instruction; a budget that only both break is broken."""
    front_end = app.model.front_end
    assert front_end is not None
    sound = spoken(1, front_end.samples)[0].astype("<i2").tobytes()

    def figures(elf: Path) -> tuple[float, float, int, tuple[str, ...]]:
        with open_link(app.board, elf) as link:
            client = Client(link)
            client.hello()
            heard = client.features(sound)
            ticks = client.invoke_loaded(heard.features).ticks
            check, rate = client.check(), client.describe().cycles_per_tick_q16 / 65536
        us = 1e6 / app.board.clock_hz
        return heard.ticks * rate / 1.5 * 1.25 * us, ticks * rate * us, check.latency_us, check.broken

    front, inference, told, broken = figures(app.build.elf)
    assert told == pytest.approx(front + inference, rel=1e-4, abs=2)
    assert broken == ()
    between = max(front, inference) + 0.5 * min(front, inference)
    tight = replace(LOOSE, latency_ms=between / 1e3)
    assert figures(made(app.board, app.model, tight, app.folder / "tight").elf)[3] == ("latency",)


def test_what_it_is_said_to_cost(app: App) -> None:
    """Measured on two small applications, held against two others."""
    front_end = app.model.front_end
    assert front_end is not None
    cost = measure_sound_cost(app.board, front_end, app.folder / "cost")
    plain = load(sample_network(app.model.graph))
    without = made(app.board, plain, LOOSE, app.folder / "without")
    # never too little, since budgets are held against it
    assert 0 <= cost.flash_bytes - (app.build.flash_bytes - without.flash_bytes) <= 400
    arenas = app.model.arena_bytes - plain.arena_bytes
    assert app.build.static_ram_bytes - without.static_ram_bytes == pytest.approx(
        arenas + cost.ram_bytes, abs=16
    )
    with open_link(app.board, without.elf) as link:
        client = Client(link)
        client.hello()
        assert client.describe().sound_bytes == 0
        with pytest.raises(RefusedError) as caught:
            client.features(bytes(front_end.sound_bytes))
        assert caught.value.reason == Reason.UNKNOWN_OP
    clips = spoken(3, front_end.samples, seed=9)
    wanted = features(front_end, clips)
    seen = validate(app.model, app.tflite, app.build, app.board, wanted, sound=clips)
    assert seen.mismatches == 0
    assert seen.sound is not None
    assert (seen.sound.clips, seen.sound.mismatches) == (3, 0)
    assert seen.sound.cycles is not None
    assert cost.low <= seen.sound.cycles <= cost.high  # hardly any branch of it depends on the sound
    alone = validate(app.model, app.tflite, app.build, app.board, wanted)
    assert alone.mismatches == 0
    assert alone.sound is not None
    assert (alone.sound.source, alone.sound.mismatches) == ("made-up clips", 0)


RUNFILE = (
    """\
name = "words"
board = "qemu-cortex-m4"
seed = 1

[data]
name = "audio_folder"
path = "{data}"
clip_ms = 400
bands = 16
validation = 0.3

[budgets]
latency_ms = {latency_ms}
sram_bytes = 60_000
"""
    + SPACE
    + SEARCH
    + """\
warmup_steps = 4
steps = 4
"""
    + TRAIN
    + """\
float_epochs = 1
[validate]
images = 6
"""
)


def write_words(folder: Path) -> None:
    for number, word in enumerate(("yes", "no", "stop")):
        (folder / word).mkdir(parents=True)
        for i, clip in enumerate(spoken(20, 2400 + 400 * number, seed=number)):
            with wave.open(str(folder / word / f"{i}.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes(clip.astype("<i2").tobytes())


@NEEDS_QEMU_ARM
def test_clips_of_all_kinds_lie_in_the_range_of_the_made_up_ones(tmp_path: Path) -> None:
    """On Cortex-M7, whose branch prediction depends the most on the sound: words with silence after them."""
    board, front_end = load_board("qemu-cortex-m7"), FrontEnd(samples=4000)
    cost = measure_sound_cost(board, front_end, tmp_path)
    (elf,) = (tmp_path / "with").rglob("*.elf")
    for clip in spoken(3, front_end.samples, seed=4):
        clip[1500:] = 0
        seen = emulated_features(board, elf, clip.astype("<i2").tobytes())
        assert cost.low <= seen.cycles <= cost.high


@NEEDS_QEMU_ARM
def test_a_run_from_recordings_to_the_report(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from pipeline.errors import BudgetError
    from pipeline.run import Run
    from pipeline.single import open_model

    write_words(tmp_path / "words")
    runfile = tmp_path / "words.toml"
    # the front end takes 6.3 ms (modelled): the network has less than that
    runfile.write_text(RUNFILE.format(data=tmp_path / "words", latency_ms=11.5))
    run = Run.open(runfile, runs=tmp_path / "runs", quiet=True)
    document = run.everything()
    assert document["reasons"] == []
    part = document["front_end"]
    assert part["parity"] == {"clips": 6, "mismatches": 0, "source": "the inputs' clips"}
    observed, predicted = (part["latency_ms"][name]["value"] for name in ("observed", "predicted"))
    assert observed == pytest.approx(predicted, rel=0.01)
    layers = sum(layer["emulated_cycles"] for layer in document["layers"]) / 168e3
    assert document["latency_ms"]["emulated"]["value"] == pytest.approx(observed + layers, rel=0.01)
    assert document["latency_ms"]["device"]["value"] == pytest.approx(observed + layers, rel=0.03)
    assert document["sram_bytes"]["predicted"]["value"] == document["sram_bytes"]["emulated"]["value"]
    assert document["flash_bytes"]["predicted"]["value"] == pytest.approx(
        document["flash_bytes"]["emulated"]["value"], rel=0.02
    )
    page = (tmp_path / "runs" / "words" / "report.html").read_text()
    assert "Front end" in page
    assert "0</b> of 6 clips differ" in page
    names = {
        check["name"]
        for check in json.loads((tmp_path / "runs" / "words" / "report.json").read_text())["checks"]
    }
    assert "features" in names

    # the file alone: sound again, by what it says of its input
    lut = tmp_path / "alone" / "lut"
    shutil.copytree(tmp_path / "runs" / "words" / "lut", lut)
    job = open_model(
        tmp_path / "runs" / "words" / "model.tflite", "qemu-cortex-m4", tmp_path / "alone", quiet=True
    )
    alone = job.validate(4, None, 0)
    assert alone["front_end"]["parity"] == {"clips": 4, "mismatches": 0, "source": "the inputs' clips"}

    # networks alone would meet this deadline easily
    below = 0.9 * observed
    assert layers < below
    late = tmp_path / "late.toml"
    late.write_text(RUNFILE.format(data=tmp_path / "words", latency_ms=below).replace('"words"', '"late"', 1))
    shutil.copytree(tmp_path / "runs" / "words" / "lut", tmp_path / "runs" / "late" / "lut")
    with pytest.raises(BudgetError, match="latency"):
        Run.open(late, runs=tmp_path / "runs", quiet=True).search()
