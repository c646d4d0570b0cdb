"""The contest of a front's or family's members: its checkpoint says how they train, so that no two ways are mixed."""

from __future__ import annotations

from typing import Any

from pipeline.search.edgenas import EdgeNas

_SHARED, _SCRATCH = "from shared weights", "from scratch"


class MemberContest(EdgeNas):
    """EdgeNAS' supernet and checkpoint with one contest, of members that stay in the result.

    Where a checkpoint's members trained another way, their contest begins anew; supernet and ranking stay.
    """

    @property
    def _origin(self) -> str:
        return _SHARED if self.task.config.selection.shared else _SCRATCH

    def _training_name(self, phase: str, path: Any) -> str:
        name = super()._training_name(phase, path)
        return name if self._origin == _SHARED else f"{name} {self._origin}"

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"members": self._origin}

    def _take_up(self, state: dict[str, Any]) -> None:
        super()._take_up(state)
        # earlier versions did not say, and knew shared weights alone
        if state.get("members", _SHARED) != self._origin:
            self.selection.proxied, self.selection.exits = {}, {}
