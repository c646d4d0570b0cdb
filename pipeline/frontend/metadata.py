"""A front end as bytes: how a .tflite says what its input is made from."""

from __future__ import annotations

import json
from dataclasses import asdict

from pipeline.errors import ConfigError, ModelError
from pipeline.frontend.config import FrontEnd

METADATA = "edgenas.front_end"  # name of the .tflite's metadata buffer
_HINT = "export the model again"


def to_bytes(front_end: FrontEnd) -> bytes:
    """JSON, the same bytes for equal front ends."""
    return json.dumps(asdict(front_end), sort_keys=True).encode()


def from_bytes(content: bytes) -> FrontEnd:
    """Raises ModelError for what `to_bytes` does not write, or what cannot be computed."""
    try:
        raw = json.loads(content)
        kinds = {name: type(value) for name, value in asdict(FrontEnd()).items()}
        if set(raw) != set(kinds) or any(type(raw[name]) is not kind for name, kind in kinds.items()):
            raise ValueError("fields are missing, unknown or of another type")
        return FrontEnd(**raw)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(
            f"the model's front end (metadata {METADATA}) is damaged: {error}", hint=_HINT
        ) from error
    except ConfigError as error:
        raise ModelError(f"the model's front end cannot be computed: {error.message}", hint=_HINT) from error
