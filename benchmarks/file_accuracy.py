"""Accuracy of an INT8 classifier that came from elsewhere, on the test split that our own figures are of.

    python benchmarks/file_accuracy.py pretrainedResnet_quant.tflite --data cifar10

LiteRT's reference kernels, inputs as `edgenas validate` gives them: a pixel less 128. The standard error tells of the
images drawn, not of what another training would have given.
"""

from __future__ import annotations

import argparse
from math import sqrt
from pathlib import Path

from real_data import real

from pipeline.export.reference import evaluate_int8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=10_000, help="the first of the test split")
    args = parser.parse_args()
    data = real(args.data)
    x, y = data.x_test[: args.images], data.y_test[: args.images]
    found = evaluate_int8(args.model.read_bytes(), x, y)
    error = sqrt(found * (1 - found) / len(x))
    print(f"{args.model.name}: {found:.2%} of {len(x):,} images, standard error {100 * error:.2f} points")


if __name__ == "__main__":
    main()
