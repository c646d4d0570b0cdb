"""What a finished search left, as its checkpoint has it: where the edge stage starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ConfigError
from pipeline.search.selection import Selection
from pipeline.storage import UNREADABLE

_AGAIN = "delete search.json in the cloud's folder and run its `edgenas search` again"
_START = 'the edge stage starts from a run with method = "edgenas", in a space of cells "hypernetwork"'


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """What a finished search left: EdgeNAS' in a space of blocks, the hypernetwork's in one of cells.

    `net` and `relaxation` are the states of the supernet and of what chooses among its paths. `told`, of a space of
    cells: ranges and features of the run's board, as its hypernetwork saw them. `identity` is a hash of the
    checkpoint's content.
    """

    net: dict[str, Any]
    relaxation: dict[str, Any]
    selection: Selection[Any]
    temperature: float
    identity: str
    validation_images: int
    told: dict[str, Any] | None = None

    @classmethod
    def load(cls, path: Path, identity: str, temperature: float, steps: int, validation_images: int) -> Cloud:
        """Read the checkpoint `path` of a search of `steps` steps in all.

        Raises ConfigError where it is missing, damaged, of a method that leaves no supernet, not finished, or of an
        earlier version that kept too little.
        """
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise ConfigError(f"the cloud's checkpoint {path} is missing", hint=_AGAIN) from error
        except UNREADABLE as error:
            why = (str(error) or "it ends too soon").splitlines()[0].split(". ")[0]
            raise ConfigError(f"the cloud's checkpoint {path} is damaged: {why}", hint=_AGAIN) from error
        state = stored.get("state") if isinstance(stored, dict) else None
        if not isinstance(state, dict) or not {"net", "relaxation", "step"} <= state.keys():
            raise ConfigError(f"{path} is not the checkpoint of a search with a supernet", hint=_START)
        selection = _selection(state, path)
        if state["step"] < steps or not selection.proxied:
            raise ConfigError(
                f"the cloud search has not finished: step {state['step']} of {steps}"
                + ("" if state["step"] < steps else ", its candidates are not judged yet"),
                hint="run the cloud's `edgenas search` again: it goes on where it stopped",
            )
        return cls(
            state["net"], state["relaxation"], selection, temperature, identity, validation_images,
            state.get("told"),
        )  # fmt: skip

    def hand_over(self, net: torch.nn.Module, relaxation: torch.nn.Module) -> None:
        """Load both states. Raises ConfigError, naming the first tensor, where they are of another space."""
        parts = ((self.net, net), (self.relaxation, relaxation))
        if other := next(filter(None, (_another_shape(*part) for part in parts)), ""):
            raise ConfigError(
                f"the cloud's weights are of another search space: {other}",
                hint="take the space of the cloud run; if it is that one, the checkpoint is not of that run: delete "
                "search.json in the cloud's folder and run its `edgenas search` again",
            )
        net.load_state_dict(self.net)
        relaxation.load_state_dict(self.relaxation)


def _selection(state: dict[str, Any], path: Path) -> Selection[Any]:
    """The scored candidates; the hypernetwork of cells keeps them under names of its own."""
    if "selection" in state:
        return Selection.from_state(state["selection"])
    if not {"told", "shared", "own"} <= state.keys():
        raise ConfigError(
            f"the cloud's checkpoint {path} was left by an earlier version, which kept too little",
            hint="delete it and search.json in the cloud's folder, and run its `edgenas search` again",
        )
    return Selection.from_state({"scored": state["shared"], "tried": [], "proxied": state["own"]})


def _another_shape(stored: dict[str, Any], module: torch.nn.Module) -> str:
    """The first tensor of `stored` that `module` has not, or has in another shape, or lacks; empty: all fit."""
    ours = module.state_dict()
    for name in dict.fromkeys([*ours, *stored]):
        there, here = (tuple(s[name].shape) if name in s else None for s in (stored, ours))
        if there != here:
            said = ["missing" if shape is None else "x".join(map(str, shape)) for shape in (there, here)]
            return f"{name} is {said[0]} there and {said[1]} here"
    return ""
