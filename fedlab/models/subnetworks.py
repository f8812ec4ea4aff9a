"""Parts of models: hidden units as places in a row, models that are truly smaller, and several models side by side.

A unit is an output of a hidden linear layer or a channel of a convolution.  It owns the weights and the bias that make
it, and those of the next layer that read it; where all of these are 0 the rest trains as if it were not there.
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

Units = Sequence[Sequence[int]]  # for each hidden layer the units that stay, ascending

# What may stand between the layers: it gives 0 for 0, and does not mix units.
_BETWEEN = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity)

_BETWEEN += (nn.Flatten, nn.Unflatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


class Layer(NamedTuple):
    """What is to be known of a linear layer or a convolution."""

    name: str
    shape: torch.Size
    has_bias: bool


def hidden_units(task: Task) -> tuple[int, ...]:
    """How many units each hidden layer has, the first layer first.

    Raises ValueError for a model that is not a chain of linear layers and convolutions with ReLU or the like between them.
    """
    return tuple(layer.shape[0] for layer in _layers(task)[:-1])


def first_units(task: Task, rate: float) -> Units:
    """The first ``rate`` of each hidden layer's units, at least one: so each smaller model is part of every larger one."""
    if not (is_number(rate) and 0 < rate <= 1):
        raise ValueError(f"rate={rate!r}: it is above 0 and at most 1, the whole model; try 0.5")
    return [range(max(1, math.ceil(rate * units - 1e-9))) for units in hidden_units(task)]


def unit_mask(task: Task, kept: Units) -> Tensor:
    """1 for what the ``kept`` units own, and 0 elsewhere, ``[d]``; a weight belongs to the units at both of its ends."""
    sizes = hidden_units(task)
    if len(kept) != len(sizes):
        raise ValueError(
            f"kept has {len(kept)} lists of units, and the model {len(sizes)} hidden layers: give one a layer"
        )
    for units, most in zip(kept, sizes, strict=True):
        wrong = next((int(unit) for unit in units if not 0 <= unit < most), None)
        if not len(units) or wrong is not None:
            told = "no unit" if wrong is None else f"unit {wrong}"
            raise ValueError(
                f"kept has {told} of a layer with units 0 to {most - 1}: give one or more of these"
            )
    pieces = []
    for layer, (rows, columns) in zip(
        _layers(task), _ends([layer.shape for layer in _layers(task)], kept), strict=True
    ):
        both = (rows[:, None] & columns).reshape(*layer.shape[:2], *[1] * (len(layer.shape) - 2))
        pieces.append(both.expand(layer.shape).reshape(-1))
        pieces += [rows] if layer.has_bias else []
    return torch.cat(pieces).float()


@once_per_task
def first_units_mask(task: Task, rate: float) -> Tensor:
    """``unit_mask`` of the first units, kept for the next time: not to be written to."""
    return unit_mask(task, first_units(task, rate))


def shrink(task: Task, w: Tensor) -> tuple[Task, Tensor]:
    """The same function with smaller tensors: ``w [d]`` without the units that are never on, or that nothing reads.

    Again until none is left, since a unit may have been read by one of these alone.
    """
    views, layers, kept = params.views(w, task.shapes), _layers(task), []
    for layer, reader in pairwise(layers):
        made = [views[f"{layer.name}.weight"].flatten(1)]
        made += [views[f"{layer.name}.bias"][:, None]] if layer.has_bias else []
        read = views[f"{reader.name}.weight"]
        read = read.reshape(len(read), layer.shape[0], -1)
        alive = torch.cat(made, 1).any(1) & read.any(2).any(0)
        kept.append(alive.nonzero().flatten().tolist() or [0])
    if [len(units) for units in kept] == list(hidden_units(task)):
        return task, w
    small = Task(partial(build_smaller, task.model, kept), task.loss, task.metrics)
    return shrink(small, w[unit_mask(task, kept).to(w.device) > 0])


def build_smaller(model: Callable[[], nn.Module], kept: Units) -> nn.Module:
    """What ``model()`` builds, of the ``kept`` units alone."""
    built = model()
    layers = [layer for layer in built if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer, (rows, columns) in zip(
        layers, _ends([layer.weight.shape for layer in layers], kept), strict=True
    ):
        layer.weight = nn.Parameter(layer.weight.detach()[rows][:, columns].clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[rows].clone())
        of = "features" if isinstance(layer, nn.Linear) else "channels"
        setattr(layer, f"out_{of}", layer.weight.shape[0])
        setattr(layer, f"in_{of}", layer.weight.shape[1])
    return built


def side_by_side(*tasks: Task) -> Task:
    """Several models as one, whose outputs are added: clients with different models are then rows of one matrix.

    A client that has only the i-th is a row with the mask ``model_masks(task)[i]``: models of zeros give logits of 0.
    Its loss and metrics are those of the first; those of the sum judge the ensemble.
    """
    if len(tasks) < 2:
        raise ValueError(f"side_by_side of {len(tasks)} tasks: it takes two or more")
    first = tasks[0]
    return Task(partial(SummedModels, [task.model for task in tasks]), first.loss, first.metrics)


class SummedModels(nn.Module):
    """The sum of what several models make of the same examples."""

    def __init__(self, models: Sequence):
        super().__init__()
        self.models = nn.ModuleList(model() for model in models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x) for model in self.models]).sum(0)


def model_masks(task: Task) -> Tensor:
    """Which numbers of a row are each model's, ``[models, d]``: of a task ``side_by_side``, or of any other as one model."""
    if not isinstance(task.template(torch.empty(0)), SummedModels):
        return torch.ones(1, sum(shape.numel() for shape in task.shapes.values()))
    owners = [int(name.split(".")[1]) for name in task.shapes]  # models.0.1.weight
    sizes = torch.tensor([shape.numel() for shape in task.shapes.values()])
    each = torch.tensor(owners).repeat_interleave(sizes)
    return (each == torch.arange(max(owners) + 1)[:, None]).float()


def check_same_task(task: Task, experiment: Experiment) -> None:
    """ValueError where an algorithm was made for a model of other tensors than the experiment's."""
    mine, theirs = (
        sum(shape.numel() for shape in one.shapes.values()) for one in (task, experiment.task)
    )
    if task.shapes != experiment.task.shapes:
        told = f"the algorithm was made for a model of {mine:,} parameters, and the experiment's has {theirs:,}"
        raise ValueError(f"{told}, in other tensors: give both the same task")


@once_per_task
def _layers(task: Task) -> tuple[Layer, ...]:
    """The layers with parameters; ValueError where units are not what the description above says."""
    model, layers, before = task.template(torch.empty(0)), [], None
    if not isinstance(model, nn.Sequential):
        told = f"the model is a {type(model).__name__}"
        raise ValueError(f"{told}: units are known in an nn.Sequential of layers; use mlp or cnn")
    for name, layer in model.named_children():
        told = f"{type(layer).__name__} at {name!r}"
        if type(layer).forward is nn.Linear.forward or (
            isinstance(layer, nn.Conv2d) and layer.groups == 1
        ):
            follows = before is None or isinstance(layer, nn.Conv2d) == isinstance(
                before, nn.Conv2d
            )
            if not follows and not isinstance(before, nn.Flatten):
                raise ValueError(
                    f"{told}: convolutions come first, and nn.Flatten between them and linear layers"
                )
            layers.append(Layer(name, layer.weight.shape, layer.bias is not None))
            before = layer
        elif not isinstance(layer, _BETWEEN) or (layers and isinstance(layer, nn.Unflatten)):
            raise ValueError(
                f"{told}: units are known between linear layers and convolutions with ReLU; use mlp or cnn"
            )
        elif layers and isinstance(layer, nn.Flatten):
            before = layer
    if any(not p.requires_grad for p in model.parameters()):
        raise ValueError(
            "some of the model's layers do not train: units are known where all of them do"
        )
    return tuple(layers)


def _ends(shapes: Sequence[torch.Size], kept: Units) -> list[tuple[Tensor, Tensor]]:
    """Which rows and columns of each layer stay; a channel is as many columns of the next layer as it has pixels."""
    ends, before = [], None
    for shape, units in zip(shapes, [*kept, range(shapes[-1][0])], strict=True):
        rows = torch.zeros(shape[0], dtype=torch.bool)
        rows[np.asarray(units, dtype=np.int64)] = True
        every = torch.ones(shape[1], dtype=torch.bool)
        ends.append(
            (rows, every if before is None else before.repeat_interleave(shape[1] // len(before)))
        )
        before = rows
    return ends
