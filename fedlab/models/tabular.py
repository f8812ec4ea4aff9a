"""Models for rows of numbers, including flattened images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import Tensor, nn

from fedlab.core import FederatedDataset, Task

# Below so many classes PyTorch normalises one example at a time, instead of a vector of them.
VECTOR_WIDTH = 16
TRANSPOSED_FROM = 200  # examples from which transposing the logits is faster


def logistic_regression(data: FederatedDataset) -> Task:
    """Return the task of one linear layer with softmax.

    It is convex, so any failure to converge is not the model's.

    Example:
        >>> from fedlab.data import load
        >>> logistic_regression(load("digits")).shapes
        {'1.weight': torch.Size([10, 64]), '1.bias': torch.Size([10])}
    """
    return mlp(data, hidden=())


def mlp(data: FederatedDataset, hidden: tuple[int, ...] = (200, 200)) -> Task:
    """Return the task of a multilayer perceptron with ReLU.

    The default is the 2NN of McMahan et al. 2017: 199,210 parameters on MNIST.

    Args:
        data: The data, with classes.
        hidden: Width of each hidden layer.

    Example:
        >>> from fedlab.data import load
        >>> sum(shape.numel() for shape in mlp(load("digits"), hidden=(32,)).shapes.values())
        2410
    """
    widths = (data.x[0].numel(), *hidden, num_classes(data))
    return classification(partial(perceptron, widths))


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def least_squares(data: FederatedDataset) -> Task:
    """Return the task of a linear map to one number, without bias, and half the squared error.

    Every client's objective is then quadratic.

    Example:
        >>> from fedlab.data import load
        >>> least_squares(load("breast_cancer")).shapes
        {'1.weight': torch.Size([1, 30])}
    """
    return Task(partial(_linear, data.x[0].numel()), loss=half_squared_error, metrics={})


def num_classes(data: FederatedDataset) -> int:
    """Return the number of classes, which is a classifier's number of outputs.

    Raises:
        ValueError: If the data have no classes.
    """
    if not data.classes:
        raise ValueError(
            f"the data must have classes (labels have the type {data.y.dtype}, and this model "
            "needs an output per class). Try to name them in classes=, or least_squares, which "
            "learns numbers"
        )
    return len(data.classes)


def classification(model: Callable[[], nn.Module]) -> Task:
    """Return a task with cross-entropy as loss and accuracy as metric.

    Args:
        model: A function that builds a module with one logit per class.

    Raises:
        ValueError: If the model cannot be trained in a federation, for example because of batch
            normalisation.

    Example:
        >>> task = classification(lambda: nn.Linear(4, 3))
        >>> list(task.metrics)
        ['accuracy']
    """
    task = Task(model, loss=cross_entropy, metrics={"accuracy": accuracy})
    task.shapes  # noqa: B018 - so that a model that cannot be trained is refused at once
    return task


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of logits ``[B, classes]`` in nats, per example ``[B]``.

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(1, 2), torch.tensor([1])).exp()
        tensor([2.])
    """
    if output.dim() != 2 or y.dim() != 1:
        return F.cross_entropy(output, y, reduction="none")
    return F.nll_loss(log_softmax(output), y, reduction="none")


def log_softmax(output: Tensor) -> Tensor:
    """Return the logarithm of softmax over the classes of ``[B, classes]``."""
    # Over columns PyTorch normalises many examples at a time.
    if output.shape[1] < VECTOR_WIDTH and len(output) >= TRANSPOSED_FROM:
        return F.log_softmax(output.t().contiguous(), 0).t()
    return F.log_softmax(output, 1)


def half_squared_error(output: Tensor, y: Tensor) -> Tensor:
    """Return ``(output - y)² / 2`` for outputs ``[B, 1]`` and targets ``[B]``, per example ``[B]``.

    Example:
        >>> import torch
        >>> half_squared_error(torch.tensor([[3.0]]), torch.tensor([1.0]))
        tensor([2.])
    """
    return (output.squeeze(-1) - y) ** 2 / 2


def accuracy(output: Tensor, y: Tensor) -> Tensor:
    """Return 1 for each example whose largest logit is its label's, else 0: ``[B]``."""
    return (output.argmax(-1) == y).float()


def _linear(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 1, bias=False))
