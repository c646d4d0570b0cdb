"""What is fitted to whole models that ran on a target."""

from pipeline.fit.predictor import fit_to_target, obtain_predictor, predictor_identity

__all__ = ["fit_to_target", "obtain_predictor", "predictor_identity"]
