"""Accuracy of each quantization choice, after training only and after fine-tuning.

    python benchmarks/quantization.py > benchmarks/results/quantization.md

One small network is trained in float on part of Fashion-MNIST; each choice then starts from that network. Accuracies
are those of the fake-quantized network, whose logits are within a step of the exported file's.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace

from real_data import real

from pipeline.space.architecture import Architecture, Block, parameters
from pipeline.train import TrainConfig
from pipeline.train.quantconfig import Choice, QuantizationConfig
from pipeline.train.trainer import Training, settings

ARCHITECTURE = Architecture(
    (28, 28, 1), 10, 16, 2,
    (Block("dw3", 24, 1), Block("ir4", 24, 1), Block("se4", 32, 2), Block("ir4", 32, 1), Block("dw5", 48, 1)),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--float-epochs", type=int, default=5)
    parser.add_argument("--qat-epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--choices", nargs="+", default=["all"], help="as in [train.quantization] auto")
    args = parser.parse_args()
    started = time.monotonic()
    data = real("fashion_mnist", limit=args.images)
    config = TrainConfig(float_epochs=args.float_epochs, qat_epochs=args.qat_epochs, batch_size=32, threads=1)
    names = [str(choice) for choice in QuantizationConfig(auto=tuple(args.choices)).candidates]
    options = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in vars(args).items() if k != "choices")
    print("# Quantization choices\n")
    print(f"    python benchmarks/quantization.py {options} --choices {' '.join(args.choices)}\n")
    print(
        f"`{ARCHITECTURE.describe()}` ({parameters(ARCHITECTURE):,} parameters), {len(data.x_train):,} images of"
    )
    print(
        f"Fashion-MNIST, {args.float_epochs} float epochs, {args.qat_epochs} of fine-tuning, batches of 32;"
    )
    print(f"accuracy of the fake-quantized network on {len(data.x_test):,} test images, measured.\n")
    print("| weights/weight range/activations | not fine-tuned | fine-tuned |\n|---|---|---|")
    with settings(config):
        trained = [Training(ARCHITECTURE, data, config, seed, None, None) for seed in range(args.seeds)]
        for training in trained:
            training.run_float(None)
        floats: list[float] = []
        for name in names:
            rows = [_tried(training, name) for training in trained]
            floats = [row[0] for row in rows]
            columns = [_percent([row[i] for row in rows]) for i in (1, 2)]
            print(f"| {name} | {columns[0]} | {columns[1]} |", flush=True)
    print(f"\nFloat: {_percent(floats)}. {time.monotonic() - started:.0f} s.")


def _tried(trained: Training, name: str) -> tuple[float, float, float]:
    """Test accuracies (0..1): float, after training only, after fine-tuning."""
    choice = Choice.parse(name)
    options = QuantizationConfig(choice.weights, choice.weight_range, choice.activations)
    found: list[float] = []
    for epochs in (0, trained.config.qat_epochs):
        training = copy.deepcopy(trained)
        training.config = replace(trained.config, quantization=options, qat_epochs=epochs)
        training.total_steps = training.float_steps + epochs * training.batches.per_epoch
        result = training.run(None)
        found.append(result.fake_quant_accuracy)
    return result.float_accuracy, found[0], found[1]


def _percent(values: list[float]) -> str:
    return " / ".join(f"{100 * value:.2f} %" for value in values)


if __name__ == "__main__":
    main()
