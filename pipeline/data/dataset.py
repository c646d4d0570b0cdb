"""DataSet: labelled images as plain arrays, split once and never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.frontend import FrontEnd

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]
Clip = NDArray[np.int16]  # (samples,), of any length

# The test images are put into one fixed random order, whatever the run's seed: files on disk are often
# ordered by class, and "the first 200 test images" must mean the same images in every run.
_TEST_ORDER_SEED = 20170825


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Images (n, h, w, c) uint8 and labels (n,) int64 of three disjoint splits.

    `source` says where the arrays came from; `warnings` what the user should know about them (for
    instance that a stand-in was used), in plain sentences.
    """

    name: str
    x_train: Images
    y_train: Labels
    x_val: Images
    y_val: Labels
    x_test: Images
    y_test: Labels
    classes: int
    class_names: tuple[str, ...]
    source: str
    warnings: tuple[str, ...] = field(default=())
    mirror: bool = True  # a mirrored image keeps its class, so training may mirror
    front_end: FrontEnd | None = None  # what made the images out of sound
    sound_test: tuple[Clip, ...] | None = None  # what the test images were made of, where they were

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        _, height, width, channels = self.x_train.shape
        return height, width, channels


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """What a loader finds: training and test images before the validation split, in any order.

    x_val, y_val: where the data set has a validation split of its own. groups_train: a number per training
    image; images of one group (one speaker, say) never lie on both sides of the validation split. sound_test: the
    recordings, of any length, behind the test images.
    """

    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    class_names: tuple[str, ...]
    source: str
    warnings: tuple[str, ...] = ()
    mirror: bool = True
    x_val: Images | None = None
    y_val: Labels | None = None
    groups_train: Indices | None = None
    front_end: FrontEnd | None = None
    sound_test: Sequence[Clip] | None = None

    def __post_init__(self) -> None:
        """Raises DataError for arrays that do not fit together."""
        parts = [("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)]
        if self.x_val is not None and self.y_val is not None:
            parts.append(("validation", self.x_val, self.y_val))
        for part, x, y in parts:
            where = f"{self.source}: the {part} split"
            if x.ndim != 4 or x.dtype != np.uint8:
                raise DataError(f"{where} holds {x.dtype} images of shape {x.shape}, not uint8 (n, h, w, c)")
            if len(x) == 0 or y.shape != (len(x),):
                raise DataError(f"{where} has {len(x)} images but labels of shape {y.shape}")
            if y.min() < 0 or y.max() >= len(self.class_names):
                raise DataError(
                    f"{where} has labels {y.min()}..{y.max()}, but there are {len(self.class_names)} classes"
                )
            if x.shape[1:] != self.x_train.shape[1:]:
                raise DataError(
                    f"{self.source}: training images are {self.x_train.shape[1:]}, "
                    f"{part} images {x.shape[1:]}"
                )


def stratified_split(labels: Labels, held_out: float, seed: int) -> tuple[Indices, Indices]:
    """Indices (kept, held out), both shuffled, with `held_out` (0..1) of every class held out.

    The same labels, fraction and seed give the same split. Classes of one example stay in the kept part.
    """
    rng = np.random.default_rng(seed)
    kept, held = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(round(len(members) * held_out), len(members) - 1)
        held.append(members[:count])
        kept.append(members[count:])
    return rng.permutation(np.concatenate(kept)), rng.permutation(np.concatenate(held))


def grouped_split(groups: Indices, held_out: float, seed: int) -> tuple[Indices, Indices]:
    """Indices (kept, held out), both shuffled, with whole groups held out: about `held_out` (0..1) of all.

    At least one group is held out and at least one is kept. Raises DataError for a single group.
    """
    rng = np.random.default_rng(seed)
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise DataError("one group alone cannot be split", hint="add other speakers, or use split = 'clip'")
    order = rng.permutation(len(names))
    totals = np.cumsum(counts[order])[:-1]
    chosen = names[order[: int(np.abs(totals - held_out * len(groups)).argmin()) + 1]]
    held = np.isin(groups, chosen)
    return rng.permutation(np.flatnonzero(~held)), rng.permutation(np.flatnonzero(held))


def first_of_every_class(order: Indices, labels: Labels, limit: int | None) -> Indices:
    """The first `limit` of `order`, which indexes `labels`; the last of them give way to the first image of each
    class that would be missing. Where `limit` is less than the number of classes some stay missing.
    """
    if limit is None or limit >= len(order):
        return order
    _, firsts = np.unique(labels[order], return_index=True)
    taken = np.zeros(len(order), bool)
    taken[np.sort(firsts)[:limit]] = True
    others = np.flatnonzero(~taken)
    taken[others[: limit - int(taken.sum())]] = True
    return order[taken]


def make_dataset(
    name: str,
    arrays: Arrays,
    *,
    seed: int,
    validation: float,
    limit: int | None,
    present: Sequence[int] = (),
) -> DataSet:
    """Split off the validation images (stratified, seeded), shuffle, and cut each split to `limit` images.

    `present` are the labels that every split must have; none: all. Raises DataError when `validation` is not a
    fraction between 0 and 1, and where a split is left empty or without an image of one of these.
    """
    if not 0.0 < validation < 1.0:
        raise DataError(
            f"validation = {validation} is not a fraction of the training images",
            hint="use a number between 0 and 1, for example 0.1",
        )
    if limit is not None and limit < 1:
        raise DataError(f"limit = {limit} leaves no images", hint="leave it out, or use at least 1")
    x_val, y_val = arrays.x_val, arrays.y_val
    if x_val is not None and y_val is not None:
        rng = np.random.default_rng(seed)
        train, val = rng.permutation(len(arrays.y_train)), rng.permutation(len(y_val))
    else:
        x_val, y_val = arrays.x_train, arrays.y_train
        if arrays.groups_train is not None:
            train, val = grouped_split(arrays.groups_train, validation, seed)
        else:
            train, val = stratified_split(arrays.y_train, validation, seed)
    if len(val) == 0:
        count = len(arrays.y_train)
        raise DataError(
            f"{count} training images are too few to hold out {100 * validation:g} % of each class",
            hint="add images, or hold out a larger part",
        )
    test = np.random.default_rng(_TEST_ORDER_SEED).permutation(len(arrays.y_test))
    train = first_of_every_class(train, arrays.y_train, limit)
    val = first_of_every_class(val, y_val, limit)
    test = first_of_every_class(test, arrays.y_test, limit)
    for split, labels in (
        ("train", arrays.y_train[train]),
        ("validation", y_val[val]),
        ("test", arrays.y_test[test]),
    ):
        _check_classes(split, labels, arrays, limit, present)
    return DataSet(
        name=name,
        x_train=arrays.x_train[train],
        y_train=arrays.y_train[train],
        x_val=x_val[val],
        y_val=y_val[val],
        x_test=arrays.x_test[test],
        y_test=arrays.y_test[test],
        classes=len(arrays.class_names),
        class_names=arrays.class_names,
        source=arrays.source,
        warnings=arrays.warnings,
        mirror=arrays.mirror,
        front_end=arrays.front_end,
        sound_test=tuple(arrays.sound_test[i] for i in test) if arrays.sound_test is not None else None,
    )


def _check_classes(
    split: str, labels: Labels, arrays: Arrays, limit: int | None, present: Sequence[int]
) -> None:
    """Raises DataError for a class that `split` must have (`present`; none: all) and has no image of."""
    every = np.arange(len(arrays.class_names))
    wanted = np.intersect1d(every, present) if present else every
    missing = np.setdiff1d(wanted, labels)
    if not len(missing):
        return
    named = ", ".join(arrays.class_names[label] for label in missing)
    if limit is not None and limit < len(wanted):
        raise DataError(
            f"limit = {limit} leaves the {split} split without an image of: {named}",
            hint=f"every split needs every class: at least {len(wanted)}",
        )
    raise DataError(
        f"{arrays.source}: the {split} split has no image of: {named}",
        hint="every split needs every class: add images, or change data.validation; of data that lack some, name the "
        "others: keep_classes in [data.shift]",
    )
