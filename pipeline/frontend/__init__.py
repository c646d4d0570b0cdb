"""The audio front end in integer arithmetic: one definition for training data and for firmware. No torch here."""

from pipeline.frontend.config import FrontEnd
from pipeline.frontend.render import frontend_sources
from pipeline.frontend.spectrum import features

__all__ = ["FrontEnd", "features", "frontend_sources"]
