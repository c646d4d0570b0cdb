"""report.json: every figure of a deployed and validated model, with its provenance."""

from __future__ import annotations

from typing import Any

from pipeline.boards import Board
from pipeline.boards.power import Power
from pipeline.engine import Model
from pipeline.figures import Figure, Provenance
from pipeline.firmware import Build
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Prediction
from pipeline.latency.sound import SoundCost
from pipeline.memory.flash import FlashModel
from pipeline.memory.planner import explain_peak
from pipeline.report.exits import exit_checks, exits_on_device, unreached
from pipeline.report.sound import front_end_section, sound_check
from pipeline.report.verdict import budget_checks, budget_figures, check
from pipeline.space.budgets import Budgets, Cost
from pipeline.space.graph import OpGraph
from pipeline.space.kernels import select
from pipeline.validate import Validation

# how the target's own figures are called
_WHERE = {"modelled": "emulated", "cycle-accurate": "simulated", "measured": "measured"}


def checks(
    budgets: Budgets, observed: Cost, validation: Validation, build: Build, latency: Provenance, *,
    hosted: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """What must hold for the deployed model to be acceptable: name, whether it does, and how it stands.

    `latency`: provenance of the observed one.
    """
    how = {
        "latency_ms": latency, "energy_mj": "estimated, upper end of the interval",
        "sram_bytes": "measured", "flash_bytes": "measured",
    }  # fmt: skip
    found = budget_checks(budgets, observed, how)
    for name in ("latency", "sram", "flash", "stack"):
        broken = name in validation.broken
        detail = f"the device itself reports that its {name} budget {'is broken' if broken else 'holds'}"
        found.append(check(f"device {name}", not broken, detail))
    found.append(
        check(
            "bytes",
            not validation.mismatches,
            f"{validation.mismatches} of {validation.images} outputs differ from the reference "
            f"(by up to {validation.worst_difference})",
        )
    )
    if validation.sound is not None:
        found.append(sound_check(validation.sound))
    return found if hosted else found + _agreements(build, validation)


def core_document(
    *,
    name: str,
    created: str,
    board: Board,
    budgets: Budgets,
    model: Model,
    prediction: Prediction,
    predicted: Cost,
    cost: CostModel,
    build: Build,
    validation: Validation,
) -> dict[str, Any]:
    """What any validated model has, searched for or brought along: all of the report but search and training."""
    where = _WHERE[board.latency_provenance]
    latency = _latency(board, prediction, predicted, validation)
    # the slow tail counts against a deadline, not the median
    observed_ms = latency[where].get("high") or latency[where]["value"]
    exits = exits_on_device(board, model, validation, cost.exit_latencies_ms(model.graph), observed_ms)
    missed = unreached(exits)
    # what nobody saw is judged by its prediction: the last output is the worst case that budgets are about
    worst_ms = max([observed_ms, *(row["latency_ms"]["value"] for row in missed)])
    if missed and exits and missed[-1] is exits["outputs"][-1]:
        latency[where]["note"] += "; of the furthest inference: no input reached the last output"
    power = board.running
    observed = Cost(
        observed_ms, validation.sram_bytes, validation.flash_bytes, model.parameters,
        energy_mj=power.at_most_mj(worst_ms) if power else None,
    )  # fmt: skip
    held = checks(budgets, observed, validation, build, board.latency_provenance, hosted=board.port.hosted)
    held += exit_checks(exits, budgets.latency_ms)
    reasons = [check["detail"] for check in held if not check["ok"]]
    return {
        "name": name,
        "created": created,
        "feasible": not reasons,
        "reasons": reasons,
        "warnings": [
            *([board.notes] if board.notes else []),
            *(
                f"no input reached the output {row['name']}: its latency was not observed, the prediction's "
                "upper end is judged"
                for row in missed
            ),
        ],
        "checks": held,
        "observed": {"name": where, "provenance": board.latency_provenance},
        "board": {"name": board.name, "description": board.description, "clock_hz": board.clock_hz},
        "accuracy": {"device": _device_accuracy(validation)},
        "budgets": budget_figures(budgets),
        "latency_ms": latency,
        "energy_mj": {
            name: energy_figure(power, Figure.from_json(latency[name])).to_json()
            for name in ("predicted", where)
            if power
        },
        "sram_bytes": {
            "predicted": _bytes(
                predicted.sram_bytes, "modelled", "arena planner, static RAM, reserved stack"
            ),
            where: _bytes(
                validation.sram_bytes, "measured", "static RAM and reserved stack, told by the device"
            ),
        },
        "flash_bytes": {
            "predicted": Figure(
                cost.expected_flash_bytes(model.graph),
                "bytes",
                "modelled",
                high=predicted.flash_bytes,
                note="kernels used, constants, application",
            ).to_json(),
            where: _bytes(validation.flash_bytes, "measured", "told by the device; the ELF agrees"),
        },
        "arena_bytes": {
            "predicted": _bytes(model.arena_bytes, "modelled", "arena planner"),
            where: _bytes(validation.arena_bytes, "measured", "told by the device"),
        },
        "stack_bytes": {
            "reserved": _bytes(
                validation.stack_reserve_bytes, "given", "by the board's file; the device tells the same"
            ),
            "high_water": _bytes(
                validation.stack_used_bytes, "measured", "painted stack, after all inferences"
            ),
        },
        "parameters": model.parameters,
        "macs": model.graph.macs,
        "parity": {
            "images": validation.images,
            "mismatches": validation.mismatches,
            "worst_difference": validation.worst_difference,
            "reference": validation.reference,
        },
        "architecture": None,
        "exits": exits,
        "front_end": front_end_section(board, model, cost.sound, validation.sound) if cost.sound else None,
        "layers": layer_rows(model, prediction, validation),
        "memory_map": memory_map(model, cost.flash, build, validation, cost.sound),
        "search": None,
        "training": None,
        "provenance": {},
    }


def predicted_latency(board: Board, prediction: Prediction, predicted: Cost) -> Figure:
    """By the table; the interval's upper end is what a deadline is held against before a device has run it."""
    ms = 1e3 / board.clock_hz
    return Figure(
        prediction.total_cycles * ms, "ms", prediction.provenance,
        low=prediction.low_cycles * ms, high=max(prediction.high_cycles * ms, predicted.latency_ms),
        note=f"latency table, layer by layer; {prediction.describe()}",
    )  # fmt: skip


def energy_figure(power: Power, latency: Figure) -> Figure:
    """Energy of one inference that takes `latency` (ms), with the interval of both."""
    low = latency.value if latency.low is None else latency.low
    high = latency.value if latency.high is None else latency.high
    return Figure(
        power.energy_mj(latency.value), "mJ", "estimated", n=latency.n, low=power.at_least_mj(low),
        high=power.at_most_mj(high), note=f"latency ({latency.provenance}) x {power.describe()}",
    )  # fmt: skip


def _bytes(value: int, provenance: Provenance, note: str) -> dict[str, Any]:
    return Figure(value, "bytes", provenance, note=note).to_json()


def _device_accuracy(validation: Validation) -> dict[str, Any] | None:
    if validation.accuracy is None:
        return None
    note = "argmax of the bytes that the device sent back"
    return Figure(validation.accuracy, "fraction", "measured", n=validation.images, note=note).to_json()


def _latency(
    board: Board, prediction: Prediction, predicted: Cost, validation: Validation
) -> dict[str, dict[str, Any]]:
    ms = 1e3 / board.clock_hz
    sound = validation.sound
    with_it = "; with the front end over its slowest clip" if sound else ""
    found = {"predicted": predicted_latency(board, prediction, predicted).to_json()}
    if validation.emulated_cycles is not None:
        found["emulated"] = Figure(
            (validation.emulated_cycles + (sound.cycles_on(board) if sound else 0.0)) * ms,
            "ms",
            "modelled",
            note=f"executed blocks times the core's timing model{with_it}",
        ).to_json()
        note = "the device's instruction counter times the predicted cycles per instruction"
        found["device"] = Figure(
            validation.device_latency_ms, "ms", "modelled", n=validation.images, note=note
        ).to_json()
    else:
        tick_ms = 1e3 / board.counter.hz
        slowest = max(validation.ticks_p95, validation.ticks_slowest)
        where = "the slowest known input" if validation.ticks_slowest else "the 95th percentile"
        fastest, middle = validation.ticks_min, validation.ticks_median
        if sound:
            fastest, middle, slowest = (
                fastest + sound.ticks_min,
                middle + sound.ticks_median,
                slowest + sound.ticks_max,
            )
        found[_WHERE[board.latency_provenance]] = Figure(
            middle * tick_ms, "ms", board.latency_provenance, n=validation.images,
            low=fastest * tick_ms, high=slowest * tick_ms,
            note=f"the device's counter ({board.counter.kind}): median, from the fastest to {where}{with_it}",
        ).to_json()  # fmt: skip
    return found


def _agreements(build: Build, validation: Validation) -> list[dict[str, Any]]:
    """The ELF and the device must tell the same figures."""
    pairs = (
        ("flash", build.flash_bytes, validation.flash_bytes),
        ("static RAM", build.static_ram_bytes, validation.static_ram_bytes),
        ("stack reserve", build.stack_bytes, validation.stack_reserve_bytes),
    )
    return [
        check(f"{what} agrees", elf == device, f"{what}: the ELF says {elf}, the device {device} bytes")
        for what, elf, device in pairs
    ]


def layer_rows(model: Model, prediction: Prediction, validation: Validation) -> list[dict[str, Any]]:
    """One row a kernel call: shapes, MACs, predicted and emulated cycles, SRAM alive."""
    rows = []
    for i, layer in enumerate(model.layers):
        expected = prediction.per_node[layer.node]
        op = layer.op
        # an inference that left early has no figures of the layers behind
        executed = i < len(validation.layer_cycles)
        cycles = validation.layer_cycles[i] if executed else None
        rows.append(
            {
                "index": i,
                "name": layer.name,
                "kind": op.kind,
                "kernel": layer.kernel.removeprefix("edgenas_"),
                "op": op.key,
                "input": f"{op.in_h}×{op.in_w}×{op.in_c}",
                "output": f"{op.out_h}×{op.out_w}×{op.out_c}",
                "macs": op.macs,
                "predicted_cycles": expected.cycles,
                "emulated_cycles": cycles,
                "instructions": validation.layer_instructions[i] if executed else None,
                "sram_bytes": model.plan.live_bytes[layer.node],
                "provenance": expected.provenance,
            }
        )
    return rows


def memory_map(
    model: Model, flash: FlashModel, build: Build, validation: Validation, sound: SoundCost | None = None
) -> dict[str, Any]:
    """Arena buffers over time, and what SRAM and flash are spent on: rows with each figure's provenance.

    The sums are what the ELF says.
    """
    constants = sum(select(layer.op).constant_bytes for layer in model.layers)
    weights = sum(layer.arrays["weights"].nbytes for layer in model.layers if "weights" in layer.arrays)
    kernels = flash.code_bytes([layer.kernel for layer in model.layers])
    arena = model.plan.arena_bytes
    front_end = sound.flash_bytes if sound else 0
    rest = build.flash_bytes - constants - kernels - front_end
    clip = {
        "name": "clip and front end",
        "bytes": model.arena_bytes - arena,
        "provenance": "modelled",
        "note": "beyond the arena, in which they lie before the inference",
    }
    front_end_row = {
        "name": "front end",
        "bytes": front_end,
        "provenance": "modelled",
        "note": "code and tables",
    }
    return {
        "arena_bytes": arena,
        "peak_layer": model.plan.peak_node,
        "peak_text": explain_peak(model.plan, model.graph),
        "buffers": _buffers(model.graph, model),
        "sram": [
            {"name": "activation arena", "bytes": arena, "provenance": "modelled",
             "note": "exact: planned and linked"},
            *([clip] if sound else []),
            {"name": "other static RAM", "bytes": build.static_ram_bytes - model.arena_bytes,
             "provenance": "measured", "note": "wire buffers, counters"},
            {"name": "stack", "bytes": build.stack_bytes, "provenance": "given",
             "note": f"reserved; {validation.stack_used_bytes} used at most (measured)"},
        ],
        "flash": [
            {"name": "weights", "bytes": weights, "provenance": "modelled", "note": "int8, as in the file"},
            {"name": "other constants", "bytes": constants - weights, "provenance": "modelled",
             "note": "biases, multipliers, parameters"},
            {"name": "kernels", "bytes": kernels, "provenance": "modelled",
             "note": "those used, with what they call"},
            *([front_end_row] if sound else []),
            {"name": "application", "bytes": rest, "provenance": "modelled",
             "note": "the rest of the ELF: start-up, wire server, checks, layer calls"},
        ],
    }  # fmt: skip


def _buffers(graph: OpGraph, model: Model) -> list[dict[str, Any]]:
    """Each tensor's place in the arena from the node that writes it to the last that reads it."""
    first = {graph.input: 0} | {node.output: i for i, node in enumerate(graph.nodes)}
    last = dict(first) | {graph.output: len(graph.nodes) - 1}
    for i, node in enumerate(graph.nodes):
        for tensor in node.inputs:
            last[tensor] = max(last[tensor], i)
    names = {graph.input: "input"} | {node.output: node.name for node in graph.nodes}
    found = [
        {"name": names[t], "offset": model.plan.offsets[t], "bytes": graph.tensor_bytes[t],
         "first": first[t], "last": last[t]}
        for t in range(len(graph.tensor_bytes))
    ]  # fmt: skip
    for i, node in enumerate(graph.nodes):
        if scratch := select(node.op).scratch_bytes:
            offset = model.plan.scratch_offsets[i]
            found.append({"name": "scratch", "offset": offset, "bytes": scratch, "first": i, "last": i})
    return found
