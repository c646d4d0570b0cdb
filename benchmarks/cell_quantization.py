"""What quantization and fine-tuning cost networks of cells, and why fine-tuning holds their normalization.

    python benchmarks/cell_quantization.py

Random architectures are trained in float on every second pixel of Fashion-MNIST. Each is then quantized, and fine-tuned
from there in two ways: as trainings do, with what normalization multiplies by held apart from the weights, and with it
moved into them, as in networks of blocks. Prints accuracies on the test split.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace

import numpy as np
import torch
from edge_stage import part
from real_data import real

from pipeline.export import evaluate_int8, write_tflite
from pipeline.space.architecture import parameters
from pipeline.space.cells import CellSpace
from pipeline.train import TrainConfig
from pipeline.train.layers import Weighted
from pipeline.train.trainer import QatResult, Training, settings

SPACE = CellSpace((14, 14, 1), 10, stem_channels=16, channels=(16, 32, 64), strides=(2, 1, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12_000, help="training images")
    parser.add_argument("--float-epochs", type=int, default=3)
    parser.add_argument("--qat-epochs", type=int, default=1)
    parser.add_argument("--draws", default="0,1", help="which of the random architectures")
    args = parser.parse_args()
    draws = [int(text) for text in args.draws.split(",")]
    rng = np.random.default_rng(5)
    architectures = [SPACE.random(rng) for _ in range(max(draws) + 1)]
    full = real("fashion_mnist")
    data = part(full, args.images, len(full.x_val), len(full.x_test))
    config = TrainConfig(float_epochs=args.float_epochs, qat_epochs=args.qat_epochs, threads=1)
    print(
        "| architecture | parameters | float | quantized | moved, fine-tuned | held, fine-tuned | held, INT8 file |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    started = time.process_time()
    for architecture in (architectures[draw] for draw in draws):
        with settings(config):
            trained = Training(architecture, data, config, 0, None, None)
            trained.run_float(None)
            moved, held = (fine_tuned(copy.deepcopy(trained), move=move) for move in (True, False))
            trained.config = replace(config, qat_epochs=0)
            trained.total_steps = trained.float_steps
            columns = [
                held.float_accuracy,
                trained.run(None).fake_quant_accuracy,
                moved.fake_quant_accuracy,
                held.fake_quant_accuracy,
                evaluate_int8(write_tflite(held.network), data.x_test, data.y_test, workers=1),
            ]
        shown = " | ".join(f"{100 * value:.2f} %" for value in columns)
        print(f"| `{architecture.describe()}` | {parameters(architecture):,} | {shown} |", flush=True)
    print(f"\n{time.process_time() - started:.0f} s of processor time.")


def fine_tuned(training: Training, *, move: bool) -> QatResult:
    """What comes of `training`, which is trained in float. move: what is held apart goes into the weights first."""
    training._start_qat()
    if move:
        for layer in training.network.layers:
            if isinstance(layer, Weighted) and layer.factor is not None:
                weight, bias = layer.deployed()
                with torch.no_grad():
                    layer.weight.copy_(weight)
                    layer.bias.copy_(bias)
                    layer.factor.fill_(1.0)
                    if layer.mean is not None:
                        layer.mean.zero_()
    return training.run(None)


if __name__ == "__main__":
    main()
