"""Parts of models: hidden units as places in a row, smaller models, and models side by side.

A unit is an output of a hidden linear layer, or a channel of a convolution. It owns the weights
and the bias that compute it, and the weights of the next layer that read it. If all of these are
0, the rest trains as if the unit did not exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.core import Experiment, Task, once_per_task, params
from fedlab.core.validate import is_number

Units = Sequence[Sequence[int]]  # numbers of the remaining units per hidden layer, ascending

# Layers that may stand between others: they map 0 to 0, and do not mix units.
_BETWEEN = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity)
_BETWEEN += (nn.Flatten, nn.Unflatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


class Layer(NamedTuple):
    """A linear layer or a convolution.

    Attributes:
        name: Its name in the model.
        shape: Shape of its weight.
        has_bias: It has a bias.
    """

    name: str
    shape: torch.Size
    has_bias: bool


def hidden_units(task: Task) -> tuple[int, ...]:
    """Return the number of units of each hidden layer, the first layer first.

    Raises:
        ValueError: If the model is not a chain of linear layers and convolutions, with ReLU or a
            similar activation between them.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> hidden_units(mlp(load("digits"), hidden=(32, 16)))
        (32, 16)
    """
    return tuple(layer.shape[0] for layer in _layers(task)[:-1])


def first_units(task: Task, rate: float) -> Units:
    """Return the first share of each hidden layer's units, so that smaller models are nested.

    Args:
        task: The task.
        rate: Share of the units, above 0 and at most 1; each layer has at least one.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> first_units(mlp(load("digits"), hidden=(8, 4)), 0.5)
        [range(0, 4), range(0, 2)]
    """
    if not (is_number(rate) and 0 < rate <= 1):
        raise ValueError(
            f"rate={rate!r} must be above 0 and at most 1 (it is a share of the units). Try 0.5"
        )
    return [range(max(1, math.ceil(rate * units - 1e-9))) for units in hidden_units(task)]


def unit_mask(task: Task, units: Units) -> Tensor:
    """Return a mask ``[d]`` of the parameters of the remaining units.

    A weight remains if the units at both of its ends remain.

    Args:
        task: The task.
        units: Numbers of the remaining units, one list per hidden layer.

    Returns:
        1 for parameters that remain, 0 for the others.

    Raises:
        ValueError: If a list is missing or empty, or a unit does not exist.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> task = mlp(load("digits"), hidden=(8,))
        >>> int(unit_mask(task, [[0, 1]]).sum())  # 2 x 64 + 2 + 10 x 2 + 10
        160
    """
    sizes = hidden_units(task)
    if len(units) != len(sizes):
        raise ValueError(
            f"units must have one list per hidden layer (it has {len(units)}, and the model "
            f"{len(sizes)} hidden layers). Try first_units(task, 0.5)"
        )
    for numbers, size in zip(units, sizes, strict=True):
        wrong = next((int(unit) for unit in numbers if not 0 <= unit < size), None)
        if not len(numbers) or wrong is not None:
            content = "no unit" if wrong is None else f"unit {wrong}"
            raise ValueError(
                f"units must have one or more numbers from 0 to {size - 1} for a layer (it has "
                f"{content}). Try first_units(task, 0.5)"
            )
    pieces = []
    for layer, (rows, columns) in zip(
        _layers(task), _ends([layer.shape for layer in _layers(task)], units), strict=True
    ):
        both = (rows[:, None] & columns).reshape(*layer.shape[:2], *[1] * (len(layer.shape) - 2))
        pieces.append(both.expand(layer.shape).reshape(-1))
        pieces += [rows] if layer.has_bias else []
    return torch.cat(pieces).float()


@once_per_task
def first_units_mask(task: Task, rate: float) -> Tensor:
    """Return the cached ``unit_mask`` of the first units: do not write to it."""
    return unit_mask(task, first_units(task, rate))


def shrink(task: Task, w: Tensor) -> tuple[Task, Tensor]:
    """Return the same function with smaller tensors: without units that have no effect.

    A unit has no effect if it is never active, or if no other unit reads it. Removing units may
    leave others unread, so the removal repeats until nothing changes.

    Args:
        task: The task.
        w: Row ``[d]``, many of whose numbers are 0.

    Returns:
        The smaller task, and its row.

    Example:
        >>> from fedlab.core import params
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> task = mlp(load("digits"), hidden=(8,))
        >>> small, w = shrink(task, params.flatten(task.model()) * unit_mask(task, [[0, 1]]))
        >>> hidden_units(small)
        (2,)
    """
    views, units = params.views(w, task.shapes), []
    for layer, successor in pairwise(_layers(task)):
        incoming = [views[f"{layer.name}.weight"].flatten(1)]
        incoming += [views[f"{layer.name}.bias"][:, None]] if layer.has_bias else []
        outgoing = views[f"{successor.name}.weight"]
        outgoing = outgoing.reshape(len(outgoing), layer.shape[0], -1)
        has_effect = torch.cat(incoming, 1).any(1) & outgoing.any(2).any(0)
        units.append(has_effect.nonzero().flatten().tolist() or [0])
    if [len(numbers) for numbers in units] == list(hidden_units(task)):
        return task, w
    small = Task(partial(build_smaller, task.model, units), task.loss, task.metrics)
    return shrink(small, w[unit_mask(task, units).to(w.device) > 0])


def build_smaller(model: Callable[[], nn.Module], units: Units) -> nn.Module:
    """Return ``model()`` with the remaining ``units`` alone."""
    built = model()
    layers = [layer for layer in built if isinstance(layer, nn.Linear | nn.Conv2d)]
    ends = _ends([layer.weight.shape for layer in layers], units)
    for layer, (rows, columns) in zip(layers, ends, strict=True):
        layer.weight = nn.Parameter(layer.weight.detach()[rows][:, columns].clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[rows].clone())
        kind = "features" if isinstance(layer, nn.Linear) else "channels"
        setattr(layer, f"out_{kind}", layer.weight.shape[0])
        setattr(layer, f"in_{kind}", layer.weight.shape[1])
    return built


def side_by_side(*tasks: Task) -> Task:
    """Return several models as one, whose outputs are added.

    Clients with different models are then rows of one matrix. A client that has only the i-th
    model is a row with the mask ``model_masks(task)[i]``: a model of zeros gives logits of 0. The
    scores of an unmasked row are the ensemble's. Loss and metrics come from the first task.

    Args:
        *tasks: Two or more tasks for the same data.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import logistic_regression, mlp
        >>> data = load("digits")
        >>> task = side_by_side(logistic_regression(data), mlp(data, hidden=(8,)))
        >>> model_masks(task).sum(1)
        tensor([650., 610.])
    """
    if len(tasks) < 2:
        raise ValueError(
            f"side_by_side must have two or more tasks (it has {len(tasks)}). Try "
            "side_by_side(mlp(data), cnn(data))"
        )
    first = tasks[0]
    return Task(partial(SummedModels, [task.model for task in tasks]), first.loss, first.metrics)


class SummedModels(nn.Module):
    """The sum of the outputs of several models."""

    def __init__(self, models: Sequence):
        super().__init__()
        self.models = nn.ModuleList(model() for model in models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x) for model in self.models]).sum(0)


def model_masks(task: Task) -> Tensor:
    """Return a mask ``[models, d]`` of each model's parameters in a task ``side_by_side``.

    Any other task counts as one model.
    """
    if not isinstance(task.template(torch.empty(0)), SummedModels):
        return torch.ones(1, sum(shape.numel() for shape in task.shapes.values()))
    owners = [int(name.split(".")[1]) for name in task.shapes]  # models.0.1.weight
    sizes = torch.tensor([shape.numel() for shape in task.shapes.values()])
    owner_of_each = torch.tensor(owners).repeat_interleave(sizes)
    return (owner_of_each == torch.arange(max(owners) + 1)[:, None]).float()


def check_same_task(task: Task, experiment: Experiment) -> None:
    """Check that an algorithm was made for the tensors of the experiment's model.

    Raises:
        ValueError: If it was not.
    """
    if task.shapes != experiment.task.shapes:
        sizes = [
            sum(shape.numel() for shape in shapes.values())
            for shapes in (task.shapes, experiment.task.shapes)
        ]
        raise ValueError(
            "the algorithm must have the experiment's task (it was made for a model of "
            f"{sizes[0]:,} parameters, and the experiment's has {sizes[1]:,}, in other tensors). "
            "Try to give both the same task"
        )


@once_per_task
def _layers(task: Task) -> tuple[Layer, ...]:
    """Return the layers with parameters, after checking that the model is a chain of them."""
    model, layers = task.template(torch.empty(0)), []
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            "the model must be an nn.Sequential of layers (only its hidden units are known, and "
            f"this is a {type(model).__name__}). Try mlp or cnn"
        )
    before = None
    for name, layer in model.named_children():
        is_convolution = isinstance(layer, nn.Conv2d) and layer.groups == 1
        if type(layer).forward is nn.Linear.forward or is_convolution:
            _check_order(before, layer, name)
            layers.append(Layer(name, layer.weight.shape, layer.bias is not None))
            before = layer
        elif not isinstance(layer, _BETWEEN) or (layers and isinstance(layer, nn.Unflatten)):
            raise ValueError(
                f"{type(layer).__name__} at {name!r} must be a linear layer, a convolution or an "
                "activation such as ReLU (only their hidden units are known). Try mlp or cnn"
            )
        elif layers and isinstance(layer, nn.Flatten):
            before = layer
    if any(not p.requires_grad for p in model.parameters()):
        raise ValueError(
            "all layers of the model must train (hidden units are places in the row, and some "
            "layers do not train). Try the model before freezing"
        )
    return tuple(layers)


def _check_order(before: nn.Module | None, layer: nn.Module, name: str) -> None:
    """Check that convolutions come first, and a Flatten between them and linear layers."""
    same_kind = before is None or isinstance(layer, nn.Conv2d) == isinstance(before, nn.Conv2d)
    if not same_kind and not isinstance(before, nn.Flatten):
        raise ValueError(
            f"{type(layer).__name__} at {name!r} must follow its own kind, or nn.Flatten "
            "(convolutions come first, then nn.Flatten, then linear layers). Try cnn"
        )


def _ends(shapes: Sequence[torch.Size], units: Units) -> list[tuple[Tensor, Tensor]]:
    """Return masks of the remaining rows and columns of each layer's weight.

    A channel is as many columns of a following linear layer as it has pixels.
    """
    ends, before = [], None
    for shape, numbers in zip(shapes, [*units, range(shapes[-1][0])], strict=True):
        rows = torch.zeros(shape[0], dtype=torch.bool)
        rows[np.asarray(numbers, dtype=np.int64)] = True
        if before is None:
            columns = torch.ones(shape[1], dtype=torch.bool)
        else:
            columns = before.repeat_interleave(shape[1] // len(before))
        ends.append((rows, columns))
        before = rows
    return ends
