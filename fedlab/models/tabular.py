"""Models for rows of numbers, flattened pictures among them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import Tensor, nn

from fedlab.core import FederatedDataset, Task

VECTOR = 16  # classes below which PyTorch takes an example's logits one by one
MANY = 200  # examples from which on it pays to turn them


def logistic_regression(data: FederatedDataset) -> Task:
    """One linear layer and softmax: convex, so whatever goes wrong is not the model's fault."""
    return mlp(data, hidden=())


def mlp(data: FederatedDataset, hidden: tuple[int, ...] = (200, 200)) -> Task:
    """A multilayer perceptron with ReLU; the default is the 2NN of McMahan et al. 2017 (199,210 parameters on MNIST)."""
    widths = (data.x[0].numel(), *hidden, num_classes(data))
    return classification(partial(perceptron, widths))


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers of these widths, ReLU between."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def least_squares(data: FederatedDataset) -> Task:
    """A linear map without bias to one number, and half the squared error: with it every client's objective is quadratic."""
    return Task(partial(_linear, data.x[0].numel()), loss=half_squared_error, metrics={})


def num_classes(data: FederatedDataset) -> int:
    """How many outputs a classifier has; ValueError for data without classes."""
    if not data.classes:
        told = f"the data have no classes (labels of type {data.y.dtype}), and this model has an output for each"
        raise ValueError(
            f"{told}: name them in classes=, or use least_squares, which learns numbers"
        )
    return len(data.classes)


def classification(model: Callable[[], nn.Module]) -> Task:
    """Cross-entropy and accuracy for a ``model()`` that gives one logit a class."""
    task = Task(model, loss=cross_entropy, metrics={"accuracy": accuracy})
    task.shapes  # noqa: B018 - so that a model that cannot be trained here is refused at once
    return task


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """Of logits ``[B, classes]``, in nats, per example ``[B]``."""
    if output.dim() != 2 or y.dim() != 1:
        return F.cross_entropy(output, y, reduction="none")
    return F.nll_loss(log_softmax(output), y, reduction="none")


def log_softmax(output: Tensor) -> Tensor:
    """Of ``[B, classes]``, over the classes."""
    if (
        output.shape[1] < VECTOR and len(output) >= MANY
    ):  # of columns it takes many examples at a time
        return F.log_softmax(output.t().contiguous(), 0).t()
    return F.log_softmax(output, 1)


def half_squared_error(output: Tensor, y: Tensor) -> Tensor:
    """``(output - y)² / 2`` for outputs ``[B, 1]`` and targets ``[B]``, per example ``[B]``."""
    return (output.squeeze(-1) - y) ** 2 / 2


def accuracy(output: Tensor, y: Tensor) -> Tensor:
    """1 where the largest logit is the label's, else 0: ``[B]``."""
    return (output.argmax(-1) == y).float()


def _linear(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 1, bias=False))
