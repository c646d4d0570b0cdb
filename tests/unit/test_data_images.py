"""Image folders, Visual Wake Words, other sizes: on small files made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data import load, places
from pipeline.data.dataset import Arrays
from pipeline.data.images import fitted
from pipeline.data.options import ImageOptions, SizeOptions, WakeWordOptions
from pipeline.data.registry import in_shape
from pipeline.errors import ConfigError, DataError
from pipeline.runfile import load_runfile


def picture(folder: Path, name: str, colour: tuple[int, int, int], size: tuple[int, int] = (40, 20)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder / name)


def colours(top: Path, count: int = 10) -> None:
    for label, colour in {"red": (200, 0, 0), "blue": (0, 0, 200)}.items():
        for index in range(count):
            picture(top / label, f"{index}.{'png' if index % 2 else 'jpg'}", colour)


SMALL = ImageOptions(shape=(8, 8, 3))


def test_folder_of_classes(tmp_path: Path) -> None:
    colours(tmp_path)
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    data = load("image_folder", path=tmp_path, options=SMALL, validation=0.25)
    assert data.class_names == ("blue", "red") and data.input_shape == (8, 8, 3)
    assert [len(y) for y in (data.y_train, data.y_val, data.y_test)] == [12, 4, 4]
    assert "no test split" in data.warnings[0]
    red = data.x_train[data.y_train == 1].reshape(-1, 3).mean(axis=0)
    assert red[0] > 190 and red[1:].max() < 10
    again = load("image_folder", path=tmp_path, options=SMALL, validation=0.25, seed=9)
    np.testing.assert_array_equal(data.y_test, again.y_test)
    grey = load("image_folder", path=tmp_path, options=ImageOptions(shape=(8, 12, 1)))
    assert grey.x_train.shape[1:] == (8, 12, 1)


def test_splits_of_its_own(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("validation", 3), ("test", 4)):
        colours(tmp_path / split, count)
    data = load("image_folder", path=tmp_path, options=SMALL)
    assert [len(y) for y in (data.y_train, data.y_val, data.y_test)] == [12, 6, 8]
    assert not data.warnings


def test_fits() -> None:
    """A wide image: left third red, middle green, right blue."""
    wide = np.zeros((30, 90, 3), np.uint8)
    for third in range(3):
        wide[:, 30 * third : 30 * third + 30, third] = 255
    image = Image.fromarray(wide)
    cropped = fitted(image, ImageOptions(shape=(10, 10, 3), fit="crop"))
    assert (cropped[:, 1:-1] == (0, 255, 0)).all()
    padded = fitted(image, ImageOptions(shape=(9, 9, 3), fit="pad"))
    assert not padded[:3].any() and not padded[6:].any() and padded[4, 0, 0] > 200 and padded[4, 8, 2] > 200
    squashed = fitted(image, ImageOptions(shape=(9, 9, 3), fit="squash"))
    assert squashed[0, 0, 0] > 200 and squashed[0, 4, 1] > 200 and squashed[8, 8, 2] > 200
    same = fitted(image, ImageOptions(shape=(30, 90, 3)))
    np.testing.assert_array_equal(same, wide)


def test_unusual_modes() -> None:
    options = ImageOptions(shape=(4, 4, 3))
    half = np.full((4, 4, 4), (200, 100, 50, 128), np.uint8)
    assert abs(int(fitted(Image.fromarray(half), options)[0, 0, 0]) - 100) <= 1
    deep = Image.fromarray(np.full((4, 4), 0x8080, np.uint16))
    assert (fitted(deep, options) == 128).all()
    assert (fitted(Image.fromarray(half[..., 0]), options) == 200).all()


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a path"):
        load("image_folder")
    with pytest.raises(DataError, match="is not a folder"):
        load("image_folder", path=tmp_path / "none")
    with pytest.raises(DataError, match="0 folders"):
        load("image_folder", path=tmp_path)
    colours(tmp_path / "a" / "test")
    with pytest.raises(DataError, match="no folder train"):
        load("image_folder", path=tmp_path / "a")
    colours(tmp_path / "a" / "train")
    for label in ("red", "blue"):
        picture(tmp_path / "single" / label, "x.png", (0, 200, 0))
    with pytest.raises(DataError, match="no test split, and its 2 images are too few") as error:
        load("image_folder", path=tmp_path / "single")
    assert error.value.hint
    picture(tmp_path / "a" / "test" / "green", "x.png", (0, 200, 0))
    with pytest.raises(DataError, match="class green, which the training files lack"):
        load("image_folder", path=tmp_path / "a", options=SMALL)
    picture(tmp_path / "a" / "train" / "green", "x.png", (0, 200, 0))
    (tmp_path / "a" / "test" / "green" / "x.png").unlink()
    with pytest.raises(DataError, match="green holds no files") as error:
        load("image_folder", path=tmp_path / "a", options=SMALL)
    assert "every class" in error.value.hint
    colours(tmp_path / "b")
    whole = (tmp_path / "b" / "red" / "1.png").read_bytes()
    for damage in (b"", b"text", whole[:60]):
        (tmp_path / "b" / "red" / "1.png").write_bytes(damage)
        with pytest.raises(DataError, match=r"red/1\.png cannot be read") as error:
            load("image_folder", path=tmp_path / "b", options=SMALL)
        assert error.value.hint


@pytest.mark.parametrize(
    "wrong",
    [{"shape": (0, 8, 3)}, {"shape": (8, 8)}, {"shape": (8, 8, 2)}, {"fit": "stretch"}, {"min_area": 1.0}],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        WakeWordOptions(**wrong)


def test_foreign_options() -> None:
    with pytest.raises(DataError, match="not options of the data set"):
        load("digits", options=SMALL)


WAKE = WakeWordOptions(shape=(8, 8, 3))


def test_mlperf_tiny_folders(nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label, value in (("person", 250), ("non_person", 20)):
        for index in range(10):
            picture(tmp_path / "vw_coco2014_96" / label, f"COCO_{index:012}.jpg", (value,) * 3, (96, 96))
    with pytest.raises(DataError, match="was not found"):
        load("visual_wake_words")
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path))
    data = load("visual_wake_words", validation=0.2)
    above = load("visual_wake_words", path=tmp_path, validation=0.2)
    np.testing.assert_array_equal(above.x_train, data.x_train)
    assert data.class_names == ("non_person", "person") and data.input_shape == (96, 96, 3)
    assert (data.x_train[data.y_train == 1] > 200).all() and (data.x_test[data.y_test == 0] < 60).all()
    (tmp_path / "vw_coco2014_96" / "person").rename(tmp_path / "vw_coco2014_96" / "people")
    with pytest.raises(DataError, match="people"):
        load("visual_wake_words")


def coco(top: Path, split: str, count: int = 8, **change: Any) -> None:
    """Images of 100x50; even ones hold a person of 0.6 % of the area, odd ones of 0.4 %, and a large dog."""
    images, objects = [], []
    for number in range(count):
        name = f"COCO_{split}_{number:012}.jpg"
        picture(top / split, name, (250 if number % 2 == 0 else 20,) * 3, (100, 50))
        images.append({"id": 100 + number, "file_name": name, "width": 100, "height": 50})
        objects.append(
            {"image_id": 100 + number, "category_id": 1, "area": 30.0 if number % 2 == 0 else 20.0}
        )
        objects.append({"image_id": 100 + number, "category_id": 18, "area": 2000.0})
    document = {
        "images": images, "annotations": objects,
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}], **change,
    }  # fmt: skip
    (top / "annotations").mkdir(exist_ok=True)
    (top / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def test_coco_annotations(tmp_path: Path) -> None:
    coco(tmp_path, "train2014")
    coco(tmp_path, "val2014", 4)
    data = load("visual_wake_words", path=tmp_path, options=WAKE, validation=0.25)
    assert [len(y) for y in (data.y_train, data.y_val, data.y_test)] == [6, 2, 4]
    assert (data.x_train[data.y_train == 1] > 200).all() and (data.x_train[data.y_train == 0] < 60).all()
    with pytest.raises(DataError, match="no image of: person"):
        load("visual_wake_words", path=tmp_path, options=WakeWordOptions(shape=(8, 8, 3), min_area=0.01))
    with pytest.raises(DataError, match="no image of: non_dog"):  # every image has one
        load("visual_wake_words", path=tmp_path, options=WakeWordOptions(shape=(8, 8, 3), category="dog"))
    with pytest.raises(DataError, match="no category 'cat'") as error:
        load("visual_wake_words", path=tmp_path, options=WakeWordOptions(category="cat"))
    assert "dog, person" in error.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"images": None},
        {"images": [{"id": 1}]},
        {"annotations": [{"image_id": 7, "category_id": 1, "area": 1}]},
    ],
)
def test_damaged_annotations(tmp_path: Path, change: dict[str, Any]) -> None:
    coco(tmp_path, "train2014", **change)
    with pytest.raises(DataError, match="not a COCO annotation file"):
        load("visual_wake_words", path=tmp_path, options=WAKE)


def test_a_folder_of_neither_layout_is_told(tmp_path: Path) -> None:
    coco(tmp_path, "val2014")
    with pytest.raises(
        DataError, match=r"holds no Visual Wake Words: neither person/ .*instances_train2014"
    ) as error:
        load("visual_wake_words", path=tmp_path)
    assert "COCO folder" in error.value.hint
    picture(tmp_path / "train" / "non_person", "x.png", (0, 200, 0))
    with pytest.raises(DataError, match="person holds no files"):
        load("visual_wake_words", path=tmp_path)


def test_coco_without_images(tmp_path: Path) -> None:
    coco(tmp_path, "train2017")
    next((tmp_path / "train2017").iterdir()).unlink()
    with pytest.raises(DataError, match="1 of 8 images") as error:
        load("visual_wake_words", path=tmp_path, options=WAKE)
    assert "train2017" in error.value.hint
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{")
    with pytest.raises(DataError, match="not a COCO annotation file"):
        load("visual_wake_words", path=tmp_path, options=WAKE)


@pytest.mark.parametrize(("name", "size"), [("digits", (14, 14)), ("digits", (20, 11)), ("digits", (40, 30))])
def test_named_sets_come_in_any_size(name: str, size: tuple[int, int]) -> None:
    """Against torch's antialiased filter, which is of the same kind but not the same code."""
    torch = pytest.importorskip("torch")
    whole = load(name, seed=3, limit=40)
    options = SizeOptions(size, "squash")
    data = load(name, seed=3, limit=40, options=options)
    assert data.input_shape == (*size, 1)
    for split in ("train", "val", "test"):
        x, before = getattr(data, f"x_{split}"), getattr(whole, f"x_{split}")
        assert x.dtype == np.uint8 and np.array_equal(
            getattr(data, f"y_{split}"), getattr(whole, f"y_{split}")
        )
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(before).permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True
        ).permute(0, 2, 3, 1)
        assert np.abs(x - expected.numpy()).max() <= 1.5  # two passes, each rounded
    assert f"brought to {size[0]}x{size[1]}x1 from 28x28x1 (squash)" in data.source
    again = load(name, seed=3, limit=40, options=options)
    assert np.array_equal(again.x_train, data.x_train)
    assert load(name, seed=3, limit=40, options=SizeOptions((28, 28))).source == whole.source


def test_size_changes_channels_and_keeps_what_is_even() -> None:
    x = np.full((3, 9, 7, 1), 77, np.uint8)
    y = np.arange(3)
    arrays = Arrays(x, y, x, y, ("a", "b", "c"), "made", x_val=x, y_val=y)
    rgb = in_shape(arrays, SizeOptions((4, 5, 3)))
    assert rgb.x_val is not None and rgb.x_train.shape == rgb.x_val.shape == rgb.x_test.shape == (3, 4, 5, 3)
    assert (rgb.x_test == 77).all()
    padded = in_shape(arrays, SizeOptions((9, 9), "pad")).x_train
    assert (padded[:, :, 1:8] == 77).all() and not padded[:, :, 0].any() and not padded[:, :, 8].any()
    two = replace(
        arrays, **{f"x_{part}": np.zeros((3, 9, 7, 2), np.uint8) for part in ("train", "val", "test")}
    )
    with pytest.raises(DataError, match=r"no images that data\.shape could scale"):
        in_shape(two, SizeOptions((4, 4)))


@pytest.mark.parametrize("shape", ["[14]", "[14, 14, 2]", "[0, 14]", "[14, 4096]", "[14, 14, 1, 1]"])
def test_sizes_without_meaning_are_refused(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    text = 'board = "qemu-cortex-m4"\n[budgets]\nlatency_ms = 50\n[data]\nname = "digits"\nshape = '
    path.write_text(text + shape)
    with pytest.raises(ConfigError, match=r"run\.toml:6: data\.shape"):
        load_runfile(path)
    path.write_text(text + "[14, 14]")
    run = load_runfile(path)
    assert run.data_options == SizeOptions((14, 14)) and run.to_json()["data_options"]["shape"] == (14, 14)
    assert run.space.build((14, 14, 1), 10).input_shape == (14, 14, 1)
