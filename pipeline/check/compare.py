"""Two latency tables, row by row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.latency.lut import Lut


@dataclass(frozen=True, slots=True)
class Comparison:
    """`identity` and `overhead`: fields that differ, with both values. `ratios`: cycles of the second table over the
    first's, by operator, of the operators that both have."""

    identity: dict[str, tuple[Any, Any]]
    overhead: dict[str, tuple[float, float]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    ratios: dict[str, float]
    kernels: dict[str, str]  # of each such operator, in the first table

    def by_kernel(self) -> list[dict[str, Any]]:
        """Per kernel: operators, how many differ, and the median, least and largest ratio."""
        rows = []
        for kernel in sorted(set(self.kernels.values())):
            ratios = np.array([self.ratios[op] for op in self.ratios if self.kernels[op] == kernel])
            rows.append(
                {
                    "kernel": kernel,
                    "operators": len(ratios),
                    "differ": int((ratios != 1.0).sum()),
                    "median": float(np.median(ratios)),
                    "least": float(ratios.min()),
                    "largest": float(ratios.max()),
                }
            )
        return rows

    def worst(self, count: int = 10) -> list[tuple[str, float]]:
        """Operators whose cycles differ most, the largest difference first."""
        far = sorted(self.ratios.items(), key=lambda item: -abs(np.log(item[1])))
        return [(op, ratio) for op, ratio in far[:count] if ratio != 1.0]

    @property
    def same(self) -> bool:
        """Whether both predict the same cycles of everything, whatever they were measured under."""
        return not (self.worst(1) or self.overhead or self.only_first or self.only_second)

    def to_json(self) -> dict[str, Any]:
        return {
            "identity": {name: list(pair) for name, pair in self.identity.items()},
            "overhead": {name: list(pair) for name, pair in self.overhead.items()},
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "kernels": self.by_kernel(),
            "worst": [{"op": op, "ratio": ratio} for op, ratio in self.worst()],
        }


def compare_tables(first: Lut, second: Lut) -> Comparison:
    """Compare measured rows; those refused in either table count as missing there."""
    a = {key: row for key, row in first.rows.items() if not row.refused}
    b = {key: row for key, row in second.rows.items() if not row.refused}
    both = sorted(a.keys() & b.keys())
    besides = zip(asdict(first.overhead).items(), asdict(second.overhead).values(), strict=True)
    return Comparison(
        identity=first.identity.differences(second.identity),
        overhead={name: (one, other) for (name, one), other in besides if one != other},
        only_first=tuple(sorted(a.keys() - b.keys())),
        only_second=tuple(sorted(b.keys() - a.keys())),
        ratios={key: b[key].cycles / a[key].cycles for key in both},
        kernels={key: a[key].kernel for key in both},
    )
