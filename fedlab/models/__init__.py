"""What is learned."""

from fedlab.models.tabular import classification, logistic_regression, mlp

__all__ = ["classification", "logistic_regression", "mlp"]
