"""What a validation repeats, and what it does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.boards import load_board
from pipeline.errors import LinkError
from pipeline.validate.device import Runner
from pipeline.wire.client import Client, WrappedError


@pytest.mark.parametrize(
    ("error", "runs"),
    [(WrappedError("its counter begins anew"), 1), (LinkError("it does not answer"), 4)],
)
def test_an_inference_that_outlasted_the_counter_is_not_run_again(
    monkeypatch: pytest.MonkeyPatch, error: LinkError, runs: int
) -> None:
    """It would take as long once more; a target that is silent may answer after a restart."""
    seen: list[bytes] = []

    def invoke(client: Any, x: bytes) -> Any:
        seen.append(x)
        raise error

    build = cast(Any, SimpleNamespace(elf=Path("firmware.elf"), build_id=b""))
    monkeypatch.setattr(Client, "invoke", invoke)
    monkeypatch.setattr(Runner, "_start", lambda self: None)
    with pytest.raises(type(error)):
        Runner(load_board("qemu-cortex-m4"), build, None).infer([b"x"])
    assert len(seen) == runs
