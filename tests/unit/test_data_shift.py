"""Shifted data: rotation against NumPy's quarter turns, noise by its moments, classes by counting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data import DataSet
from pipeline.data.shift import ShiftConfig, noisy, rotated, shifted
from pipeline.errors import ConfigError, DataError
from pipeline.runfile import load_runfile


def data_set(classes: int = 4, size: int = 9, channels: int = 2) -> DataSet:
    rng = np.random.default_rng(5)
    arrays = {}
    for split, count in (("train", 80), ("val", 40), ("test", 40)):
        arrays[f"x_{split}"] = rng.integers(60, 190, (count, size, size, channels), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count, dtype=np.int64) % classes
    names = tuple(map(str, range(classes)))
    return DataSet(name="made", classes=classes, class_names=names, source="here", **arrays)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_exact(turns: int) -> None:
    x = data_set().x_train
    assert np.array_equal(rotated(x, 90.0 * turns), np.rot90(x, turns, axes=(1, 2)))


def test_thirty_degrees_move_a_point_where_geometry_says() -> None:
    x = np.zeros((1, 41, 41, 1), np.uint8)
    x[0, 19:22, 34:37, 0] = 255  # 15 pixels right of the middle
    turned = rotated(x, 30.0)[0, :, :, 0].astype(float)
    rows, columns = np.mgrid[:41, :41]
    middle = (rows * turned).sum() / turned.sum(), (columns * turned).sum() / turned.sum()
    angle = np.radians(30)
    assert middle == pytest.approx((20 - 15 * np.sin(angle), 20 + 15 * np.cos(angle)), abs=0.3)


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    x = np.full((50, 20, 20, 1), 128, np.uint8)
    difference = noisy(x, 0.05, np.random.default_rng(0)).astype(float) - 128
    assert abs(difference.mean()) < 0.3
    assert difference.std() == pytest.approx(0.05 * 255, rel=0.02)
    assert noisy(np.full_like(x, 255), 0.05, np.random.default_rng(0)).max() == 255  # clipped, not wrapped


def test_noise_differs_between_splits_and_repeats_with_the_seed() -> None:
    data, shift = data_set(), ShiftConfig(noise=0.1)
    same = np.zeros_like(data.x_val) + 128
    data = DataSet(
        data.name, same.copy(), data.y_val, same.copy(), data.y_val, data.x_test, data.y_test,
        data.classes, data.class_names, data.source,
    )  # fmt: skip
    once, again, other = (shifted(data, shift, seed=s) for s in (1, 1, 2))
    assert np.array_equal(once.x_train, again.x_train)
    assert not np.array_equal(once.x_train, other.x_train)
    assert not np.array_equal(once.x_train, once.x_val)


def test_kept_classes_keep_their_numbers_and_the_model_its_outputs() -> None:
    data = data_set()
    less = shifted(data, ShiftConfig(keep_classes=(3, 1)), seed=0)
    for split in ("train", "val", "test"):
        labels, before = getattr(less, f"y_{split}"), getattr(data, f"y_{split}")
        assert sorted(set(labels)) == [1, 3]
        assert len(labels) == np.isin(before, (1, 3)).sum()
        kept = getattr(data, f"x_{split}")[np.isin(before, (1, 3))]
        assert np.array_equal(getattr(less, f"x_{split}"), kept)
    assert less.classes == 4
    assert "classes 1, 3 only" in less.source


def test_nothing_is_nothing() -> None:
    data = data_set()
    assert shifted(data, ShiftConfig(), seed=0) is data


def test_mirroring_ends_with_a_rotation() -> None:
    assert not shifted(data_set(), ShiftConfig(rotate_degrees=30), seed=0).mirror
    assert shifted(data_set(), ShiftConfig(noise=0.1), seed=0).mirror


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has labels 0 to 3"):
        shifted(data_set(), ShiftConfig(keep_classes=(4,)), seed=0)
    for values in ({"rotate_degrees": 361.0}, {"noise": 1.5}, {"keep_classes": (1, 1)}):
        with pytest.raises(ConfigError, match=next(iter(values))):
            ShiftConfig(**values)
    path = tmp_path / "run.toml"
    path.write_text('board = "qemu-cortex-m4"\n[budgets]\nlatency_ms = 50\n[data.shift]\nnoise = 2.0\n')
    with pytest.raises(ConfigError, match=r"run.toml:5: .*data.shift.noise"):
        load_runfile(path)
    path.write_text(path.read_text().replace("noise = 2.0", "rotate_degrees = 30\nkeep_classes = [0, 2]"))
    assert load_runfile(path).data.shift == ShiftConfig(30.0, 0.0, (0, 2))
