"""What a GPU does for searches and trainings: whether it repeats its results, how near the CPU's they are, its speed.

    python benchmarks/gpu.py [--device cuda] [--steps 100] [--batch 96]

Images are noise of CIFAR-10's shape, the space is the default one. Times are wall time after as many steps to warm up,
all that was asked of the device done; memory is the most that torch had allocated. Every table says what was measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.data import DataSet
from pipeline.search.config import SearchConfig
from pipeline.search.device import computing, resident
from pipeline.search.parallel import train_all
from pipeline.search.retrain import path_of
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import draw_batch, shared_step, train_path, weight_optimizer
from pipeline.space.search_space import SearchSpace
from pipeline.train import TrainConfig
from pipeline.train.device import choose
from pipeline.train.network import QatNetwork
from pipeline.train.trainer import Training
from pipeline.train.trainer import settings as training_settings

SHAPE, CLASSES = (32, 32, 3), 10
SPACE = SearchSpace.for_input(SHAPE, CLASSES)
LARGEST = [(SPACE.ops.index("ir6"), len(SPACE.channels) - 1)] * len(SPACE.strides)


def noise(images: int = 4096) -> Any:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, *SHAPE), dtype=np.uint8)
    y = rng.integers(0, CLASSES, images)
    return SimpleNamespace(x_train=x, y_train=y, x_val=x[:500], y_val=y[:500])


def drawn(rng: np.random.Generator) -> list[tuple[int, int]]:
    return path_of(SPACE, SPACE.random(rng))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(step: Callable[[int], Any], steps: int, device: torch.device) -> tuple[float, float]:
    """Wall time of a step, and the most memory allocated (MB; nan on a CPU), after `steps` to warm up."""
    for i in range(steps):
        step(i)
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.monotonic()
    for i in range(steps):
        step(i)
    wait(device)
    spent = 1e3 * (time.monotonic() - started) / steps
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else float("nan")
    return spent, peak


def shared(name: str, mixed: bool, steps: int, batch: int) -> tuple[list[float], list[torch.Tensor]]:
    """Losses and final weights of a supernet that `steps` drawn paths have trained."""
    with computing(SearchConfig(device=name, mixed_precision=mixed)) as device:
        data, net = resident(noise(), device), Supernet(SPACE, 0).to(device)
        optimizer, losses = weight_optimizer(net, 0.1), []
        for step in range(steps):
            rng = np.random.default_rng(step)
            images = draw_batch(data.x_train, data.y_train, batch, rng)
            losses.append(shared_step(net, optimizer, [drawn(rng)], images, 0.1))
        return losses, [p.detach().cpu() for p in net.parameters()]


def trained(name: str, mixed: bool, steps: int) -> list[torch.Tensor]:
    """A small network's weights after a float epoch of `steps` and one of fine-tuning."""
    data, config = (
        noise(128 * steps),
        TrainConfig(float_epochs=1, qat_epochs=1, device=name, mixed_precision=mixed),
    )
    with training_settings(config):
        result = Training(small(), as_data_set(data), config, 0, None, None).run(None)
    return list(result.network.state_dict().values())


def small() -> Any:
    return SPACE.build([("ir4", 16)] * len(SPACE.strides))


def as_data_set(data: Any) -> DataSet:
    return DataSet(
        "noise", data.x_train, data.y_train, data.x_val, data.y_val, data.x_val, data.y_val,
        classes=CLASSES, class_names=tuple("0123456789"), source="noise",
    )  # fmt: skip


def repeats(name: str, steps: int, batch: int) -> None:
    print("\nRepeatability: the same twice, compared bit for bit\n")
    for mixed in (False, True):
        kind = "bfloat16" if mixed else "float32"
        first, second = (shared(name, mixed, steps, batch) for _ in range(2))
        same = first[0] == second[0] and all(map(torch.equal, first[1], second[1]))
        print(f"- {steps} weight steps of drawn paths, {kind}: {'equal' if same else 'NOT EQUAL'}")
        first_run, second_run = (trained(name, mixed, steps) for _ in range(2))
        same = all(map(torch.equal, first_run, second_run))
        print(f"- a float epoch ({kind}) and one of fine-tuning: {'equal' if same else 'NOT EQUAL'}")
        host = shared("cpu", False, min(steps, 10), batch)[0]
        apart = [abs(a - b) for a, b in zip(first[0], host, strict=False)]
        print(f"- loss of the first step, {kind}, less the CPU's in float32: {apart[0]:.2e}; of the "
              f"{len(apart)} first at most {max(apart):.2e}")  # fmt: skip


def one_step(net: Any, data: Any, batch: int, layout: Any, path: Any) -> Callable[[int], None]:
    """Of a supernet along `path` (None: a drawn one), or of a plain network."""
    optimizer = weight_optimizer(net, 0.1)

    def step(i: int) -> None:
        rng = np.random.default_rng(i)
        x, y = draw_batch(data.x_train, data.y_train, batch, rng)
        x = x.contiguous(memory_format=layout)
        if isinstance(net, Supernet):
            shared_step(net, optimizer, [path or drawn(rng)], (x, y), 0.1)
            return
        loss = F.cross_entropy(net(x).float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def steps_of_a_search(name: str, steps: int, batch: int) -> None:
    print(f"\nWeight steps of a search, batches of {batch}\n")
    print("| what | arithmetic | images in memory | ms | MB |\n|---|---|---|---|---|")
    alone = SPACE.build([(SPACE.ops[op], SPACE.channels[width]) for op, width in LARGEST])
    cases: tuple[tuple[str, Callable[[], Any], Any], ...] = (
        ("the largest path, a network of its own", lambda: QatNetwork(alone), None),
        ("the supernet, its largest path", lambda: Supernet(SPACE, 0), LARGEST),
        ("the supernet, drawn paths", lambda: Supernet(SPACE, 0), None),
    )
    for mixed, layout in product((False, True), (torch.channels_last, torch.contiguous_format)):
        with computing(SearchConfig(device=name, mixed_precision=mixed)) as device:
            data = resident(noise(), device)
            for what, make, path in cases:
                step = one_step(make().to(device).train(), data, batch, layout, path)
                ms, mb = milliseconds(step, steps, device)
                kind, where = "bfloat16" if mixed else "float32", str(layout).removeprefix("torch.")
                print(f"| {what} | {kind} | {where} | {ms:.2f} | {mb:.0f} |", flush=True)


def steps_of_a_training(name: str, steps: int) -> None:
    print("\nSteps of a training, batches of 128\n\n| phase | arithmetic | ms |\n|---|---|---|")
    for mixed in (False, True):
        config = TrainConfig(float_epochs=10_000, qat_epochs=10_000, device=name, mixed_precision=mixed)
        with training_settings(config):
            training = Training(small(), as_data_set(noise()), config, 0, None, None)
            for phase in ("float", "fine-tuning"):
                if phase == "fine-tuning":
                    training._start_qat()
                    training.step = training.float_steps
                ms, _ = milliseconds(lambda _, t=training: t._train_step(), steps, training.device)
                kind = "bfloat16" if mixed and phase == "float" else "float32"
                print(f"| {phase} | {kind} | {ms:.2f} |", flush=True)


def alone(data: Any, device: torch.device, steps: int, batch: int) -> Callable[..., float]:
    def train(path: Any, on_step: Callable[[int], None]) -> float:
        net, rng = Supernet(SPACE, 0).to(device), np.random.default_rng(0)
        train_path(net, path, data, steps=steps, batch_size=batch, lr=0.1, rng=rng, on_step=on_step)
        return 0.0

    return train


def side_by_side(name: str, steps: int, batch: int) -> None:
    print(f"\nFour architectures trained alone for {steps} steps each\n\n| workers | s |\n|---|---|")
    rng = np.random.default_rng(1)
    paths: list[Any] = [tuple(drawn(rng)) for _ in range(4)]
    for workers in (1, 2, 4):
        config = SearchConfig(device=name, workers=workers)
        with computing(config) as device:
            train = alone(resident(noise(), device), device, steps, batch)
            train(paths[0], lambda _: None)  # to warm up
            started = time.monotonic()
            train_all(paths, train, config, device, on_step=lambda _: None, on_done=lambda *_: None)
            wait(device)
            print(f"| {workers} | {time.monotonic() - started:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=96)
    options = parser.parse_args()
    device = choose(options.device, "--device")
    shown = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"{device}: {shown}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()} (measured)")
    repeats(options.device, options.steps, options.batch)
    steps_of_a_search(options.device, options.steps, options.batch)
    steps_of_a_training(options.device, options.steps)
    side_by_side(options.device, options.steps, options.batch)


if __name__ == "__main__":
    main()
