"""How many different networks a search space holds: several choices can lower to the same operators."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace


def distinct_networks(space: SearchSpace) -> int:
    """Number of different operator sequences among `space.count()` architectures; exact.

    Two things coincide: a skip with stride 1 is nothing, so where it stands among neighbours at the same
    resolution does not matter; and narrow squeeze-and-excitations round to the same width (se4-16 = se8-16).
    """
    counts = {space.stem_channels: 1}
    skips = "skip" in space.ops
    for first, length, stride, h, w in _runs(space):
        if stride == 2:
            counts = _step(space, first, h, w, counts, skip_too=True)
            continue
        # In a run of stride 1, j of the blocks do something; each sequence of j is counted once.
        reached = [counts]
        for _ in range(length):
            reached.append(_step(space, first, h, w, reached[-1], skip_too=False))
        counts = _sum(reached if skips else reached[-1:])
    return sum(counts.values())


def _runs(space: SearchSpace) -> Iterator[tuple[int, int, int, int, int]]:
    """(first block, number of blocks, stride, height, width): stride-1 neighbours together."""
    sizes = [(h, w) for h, w, _ in space.block_inputs()]
    at = 0
    while at < len(space.strides):
        end = at + 1
        while space.strides[at] == 1 and end < len(space.strides) and space.strides[end] == 1:
            end += 1
        yield at, end - at, space.strides[at], *sizes[at]
        at = end


def _step(
    space: SearchSpace, block: int, h: int, w: int, counts: dict[int, int], *, skip_too: bool
) -> dict[int, int]:
    """Sequences by the width that leaves, after one more block with a distinct list of operators."""
    out: dict[int, int] = {}
    for arriving, count in counts.items():
        seen: set[tuple[OpSpec, ...]] = set()
        for op, channels in space.options:
            if op == "skip" and not skip_too:
                continue
            nodes = tuple(n.op for n in space.block_nodes(block, h, w, arriving, op, channels))
            if nodes not in seen:
                seen.add(nodes)
                leaving = arriving if op == "skip" else channels
                out[leaving] = out.get(leaving, 0) + count
    return out


def _sum(parts: list[dict[int, int]]) -> dict[int, int]:
    out: dict[int, int] = {}
    for part in parts:
        for width, count in part.items():
            out[width] = out.get(width, 0) + count
    return out
