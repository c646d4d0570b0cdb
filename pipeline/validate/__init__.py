"""Hardware in the loop: the device's outputs and figures against the reference and the predictions."""

from pipeline.validate.device import Validation, validate
from pipeline.validate.inputs import Inputs, random_inputs, read_inputs

__all__ = ["Inputs", "Validation", "random_inputs", "read_inputs", "validate"]
