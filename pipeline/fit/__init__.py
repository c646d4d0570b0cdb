"""What is fitted to a target: predictors to whole models that ran on it, another board's table to its operators."""

from pipeline.fit.predictor import fit_to_target, obtain_predictor, predictor_identity
from pipeline.fit.transfer import fit_transfer, open_base, summary, transfer_table

__all__ = [
    "fit_to_target",
    "fit_transfer",
    "obtain_predictor",
    "open_base",
    "predictor_identity",
    "summary",
    "transfer_table",
]
