"""Power: what a board's processor draws while it runs, and what an inference therefore takes. No energy is measured."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.tomltable import Table

# Where the source states no spread. Chosen: datasheets' typical currents depend on the code that runs.
UNCERTAINTY = 0.25


@dataclass(frozen=True, slots=True)
class Power:
    """Supply voltage (V) and current (mA) in run mode at `clock_hz`; uncertainties are relative.

    `uncertainty` is to either side, or below only where `uncertainty_above` says how far it may lie above.
    """

    voltage_v: float
    current_ma: float
    clock_hz: int
    reference: str
    uncertainty: float = UNCERTAINTY
    uncertainty_above: float | None = None

    @property
    def above(self) -> float:
        return self.uncertainty if self.uncertainty_above is None else self.uncertainty_above

    def energy_mj(self, latency_ms: float) -> float:
        """Typical: V x mA x ms are microjoules."""
        return self.voltage_v * self.current_ma * latency_ms / 1e3

    def at_least_mj(self, latency_ms: float) -> float:
        return (1.0 - self.uncertainty) * self.energy_mj(latency_ms)

    def at_most_mj(self, latency_ms: float) -> float:
        """What a budget is held against."""
        return (1.0 + self.above) * self.energy_mj(latency_ms)

    def describe(self) -> str:
        """E.g. `3.3 V x 40 mA (+-25 %) at 168 MHz: DS8626, table 20`."""
        below, above = 100 * self.uncertainty, 100 * self.above
        spread = f"+-{below:g} %" if below == above else f"-{below:g}/+{above:g} %"
        return (
            f"{self.voltage_v:g} V x {self.current_ma:g} mA ({spread}) at "
            f"{self.clock_hz / 1e6:g} MHz: {self.reference}"
        )


def why_unknown(board: str, clock_hz: int, power: Power | None) -> tuple[str, str]:
    """Why nobody knows what `board` draws at `clock_hz`, and what to do: for the error of an energy budget."""
    if power is None or power.clock_hz == clock_hz:
        return (
            f"what {board} draws at its clock is not known",
            "give voltage_v, current_ma and reference in [energy] of the run file, or in [power] of the board's file",
        )
    return (
        f"the stated current of {board} is that at {power.clock_hz / 1e6:g} MHz ({power.reference}), "
        f"and it runs at {clock_hz / 1e6:g} MHz",
        f"state the current at that clock: current_ma and clock_hz = {clock_hz} in [energy] of the run file",
    )


def read_power(t: Table, clock_hz: int) -> Power:
    """A board's `[power]` or a run file's `[energy]`; without `clock_hz` the current is that at the board's clock.

    Raises ConfigError naming the key that is missing or out of range.
    """
    values = {name: t.number(name) for name in ("voltage_v", "current_ma")}
    for name, value in values.items():
        if value <= 0:
            raise t.error(name, f"is {value:g}", hint="more than 0")
    reference = t.text("reference")
    if not reference.strip():
        raise t.error(
            "reference", "is empty", hint="say where the current is from: document and table, or a meter"
        )
    uncertainty = t.number("uncertainty", UNCERTAINTY, maximum=0.99)
    above = t.number("uncertainty_above", None, maximum=10.0)
    return Power(
        values["voltage_v"],
        values["current_ma"],
        t.integer("clock_hz", clock_hz),
        reference,
        uncertainty,
        above,
    )
