"""Firmware: templates rendered, programs built, sizes read back from the ELF."""

from pipeline.firmware.app import (
    LEAST_LATENCY_MS,
    check_deadline,
    cycles_per_tick,
    most_latency_ms,
    render_app,
    too_long,
)
from pipeline.firmware.bench import bench_pool_bytes, render_bench
from pipeline.firmware.build import Build, build, check_path, plain_name
from pipeline.firmware.code_size import (
    CodeSize,
    base_flash_bytes,
    code_size,
    kernel_text_bytes,
    static_ram_bytes,
)
from pipeline.firmware.elf import Sizes, Symbol, read_sizes

__all__ = [
    "LEAST_LATENCY_MS", "Build", "CodeSize", "Sizes", "Symbol", "base_flash_bytes", "bench_pool_bytes",
    "build", "check_deadline", "check_path", "code_size", "cycles_per_tick", "kernel_text_bytes",
    "most_latency_ms", "plain_name", "read_sizes", "render_app", "render_bench", "static_ram_bytes", "too_long",
]  # fmt: skip
