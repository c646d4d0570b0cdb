"""A stand-in for a GPU on machines without one: tensors that are "there", and calls that refuse what a GPU refuses.

A tensor on the stand-in is of a subclass whose data lie in the CPU's memory. It says that its device is `meta`, the one
device beside the CPU that autograd knows in every build of torch. So `.numpy()` of it raises, as does a call that mixes
it with a tensor of the CPU where CUDA would raise too, or that CUDA would not repeat bit for bit; and calls at which
the host would wait for the GPU are counted.
What the stand-in cannot show: kernels, their rounding, memory and speed, and autocast, which has no effect here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

THERE = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten

_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
# Their result's shape, or a number in Python, depends on values.
_ASKS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten._unique2.default,
}  # fmt: skip
# What `torch.use_deterministic_algorithms` names, as far as networks might call it: CUDA adds up in another order
# each time. Left out are convolutions, for which cuDNN is told to repeat, `histc`, which counts whole numbers, and
# `nll_loss` but for its form with two dimensions.
_NOT_REPEATED = (
    "scatter", "index_add", "index_copy", "put", "cumsum", "bincount", "median", "upsample", "grid_sampler",
    "nll_loss2d", "_adaptive_avg_pool", "adaptive_max_pool", "avg_pool3d", "reflection_pad", "replication_pad",
    "embedding_bag", "index_select_backward", "repeat_interleave",
)  # fmt: skip


class There(torch.Tensor):
    """A tensor on the stand-in; `elem` has its data."""

    elem: torch.Tensor
    is_meta = False  # type: ignore[assignment]  # torch would warn of copies that come to nothing

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(),
            dtype=elem.dtype, device=THERE,
        )  # fmt: skip
        made.elem = elem
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {}, None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In a file it is what a CUDA tensor is that is loaded with `map_location`."""
        return self.elem.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """torch refuses it of subclasses; on a GPU it is a copy and a list."""
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"There({tuple(self.shape)}, {self.dtype})"


class Gpu(TorchDispatchMode):
    """While it is entered, moving a tensor to `THERE` works. Counts in `waits` by the name of the call."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: dict[str, int] = {}
        self.where: dict[tuple[str, str], int] = {}
        self.calls = 0

    def waited(self, name: str, times: int = 1) -> None:
        self.waits[name] = self.waits.get(name, 0) + times
        frame = sys._getframe(1)
        while frame.f_back is not None and "/pipeline/" not in frame.f_code.co_filename:
            frame = frame.f_back
        place = name, f"{frame.f_code.co_filename.rpartition('/pipeline/')[2]}:{frame.f_lineno}"
        self.where[place] = self.where.get(place, 0) + times

    @property
    def count(self) -> int:
        return sum(self.waits.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {}, self)

    def clear(self) -> None:
        """Counts from 0 on."""
        self.waits, self.where = {}, {}


def _call(func: Any, args: Any, kwargs: dict[str, Any], gpu: Gpu | None) -> Any:
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = {id(leaf.elem): leaf for leaf in leaves if isinstance(leaf, There)}
    wanted = kwargs.get("device")
    target = bool(there) if wanted is None else torch.device(wanted).type == THERE.type
    if gpu is not None:
        gpu.calls += bool(there)
        for name, times in _waits(func, args, kwargs, leaves, target):
            gpu.waited(name, times)
    if there and func not in (aten._to_copy.default, aten.copy_.default):
        _refuse_mixture(func, args, leaves)
        if func.__name__.startswith(_NOT_REPEATED):
            raise RuntimeError(f"{func} does not have a deterministic implementation")
    if wanted is not None:
        kwargs = {**kwargs, "device": CPU}
    plain = tree_map(lambda x: x.elem if isinstance(x, There) else x, (args, kwargs))
    result = func(*plain[0], **plain[1])
    if func is aten.copy_.default:
        return args[0]

    def wrapped(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not target:
            return x
        return there[id(x)] if id(x) in there else There(x)

    return tree_map(wrapped, result)


def _waits(func: Any, args: Any, kwargs: Any, leaves: list[Any], target: bool) -> Iterator[tuple[str, int]]:
    """What of a call the host would wait for."""
    name = func.__name__
    if not any(isinstance(leaf, There) for leaf in leaves) and not target:
        return
    if func is aten._to_copy.default:
        if isinstance(args[0], There) != target and not (target and kwargs.get("non_blocking")):
            yield ("to the device" if target else "to the host"), 1
    elif func is aten.copy_.default:
        if isinstance(args[0], There) != isinstance(args[1], There):
            yield "copy_ between devices", 1
    elif func in _INDEXING:
        index = [i for i in args[1] if i is not None]
        if isinstance(args[0], There):
            moved = sum(not isinstance(i, There) for i in index)
            masks = sum(i.dtype in (torch.bool, torch.uint8) for i in index)
            if moved + masks:
                yield name, moved + masks
    elif func in _ASKS:
        yield name, 1
    elif func is aten.fake_quantize_per_channel_affine_cachemask.default and not args[2].is_floating_point():
        yield name, 2  # it looks at the least and the largest zero point


def _refuse_mixture(func: Any, args: Any, leaves: list[Any]) -> None:
    """Raises as CUDA does for operands on two devices."""
    own = [leaf for leaf in leaves if not isinstance(leaf, There)]
    if func in _INDEXING and isinstance(args[0], There):
        own = [leaf for leaf in own if not any(leaf is i for i in args[1])]
    pointwise = torch.Tag.pointwise in func.tags
    changed = (
        [a for a, spec in zip(args, func._schema.arguments, strict=False)
         if spec.alias_info is not None and spec.alias_info.is_write]
    )  # fmt: skip
    for leaf in own:
        if leaf.ndim or not pointwise or any(leaf is a for a in tree_leaves(changed)):
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {func} of {[_shown(x) for x in leaves]}"
            )


def _shown(x: torch.Tensor) -> str:
    return f"{tuple(x.shape)} {'there' if isinstance(x, There) else 'on the host'}"


def _moved(make: Any) -> Any:
    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = make(data, *args, **kwargs)
        return result if device is None else result.to(device)

    return made


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Whatever searches and trains inside does so on the stand-in, whichever device its settings name."""
    from pipeline.search import device, parallel
    from pipeline.train import prune, teacher, trainer

    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    gpu = Gpu()

    def in_thread(*_: Any, **__: Any) -> Any:
        return gpu if torch.utils._python_dispatch._get_current_dispatch_mode() is None else nullcontext()

    with ExitStack() as stack, monkeypatch.context() as patch:
        patch.setattr(device, "choose_device", lambda *_: THERE)
        for module in (trainer, prune):
            patch.setattr(module, "choose", lambda *_: THERE)
        for module in (device, trainer, teacher):
            patch.setattr(module, "precision", lambda *_: nullcontext())
        patch.setattr(parallel, "precision", in_thread)  # modes belong to their threads, as autocast does
        patch.setattr(torch, "inference_mode", torch.no_grad)  # views of subclasses are refused in it
        for maker in ("tensor", "as_tensor"):  # on `meta` they would leave the values out
            patch.setattr(torch, maker, _moved(getattr(torch, maker)))
        # parameters that are moved are made anew: those of subclasses cannot take on another's data
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(gpu)
        yield gpu
