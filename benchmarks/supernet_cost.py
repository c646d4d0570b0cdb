"""What sharing weights costs: memory and time of a supernet's step beside those of its largest path alone.

    python benchmarks/supernet_cost.py

Each row runs in a process of its own: least processor time of several steps (forward, backward, SGD with momentum)
and how far the process' resident set rose above what it was before the network was made.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.search.supernet import Supernet
from pipeline.space.search_space import SearchSpace
from pipeline.train.network import QatNetwork

STEPS = 12
CASES = (
    ("the largest path, a network of its own", "alone"),
    ("the supernet, its largest path", "largest"),
    ("the supernet, uniformly drawn paths", "drawn"),
)


def measure(case: str, batch: int) -> dict[str, float]:
    """Processor seconds (least and mean of STEPS) and bytes (peak above the start) of one case."""
    torch.set_num_threads(1)
    space = SearchSpace.for_input((28, 28, 1), 10)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((batch, 1, 28, 28), np.float32))
    y = torch.from_numpy(rng.integers(10, size=batch))
    largest = [(space.ops.index("ir6"), len(space.channels) - 1)] * len(space.strides)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if case == "alone":
        choices = [(space.ops[op], space.channels[out]) for op, out in largest]
        network: torch.nn.Module = QatNetwork(space.build(choices)).train()
    else:
        network = Supernet(space, 0)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, nesterov=True)
    seconds = []
    for _ in range(STEPS):
        path = largest
        if case == "drawn":
            path = [
                (int(rng.integers(len(space.ops))), int(rng.integers(len(space.channels)))) for _ in largest
            ]
        started = time.process_time()
        logits = network(x) if case == "alone" else network(x, path)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits, y).backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = sum(p.numel() for p in network.parameters())
    return {
        "least_s": min(seconds),
        "mean_s": sum(seconds[1:]) / (STEPS - 1),
        "bytes": (peak - before) * 1024,
        "parameters": parameters,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.batch)))
        return
    print(f"Default space at 28x28x1, batches of {options.batch}, one thread of {platform.machine()}, torch "
          f"{torch.__version__} (measured):\n")  # fmt: skip
    print("| | ms a step | ratio | memory, MB | ratio | parameters |\n|---|---|---|---|---|---|")
    alone: dict[str, float] = {}
    for name, case in CASES:
        command = [sys.executable, __file__, "--case", case, "--batch", str(options.batch)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=600).stdout)
        alone = alone or row
        ms = row["mean_s" if case == "drawn" else "least_s"]
        print(f"| {name} | {ms * 1e3:.0f} | {ms / alone['least_s']:.2f} | {row['bytes'] / 1e6:.0f} "
              f"| {row['bytes'] / alone['bytes']:.2f} | {row['parameters']:,} |")  # fmt: skip


if __name__ == "__main__":
    main()
