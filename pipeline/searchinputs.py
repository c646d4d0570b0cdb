"""What a finished search was made of, in its run's folder: what the edge stage must know of the cloud stage."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.data import DataSet
from pipeline.errors import ConfigError
from pipeline.latency.lut import Identity
from pipeline.runfile import RunFile
from pipeline.runstate import RunState, read_json
from pipeline.search.config import SearchConfig
from pipeline.search.effort import search_passes
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.selectionconfig import SelectionConfig
from pipeline.search.sharingconfig import SharingConfig
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace

INPUTS = "search_inputs.json"
_METHODS = {"blocks": "edgenas", "cells": "hypernetwork"}  # that the edge stage goes on from
# A table under another of these says something else about the same operators. The clock may differ: it is part of
# the device's condition. Other revisions and compilers may differ too: the edge's own table decides.
_CONDITIONS = ("board", "memory", "engine", "timing", "counter")


def search_inputs(
    run: RunFile,
    method: str,
    space: SearchSpace | CellSpace,
    data: DataSet,
    identity: Identity,
    checkpoint: Path,
) -> dict[str, Any]:
    """The content of `search_inputs.json`; `checkpoint` lies inside the run's folder."""
    return {
        "name": run.name,
        "method": method,
        "space": space.to_json(),
        "data": {"name": data.name, "validation_images": len(data.x_val)},
        "table": asdict(identity),
        "search": asdict(run.search),
        "seed": run.seed,
        "checkpoint": f"{checkpoint.parent.name}/{checkpoint.name}",
    }


@dataclass(frozen=True, slots=True)
class CloudRun:
    """A run folder whose search has finished. `seconds`: what that search took, 0 where it is not known."""

    folder: Path
    name: str
    space: SearchSpace | CellSpace
    search: SearchConfig
    table: dict[str, Any]
    validation_images: int
    checkpoint: Path
    seconds: float

    @classmethod
    def open(cls, folder: Path) -> CloudRun:
        """Raises ConfigError: no such folder, not finished, damaged, or a method that the edge stage does not go on
        from in that space."""
        if not folder.is_dir():
            raise ConfigError(
                f"adapt.cloud: there is no run folder {folder}", hint="give the folder of an `edgenas search`"
            )
        if not (folder / INPUTS).is_file():
            raise ConfigError(
                f"adapt.cloud: the search in {folder} has not finished ({INPUTS} is missing)",
                hint="run its `edgenas search` again: it goes on where it stopped",
            )
        raw = read_json(folder / INPUTS)
        try:
            space = _space(raw["space"])
            kind = _kind(space)
            if raw["method"] != _METHODS[kind]:
                raise ConfigError(
                    f"adapt.cloud: {folder} was searched with method '{raw['method']}' in a space of {kind}, "
                    f"not with '{_METHODS[kind]}'",
                    hint='the edge stage goes on from the supernet of method = "edgenas" in a space of blocks, '
                    'of "hypernetwork" in one of cells',
                )
            checkpoint = folder / raw["checkpoint"]
            found = cls(
                folder, str(raw["name"]), space, _search_config(raw["search"]), dict(raw["table"]),
                int(raw["data"]["validation_images"]), checkpoint, RunState(folder).seconds("search"),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{folder / INPUTS} is damaged: {error!r}",
                hint="delete it and run its `edgenas search` again",
            ) from error
        if not checkpoint.is_file():
            raise ConfigError(
                f"adapt.cloud: the checkpoint {checkpoint} is missing",
                hint=f"delete {folder / 'search.json'} and run its `edgenas search` again",
            )
        return found

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()[:16]

    @property
    def passes(self) -> int:
        """What the search cost, in the unit of search/effort.py."""
        return search_passes(self.search, self.space, self.validation_images)

    def check(self, wanted: SearchSpace | CellSpace, table: Identity) -> None:
        """Raises ConfigError that names each field in which the edge's space or table is another one."""
        ours, theirs = wanted.to_json(), self.space.to_json()
        if (kind := _kind(wanted)) != _kind(self.space):
            ours, theirs = {"kind": kind}, {"kind": _kind(self.space)}
        other = [f"{k} {ours[k]} (there {theirs.get(k)})" for k in ours if ours[k] != theirs.get(k)]
        if other:
            raise ConfigError(
                f"the search in {self.folder} has another search space: {', '.join(other)}",
                hint="input_shape and classes come from [data], the others from [space]; leave [space] out to "
                "take the cloud's",
            )
        here = asdict(table)
        other = [
            f"{k} '{here[k]}' (there '{self.table.get(k)}')"
            for k in _CONDITIONS
            if here[k] != self.table.get(k)
        ]
        if other:
            raise ConfigError(
                f"the search in {self.folder} was made with another latency table: {', '.join(other)}",
                hint="adapt for the board that was searched for",
            )


def _kind(space: SearchSpace | CellSpace) -> str:
    """As `[space] kind` calls it."""
    return "cells" if isinstance(space, CellSpace) else "blocks"


def _space(raw: dict[str, Any]) -> SearchSpace | CellSpace:
    """What `to_json` of either kind of space wrote; TypeError or ConfigError on anything else."""
    return CellSpace.from_json(raw) if "kind" in raw else SearchSpace.from_json(raw)


def _search_config(raw: dict[str, Any]) -> SearchConfig:
    """The settings that `search_inputs` wrote; TypeError or AttributeError on anything else.

    Of the tables only those that say what a search with a supernet did and cost come back.
    """
    plain = {f.name for f in fields(SearchConfig)}
    values = {k: v for k, v in raw.items() if k in plain and not isinstance(v, dict | list)}
    tables = {"sharing": SharingConfig, "selection": SelectionConfig, "hyper": HyperConfig}
    for name, table in tables.items():
        known = {f.name for f in fields(table)}
        given = {k: v for k, v in raw.get(name, {}).items() if k in known}  # older runs have fewer keys
        values[name] = table(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    return SearchConfig(**values)
