"""What is learned."""

from fedlab.models.submodels import first_units, hidden_units, model_masks, shrink, side_by_side, unit_mask
from fedlab.models.tabular import classification, least_squares, logistic_regression, mlp
from fedlab.models.vision import cnn, resnet

__all__ = [
    "classification",
    "cnn",
    "first_units",
    "hidden_units",
    "least_squares",
    "logistic_regression",
    "mlp",
    "model_masks",
    "resnet",
    "shrink",
    "side_by_side",
    "unit_mask",
]
