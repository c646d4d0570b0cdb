"""FlashModel: helpers shared by kernels count once, and tables read back equal."""

from __future__ import annotations

import pytest

from pipeline.memory.flash import FlashModel, layers
from pipeline.space.graph import Node, OpGraph
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec

MODEL = FlashModel(
    base_bytes=1000,
    layer_bytes=20.5,
    static_ram_bytes=100,
    layer_ram_bytes=4,
    stack_bytes=2048,
    kernel_functions={
        "edgenas_conv_1x1": ("dot", "one"),
        "edgenas_fully_connected": ("dot", "full"),
        "edgenas_add": ("add",),
    },
    function_bytes={"dot": 400, "one": 30, "full": 7, "add": 5},
)
CONV = OpSpec("conv2d", 2, 2, 4, 2, 2, 8)
RESHAPE = OpSpec("reshape", 2, 2, 8, 1, 1, 32)
FULL = OpSpec("fully_connected", 1, 1, 32, 1, 1, 10)
GRAPH = OpGraph((16, 32, 32, 10), (Node(CONV, (0,), 1), Node(RESHAPE, (1,), 2), Node(FULL, (2,), 3)), 0, 3)


def test_shared_functions_count_once() -> None:
    constants = select(CONV).constant_bytes + select(FULL).constant_bytes
    assert MODEL.flash_bytes(GRAPH) == 1000 + (400 + 30 + 7) + constants + 41


def test_an_alias_is_no_layer() -> None:
    assert layers(GRAPH) == 2
    assert MODEL.sram_bytes(5000, 2) == 5000 + 100 + 2 * 4 + 2048


def test_what_is_aligned_to_longer_words_is_rounded_up() -> None:
    assert MODEL.sram_bytes(5000, 2, array_alignment=8) == 5000 + 100 + 8 + 2048
    assert MODEL.sram_bytes(5004, 3, array_alignment=8) == 5008 + 100 + 16 + 2048
    assert MODEL.sram_bytes(5004, 3, exits=True, array_alignment=8) == 5008 + 100 + 16 + 8 + 2048


def test_kernel_bytes_include_helpers() -> None:
    assert MODEL.kernel_bytes == {
        "edgenas_conv_1x1": 430, "edgenas_fully_connected": 407, "edgenas_add": 5,
    }  # fmt: skip


def test_table_round_trip() -> None:
    assert FlashModel.from_table(MODEL.to_table()) == MODEL


@pytest.mark.parametrize("damage", ["base_bytes", "kernel_functions", "function_bytes"])
def test_incomplete_tables(damage: str) -> None:
    table = MODEL.to_table()
    del table[damage]
    with pytest.raises((KeyError, TypeError, ValueError)):
        FlashModel.from_table(table)


def test_a_function_without_size() -> None:
    table = MODEL.to_table()
    del table["function_bytes"]["dot"]
    with pytest.raises(ValueError, match="dot"):
        FlashModel.from_table(table)


def test_budgets_are_held_against_an_upper_bound() -> None:
    assert MODEL.most_flash_bytes(GRAPH) == MODEL.flash_bytes(GRAPH) + 384 + round(0.15 * 2 * 20.5)


@pytest.mark.parametrize(("count", "stamps"), [(2, 8), (3, 16)])
def test_time_stamps_are_padded_where_arrays_are(count: int, stamps: int) -> None:
    assert MODEL.sram_bytes(5000, count, array_alignment=8) == 5000 + 100 + stamps + 2048
    assert MODEL.sram_bytes(5000, count, array_alignment=4) == 5000 + 100 + 4 * count + 2048
