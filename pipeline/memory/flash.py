"""FlashModel: what an application takes of flash and SRAM besides its arena, without building it.

Figures come from one linked application and the kernels' object files (`pipeline.profiler.footprint`); they
are stored with the LUT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.space.graph import OpGraph
from pipeline.space.kernels import select

# Early exits: what decides, and each call of it. No table has them: bounds of what the compilers for Cortex-M,
# RV32 and AArch64 make of the generated code (tests/unit/test_exit_code.py).
EXIT_CODE_BYTES = 200
EXIT_BYTES = 96
EXIT_RAM_BYTES = 4  # where the last inference ended

# How far the linked program may lie above the expectation, which is a mean: compiled-in limits, alignment, longer
# addresses, layers whose calls need more code than others. Over 60 networks on Cortex-M4, M7, RV32 and A53 it was
# at most 297 bytes (benchmarks/results/random_budgets.md).
LINK_BYTES = 384
LAYER_SHARE = 0.15  # of each layer's code


@dataclass(frozen=True, slots=True)
class FlashModel:
    """All in bytes.

    `base_bytes` is an application without layers: vectors, start-up, port, wire server. `kernel_functions`
    names the functions that come along with each kernel (itself and its helpers) and `function_bytes` their
    sizes, so that a helper of two kernels counts once. `layer_bytes` is the code that calls one layer;
    `static_ram_bytes` and `layer_ram_bytes` are static RAM besides the arena; `stack_bytes` is reserved.
    """

    base_bytes: int
    layer_bytes: float
    static_ram_bytes: int
    layer_ram_bytes: int
    stack_bytes: int
    kernel_functions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    function_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def kernel_bytes(self) -> dict[str, int]:
        """Code of each kernel with its helpers."""
        return {name: self.code_bytes([name]) for name in self.kernel_functions}

    def code_bytes(self, kernels: list[str]) -> int:
        """Code of several kernels together. KeyError for a kernel that the model does not know."""
        functions = {function for kernel in kernels for function in self.kernel_functions[kernel]}
        return sum(self.function_bytes[function] for function in functions)

    def flash_bytes(self, graph: OpGraph) -> int:
        """Expected flash of the application that runs `graph`: base, kernels in use, each layer's constants."""
        choices = [select(node.op) for node in graph.nodes]
        kernels = sorted({choice.name for choice in choices if choice.name})
        constants = sum(choice.constant_bytes for choice in choices)
        calls = self.layer_bytes * layers(graph)
        leaving = EXIT_CODE_BYTES + EXIT_BYTES * len(graph.exits) if graph.exits else 0
        return round(self.base_bytes + self.code_bytes(kernels) + constants + calls) + leaving

    def most_flash_bytes(self, graph: OpGraph) -> int:
        """Upper bound of what is linked: what a flash budget is held against."""
        return self.flash_bytes(graph) + LINK_BYTES + round(LAYER_SHARE * self.layer_bytes * layers(graph))

    def sram_bytes(
        self, arena_bytes: int, layer_count: int, *, exits: bool = False, array_alignment: int = 4
    ) -> int:
        """Arena, other static RAM and reserved stack: what an SRAM budget is held against.

        `array_alignment`: of what lies behind the arena, the layers' time stamps and an exit's variable, in bytes
        (`Core.array_alignment`).
        """
        growing = (arena_bytes, self.layer_ram_bytes * layer_count, EXIT_RAM_BYTES * exits)
        taken = sum(-(-size // array_alignment) * array_alignment for size in growing)
        return taken + self.static_ram_bytes + self.stack_bytes

    def to_table(self) -> dict[str, Any]:
        """Plain values for a TOML table; `from_table` is the inverse."""
        return {
            "base_bytes": self.base_bytes,
            "layer_bytes": self.layer_bytes,
            "static_ram_bytes": self.static_ram_bytes,
            "layer_ram_bytes": self.layer_ram_bytes,
            "stack_bytes": self.stack_bytes,
            "kernel_functions": {name: list(f) for name, f in sorted(self.kernel_functions.items())},
            "function_bytes": dict(sorted(self.function_bytes.items())),
        }

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> FlashModel:
        """Raises KeyError, TypeError or ValueError for a table that is not `to_table`'s."""
        values = dict(table)
        functions = {name: tuple(f) for name, f in values.pop("kernel_functions").items()}
        model = cls(kernel_functions=functions, **values)
        unknown = {f for used in functions.values() for f in used} - set(model.function_bytes)
        if unknown:
            raise ValueError(f"function_bytes lacks {', '.join(sorted(unknown))}")
        return model


def layers(graph: OpGraph) -> int:
    """Kernel calls in one inference: nodes, aliases left out."""
    return sum(1 for node in graph.nodes if select(node.op).name)
