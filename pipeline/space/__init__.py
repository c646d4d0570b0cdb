"""Search spaces as values: operators, graphs, blocks, architectures, budgets. No torch here."""

from pipeline.space.architecture import Architecture, Block, lower, operator_parameters, parameters
from pipeline.space.budgets import Budgets, Cost
from pipeline.space.graph import Node, OpGraph
from pipeline.space.opspec import OpSpec

__all__ = [
    "Architecture",
    "Block",
    "Budgets",
    "Cost",
    "Node",
    "OpGraph",
    "OpSpec",
    "lower",
    "operator_parameters",
    "parameters",
]
