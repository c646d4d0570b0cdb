"""Folders of files by class: `train/CLASS/FILE`, `val/...`, `test/...`, or `CLASS/FILE` only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.dataset import Arrays, Labels, stratified_split
from pipeline.data.images import SUFFIXES, read_files
from pipeline.data.options import ImageOptions
from pipeline.data.registry import register_with
from pipeline.errors import DataError

TEST_FRACTION = 0.2
_SPLIT_SEED = 2012  # of the test images where no folder names them: the same in every run
TRAIN_FOLDERS = ("train", "training")
_SPLITS = {"train": TRAIN_FOLDERS, "val": ("val", "validation", "valid"), "test": ("test", "testing")}


@dataclass(frozen=True, slots=True)
class Listing:
    """Files and class numbers of one split."""

    files: tuple[Path, ...]
    labels: Labels

    def part(self, indices: np.ndarray) -> Listing:
        """The files at `indices`."""
        return Listing(tuple(self.files[i] for i in indices), self.labels[indices])


@register_with("image_folder", ImageOptions())
def image_folder(path: Path | None, options: ImageOptions) -> Arrays:
    """Images (PNG, JPEG, BMP) of classes named by their folders. Raises DataError."""
    if path is None:
        raise DataError(
            "an image folder needs a path", hint="data.path in the run file, or --data on the command line"
        )
    class_names, splits = list_splits(path, SUFFIXES)
    return read_splits(splits, class_names, options, str(path))


def read_splits(
    splits: dict[str, Listing], class_names: Sequence[str], options: ImageOptions, source: str
) -> Arrays:
    """The images of listed files. A split `test` is made where there is none. Raises DataError."""
    warnings: tuple[str, ...] = ()
    splits = dict(splits)
    if "test" not in splits:
        train, test = stratified_split(splits["train"].labels, TEST_FRACTION, _SPLIT_SEED)
        if not len(test):
            raise DataError(
                f"{source} has no test split, and its {len(train)} images are too few to hold out {TEST_FRACTION:.0%} "
                "of each class",
                hint="add images, or a test folder",
            )
        splits["test"], splits["train"] = splits["train"].part(test), splits["train"].part(train)
        warnings = (f"{source} has no test split: a fixed {TEST_FRACTION:.0%} of each class is used.",)
    val = splits.get("val")
    return Arrays(
        x_train=read_files(splits["train"].files, options),
        y_train=splits["train"].labels,
        x_test=read_files(splits["test"].files, options),
        y_test=splits["test"].labels,
        x_val=read_files(val.files, options) if val else None,
        y_val=val.labels if val else None,
        class_names=tuple(class_names),
        source=source,
        warnings=warnings,
    )


def list_splits(
    path: Path, suffixes: Sequence[str], class_names: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """Class names (sorted, where not given) and the listings of the splits that `path` has.

    Without split folders everything is `train`. Raises DataError for a missing folder, fewer than two
    classes, or a class that one split has and another has not.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder", hint="give the folder that holds the classes' folders")
    found = {
        split: path / name
        for split, names in _SPLITS.items()
        for name in reversed(names)
        if (path / name).is_dir()
    }
    if "train" not in found:
        if found:
            raise DataError(
                f"{path} has {', '.join(sorted(f.name for f in found.values()))} but no folder train",
                hint="put the training files in train/CLASS, or all classes directly into the folder",
            )
        found = {"train": path}
    classes = tuple(class_names) or _classes(found["train"])
    if len(classes) < 2:
        raise DataError(
            f"{found['train']} has {len(classes)} folders, but a classifier needs two classes or more",
            hint="one folder per class, named after it",
        )
    return classes, {split: _listing(folder, classes, suffixes) for split, folder in found.items()}


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith((".", "_"))))


def _listing(folder: Path, classes: tuple[str, ...], suffixes: Sequence[str]) -> Listing:
    unknown = sorted(set(_classes(folder)) - set(classes))
    if unknown:
        raise DataError(
            f"{folder} has the class {', '.join(unknown)}, which the training files lack",
            hint=f"the classes are: {', '.join(classes)}",
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        members = sorted(
            f
            for f in (folder / name).rglob("*")
            if f.suffix.lower() in suffixes and not f.name.startswith(".")
        )
        if not members:
            raise DataError(
                f"{folder / name} holds no files ({', '.join(suffixes)})",
                hint="every split needs every class: add files, or remove the class from all splits",
            )
        files += members
        labels += [label] * len(members)
    return Listing(tuple(files), np.array(labels, np.int64))
