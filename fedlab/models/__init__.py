"""What is learned."""

from fedlab.models.tabular import classification, least_squares, logistic_regression, mlp
from fedlab.models.vision import cnn, resnet

__all__ = ["classification", "cnn", "least_squares", "logistic_regression", "mlp", "resnet"]
