"""A stand-in for a GPU on machines without one: which tensors would be on it, and which calls would mix the two."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Placed(TorchFunctionMode):
    """Treats the CPU as if it were a GPU: who has not been put on the device explicitly is not there.

    Marks tensors by identity; a call that mixes the two kinds is what a GPU would refuse.
    """

    MAKERS: ClassVar = {
        "zeros",
        "ones",
        "empty",
        "full",
        "arange",
        "tensor",
        "as_tensor",
        "rand",
        "randn",
    }

    def __init__(self) -> None:
        super().__init__()
        self.there: dict[int, bool] = {}
        self.kept: list[Any] = []  # identities stay unique while all tensors live
        self.mixed: list[str] = []

    def mark(self, value: Any, there: bool) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, torch.Tensor):
                self.kept.append(leaf)
                self.there[id(leaf)] = there

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        result = func(*args, **kwargs)
        if name == "to" and any(isinstance(arg, torch.device) for arg in args):
            if isinstance(result, torch.Tensor) and result is args[0]:
                result = result.view_as(result)
            self.mark(result, True)
        elif name == "cpu":
            result = result.view_as(result) if result is args[0] else result
            self.mark(result, False)
        elif name in self.MAKERS and not (inputs and kwargs.get("device") is None):
            self.mark(result, kwargs.get("device") is not None)
        elif inputs and name not in ("__get__", "__set__", "_has_compatible_shallow_copy_type"):
            known = {self.there[id(leaf)] for leaf in inputs if id(leaf) in self.there}
            if len(known) == 2:
                self.mixed.append(name)
            new = [leaf for leaf in tree_leaves(result) if id(leaf) not in self.there]
            self.mark(new, known != {False})
        return result


def watch_arrays_and_parameters(mode: Placed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks what function modes do not see: arrays that become tensors, and parameters (made, moved, copied)."""
    from_numpy, register = torch.from_numpy, torch.nn.Module.register_parameter
    to, copy = torch.nn.Module.to, torch.nn.Parameter.__deepcopy__

    def seen_from_numpy(array: Any) -> torch.Tensor:
        result = from_numpy(array)
        mode.mark(result, False)
        return result

    def seen_register(self: torch.nn.Module, name: str, parameter: Any) -> None:
        register(self, name, parameter)
        if parameter is not None:
            mode.mark(parameter, False)

    def seen_to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        result = to(self, *args, **kwargs)
        if any(isinstance(arg, torch.device) for arg in args):
            mode.mark(list(self.parameters()), True)
        return result

    def seen_copy(self: torch.nn.Parameter, memo: Any) -> Any:
        result = copy(self, memo)
        mode.mark(result, mode.there.get(id(self), False))
        return result

    monkeypatch.setattr(torch, "from_numpy", seen_from_numpy)
    monkeypatch.setattr(torch.nn.Module, "register_parameter", seen_register)
    monkeypatch.setattr(torch.nn.Module, "to", seen_to)
    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", seen_copy)
