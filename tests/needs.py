"""What tests need of the machine they run on, as marks."""

from __future__ import annotations

import shutil

import pytest

NEEDS_QEMU_ARM = pytest.mark.skipif(
    not (shutil.which("qemu-system-arm") and shutil.which("arm-none-eabi-gcc") and shutil.which("ninja")),
    reason="needs qemu-system-arm, arm-none-eabi-gcc, cmake and ninja",
)
