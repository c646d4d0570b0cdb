"""Visual Wake Words: is somebody in the picture? Folders as MLPerf Tiny has them, or COCO with annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import Arrays
from pipeline.data.folders import TRAIN_FOLDERS, Listing, list_splits, read_splits
from pipeline.data.images import SUFFIXES
from pipeline.data.options import WakeWordOptions
from pipeline.data.places import usual_places
from pipeline.data.registry import register_with
from pipeline.errors import DataError

NAME = "visual_wake_words"
MLPERF_FOLDER = "vw_coco2014_96"  # as MLPerf Tiny's archive unpacks
_YEARS = ("2014", "2017")


@register_with(NAME, WakeWordOptions())
def visual_wake_words(path: Path | None, options: WakeWordOptions) -> Arrays:
    """Two classes, non_CATEGORY (0) and CATEGORY (1), the category being `person` if nothing else is asked.

    path: a folder with `person/` and `non_person/` (or these under train/, val/, test/), or the one above that, or a
    COCO folder: `annotations/instances_train2014.json` beside `train2014/`, the same for val (its images are the test
    split), or 2017. Without a path the usual places are searched for `vw_coco2014_96`. Raises DataError.
    """
    places = [path] if path is not None else usual_places()
    folder = next((p / MLPERF_FOLDER for p in places if (p / MLPERF_FOLDER).is_dir()), path)
    if folder is None:
        raise DataError(
            "Visual Wake Words was not found",
            hint=f"give data.path or --data: MLPerf Tiny's folder {MLPERF_FOLDER}, or a COCO folder",
        )
    classes = (f"non_{options.category}", options.category)
    year = next((y for y in _YEARS if (folder / "annotations" / f"instances_train{y}.json").is_file()), None)
    if year is None:
        _check_layout(folder, classes)
        _, splits = list_splits(folder, SUFFIXES, classes)
    else:
        splits = {}
        for split, coco in (("train", f"train{year}"), ("test", f"val{year}")):
            file = folder / "annotations" / f"instances_{coco}.json"
            if split == "train" or file.is_file():
                splits[split] = read_annotations(file, folder / coco, options.category, options.min_area)
    return read_splits(splits, classes, options, str(folder))


def _check_layout(folder: Path, classes: tuple[str, str]) -> None:
    """Raises DataError for a folder that has neither layout."""
    inside = [folder, *(folder / name for name in TRAIN_FOLDERS)]
    if folder.is_dir() and not any((place / name).is_dir() for place in inside for name in classes):
        train = " or ".join(f"annotations/instances_train{year}.json" for year in _YEARS)
        raise DataError(
            f"{folder} holds no Visual Wake Words: neither {classes[1]}/ and {classes[0]}/ nor {train}",
            hint=f"give MLPerf Tiny's folder {MLPERF_FOLDER}, or a COCO folder with its annotations",
        )


def read_annotations(file: Path, images: Path, category: str, min_area: float) -> Listing:
    """Images of a COCO annotation file; class 1 where an object of `category` covers more than `min_area`.

    An object's area is that of its outline (COCO's `area`), relative to the image's; crowds count as well.
    Raises DataError for a file that is not COCO's, an unknown category, and images that are not there.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        sizes = {image["id"]: float(image["width"] * image["height"]) for image in document["images"]}
        names = {image["id"]: str(image["file_name"]) for image in document["images"]}
        numbers = {str(entry["name"]): entry["id"] for entry in document["categories"]}
        objects: list[dict[str, Any]] = document["annotations"]
        if category not in numbers:
            raise DataError(
                f"{file} has no category '{category}'", hint=f"it has: {', '.join(sorted(numbers)[:20])}"
            )
        positive = {
            o["image_id"]
            for o in objects
            if o["category_id"] == numbers[category] and float(o["area"]) > min_area * sizes[o["image_id"]]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(
            f"{file} is not a COCO annotation file: {reason}", hint="instances_*.json of COCO's annotations"
        ) from error
    order = sorted(names)
    files = tuple(images / names[number] for number in order)
    missing = [f for f in files if not f.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} images of {file.name} are missing, for example {missing[0]}",
            hint=f"unpack COCO's images into {images}",
        )
    return Listing(files, np.array([number in positive for number in order], np.int64))
