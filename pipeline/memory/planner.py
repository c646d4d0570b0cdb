"""The arena planner: where each activation and each kernel's scratch memory lies.

One implementation for the search, the engine and the checks: what it says is what is linked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pipeline.space.graph import OpGraph
from pipeline.space.kernels import select

ALIGNMENT = 4  # kernels read words at most; the arena itself is aligned to 16
# kernels that may write over a dying operand of the output's shape (edgenas/kernels.h)
_IN_PLACE = frozenset(("add", "mul", "logistic", "hard_swish", "softmax"))
_REPAIRS = 12


@dataclass(frozen=True, slots=True)
class ArenaPlan:
    """All in bytes; `offsets` by tensor number, the others by node.

    `live_bytes[i]` is what must be kept while node i runs, its scratch included. The largest of them, at
    `peak_node`, is a lower bound of `arena_bytes`; `peak_tensors` are the tensors alive there (aliases of
    one memory once, by their newest tensor). `scratch_offsets[i]` is 0 where node i has no scratch.
    """

    arena_bytes: int
    offsets: tuple[int, ...]
    scratch_offsets: tuple[int, ...]
    live_bytes: tuple[int, ...]
    peak_node: int
    peak_tensors: tuple[int, ...]


@dataclass(slots=True)
class _Buffer:
    """Memory of one or several aliased tensors, or of a node's scratch; alive from `first` to `last`."""

    size: int
    first: int
    last: int


@lru_cache(maxsize=4096)
def plan(graph: OpGraph) -> ArenaPlan:
    """The smallest arena that a few deterministic heuristics find; it is never below the peak of live bytes.

    RESHAPE is an alias, and element-wise operators write over an operand that dies with them. The graph's
    input and output lie in the arena as well; the input's memory is reused after its last reader.

    Early exits: the plan is that of an inference that takes none. An exit's logits are looked at as soon as they
    are there, so their memory is free again afterwards; where an inference ends there, nothing else is written.
    Behind the logits of each output lies one byte for the number of the exit (pipeline.engine.emit).
    """
    best = _plan(graph, in_place=True)
    if best.arena_bytes > max(best.live_bytes, default=0):
        # sharing memory lengthens lifetimes: rarely, a plan without it packs tighter
        best = min(best, _plan(graph, in_place=False), key=lambda p: p.arena_bytes)
    return best


def explain_peak(plan: ArenaPlan, graph: OpGraph) -> str:
    """Which tensors make the peak, one line each with their bytes, largest first; for error messages."""
    producers = {node.output: node.name or node.op.kind for node in graph.nodes}
    node = graph.nodes[plan.peak_node]
    where = f"layer {plan.peak_node} ({node.name or node.op.kind})"
    lines = [f"peak of {plan.live_bytes[plan.peak_node]} bytes at {where}:"]
    tensors = sorted(plan.peak_tensors, key=lambda t: (-graph.tensor_bytes[t], t))
    for tensor in tensors:
        name = "model input" if tensor == graph.input else f"output of {producers.get(tensor, '?')}"
        lines.append(f"  {graph.tensor_bytes[tensor]:8d}  {name}")
    scratch = select(node.op).scratch_bytes
    if scratch:
        lines.append(f"  {scratch:8d}  scratch of {node.name or node.op.kind}")
    return "\n".join(lines)


def _plan(graph: OpGraph, *, in_place: bool) -> ArenaPlan:
    owner = _owners(graph, in_place)
    buffers: dict[int, _Buffer] = {}
    end = len(graph.nodes)
    births = [(graph.input, -1), *((node.output, i) for i, node in enumerate(graph.nodes))]
    numbered = graph.outputs if graph.exits else ()
    for tensor, time in births:
        size = _aligned(graph.tensor_bytes[tensor] + (tensor in numbered))
        buffer = buffers.setdefault(owner[tensor], _Buffer(size, time, time))
        buffer.size = max(buffer.size, size)
        buffer.last = max(buffer.last, time)
    for i, node in enumerate(graph.nodes):
        for tensor in node.inputs:
            buffers[owner[tensor]].last = i
    buffers[owner[graph.output]].last = end

    scratch = [_aligned(select(node.op).scratch_bytes) for node in graph.nodes]
    items = list(buffers.values())
    scratch_items = {i: len(items) + k for k, i in enumerate(i for i, size in enumerate(scratch) if size)}
    items += [_Buffer(scratch[i], i, i) for i in scratch_items]
    live = [0] * end
    for item in items:
        for time in range(max(item.first, 0), min(item.last + 1, end)):
            live[time] += item.size
    placed = _place(items, max(live, default=0))

    position = {key: n for n, key in enumerate(buffers)}
    offsets = tuple(placed[position[owner[t]]] if t in owner else 0 for t in range(len(graph.tensor_bytes)))
    peak = max(range(end), key=lambda i: live[i]) if end else 0
    return ArenaPlan(
        arena_bytes=max((offset + item.size for offset, item in zip(placed, items, strict=True)), default=0),
        offsets=offsets,
        scratch_offsets=tuple(placed[scratch_items[i]] if i in scratch_items else 0 for i in range(end)),
        live_bytes=tuple(live),
        peak_node=peak,
        peak_tensors=_alive(births, owner, buffers, peak),
    )


def _alive(
    births: list[tuple[int, int]], owner: dict[int, int], buffers: dict[int, _Buffer], time: int
) -> tuple[int, ...]:
    newest = {
        owner[tensor]: tensor
        for tensor, born in births
        if born <= time and buffers[owner[tensor]].first <= time <= buffers[owner[tensor]].last
    }
    return tuple(sorted(newest.values()))


def _owners(graph: OpGraph, in_place: bool) -> dict[int, int]:
    """For each tensor the first tensor of the memory that it shares."""
    owner = {graph.input: graph.input}
    for node in graph.nodes:
        owner[node.output] = owner[node.inputs[0]] if node.op.kind == "reshape" else node.output
    if not in_place:
        return owner
    last = {owner[tensor]: i for i, node in enumerate(graph.nodes) for tensor in node.inputs}
    last[owner[graph.output]] = len(graph.nodes)
    for i, node in enumerate(graph.nodes):
        if node.op.kind not in _IN_PLACE:
            continue
        for tensor in node.inputs:
            old = owner[tensor]
            if last[old] == i and graph.tensor_bytes[tensor] == graph.tensor_bytes[node.output]:
                new = owner[node.output]
                last[old] = last.get(new, i)
                owner.update({t: old for t, o in owner.items() if o == new})
                break
    return owner


def _place(items: list[_Buffer], bound: int) -> list[int]:
    """Offsets of the best of several greedy orders; stops as soon as one meets the lower bound."""
    numbers = range(len(items))
    lifetime = [item.last - item.first for item in items]
    orders = (
        sorted(numbers, key=lambda n: (-items[n].size, -lifetime[n], n)),
        sorted(numbers, key=lambda n: (-items[n].size * (lifetime[n] + 1), n)),
        sorted(numbers, key=lambda n: (-lifetime[n], -items[n].size, n)),
        sorted(numbers, key=lambda n: (items[n].first, -items[n].size, n)),
    )
    best: list[int] = []
    best_bytes = -1
    for order in orders:
        for _ in range(_REPAIRS):
            offsets = _first_fit(items, order)
            top = max(numbers, key=lambda n: offsets[n] + items[n].size, default=None)
            height = 0 if top is None else offsets[top] + items[top].size
            if best_bytes < 0 or height < best_bytes:
                best, best_bytes = offsets, height
            if best_bytes <= bound or top is None or order[0] == top:
                break
            order = [top, *(n for n in order if n != top)]  # what stuck out goes first
        if best_bytes <= bound:
            break
    return best


def _first_fit(items: list[_Buffer], order: Iterable[int]) -> list[int]:
    """Each item in turn goes to the lowest gap between those that are alive together with it."""
    offsets = [0] * len(items)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; sorted by offset
    for n in order:
        size, first, last = items[n].size, items[n].first, items[n].last
        offset = 0
        for start, stop, born, died in placed:
            if born > last or died < first:
                continue
            if start - offset >= size:
                break
            if stop > offset:
                offset = stop
        offsets[n] = offset
        placed.append((offset, offset + size, first, last))
        placed.sort()
    return offsets


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
