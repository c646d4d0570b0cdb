"""The meter of a search: images that pass a network, trained on or not."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")


from sweep_standins import CELLS

from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.meter import Meter


def test_the_meter_counts_images_once_and_training_images_thrice() -> None:
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2 * 36, 4))
    with Meter(5) as meter:
        net(torch.zeros(7, 1, 8, 8))
        with torch.no_grad():
            net(torch.zeros(11, 1, 8, 8))
        net[2](torch.zeros(3, 72))  # no images
    net(torch.zeros(13, 1, 8, 8))
    assert meter.passes == 5 + 3 * 7 + 11


def test_the_meter_counts_gates_as_the_paths_that_they_run() -> None:
    import torch

    net, images = CellSupernet(CELLS, 0), torch.zeros(5, 1, 8, 8)
    with Meter() as meter, torch.no_grad():
        net(images, (0,) * CELLS.positions)
        net(images, torch.full((CELLS.positions, 3), 1 / 3))
    assert meter.passes == 5 + 3 * 5
