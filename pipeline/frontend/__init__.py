"""The audio front end in integer arithmetic: one definition for training data and for firmware. No torch here."""

from pipeline.frontend.config import FrontEnd
from pipeline.frontend.metadata import METADATA, from_bytes, to_bytes
from pipeline.frontend.render import frontend_sources
from pipeline.frontend.spectrum import features

__all__ = ["METADATA", "FrontEnd", "features", "from_bytes", "frontend_sources", "to_bytes"]
