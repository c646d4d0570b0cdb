"""The wire protocol: messages, frames, and the host's client. Described in docs/wire.md."""

from pipeline.wire.client import (
    Check,
    Client,
    Hello,
    InvokeResult,
    RefusedError,
    RestartedError,
    WrongFirmwareError,
)
from pipeline.wire.messages import Kind, MemoryReply, Op, Reason, RunOpReply, Verdict

__all__ = [
    "Check", "Client", "Hello", "InvokeResult", "Kind", "MemoryReply", "Op", "Reason", "RefusedError",
    "RestartedError", "RunOpReply", "Verdict", "WrongFirmwareError",
]  # fmt: skip
