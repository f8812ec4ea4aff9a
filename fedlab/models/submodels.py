"""Parts of models: hidden units as places in a row, models that are truly smaller, and several models side by side.

A unit is an output of a hidden linear layer or a channel of a convolution.  It owns the weights and the bias that make
it, and those of the next layer that read it; where all of these are 0 the rest trains as if it were not there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fedlab import params
from fedlab.checks import is_number
from fedlab.records import Task

Kept = Sequence[Sequence[int]]  # for each hidden layer the units that stay, ascending

# What may stand between the layers: it gives 0 for 0, and does not mix units.
_BETWEEN = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity)
_BETWEEN += (nn.Flatten, nn.Unflatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def hidden_units(task: Task) -> tuple[int, ...]:
    """How many units each hidden layer has, the first layer first.

    Raises ValueError for a model that is not a chain of linear layers and convolutions with ReLU or the like between them.
    """
    return tuple(layer.weight.shape[0] for layer in _layers(task)[:-1])


def first_units(task: Task, rate: float) -> Kept:
    """The first ``rate`` of each hidden layer's units, at least one: so each smaller model is part of every larger one."""
    if not (is_number(rate) and 0 < rate <= 1):
        raise ValueError(f"rate={rate!r}: it is above 0 and at most 1, the whole model; try 0.5")
    return [range(math.ceil(rate * units - 1e-9)) for units in hidden_units(task)]


def unit_mask(task: Task, kept: Kept) -> Tensor:
    """1 for what the ``kept`` units own, and 0 elsewhere, ``[d]``; a weight belongs to the units at both of its ends."""
    pieces = []
    for layer, (rows, columns) in zip(_layers(task), _ends(task, kept), strict=True):
        at_rows, at_columns = torch.zeros(layer.weight.shape[0]), torch.zeros(layer.weight.shape[1])
        at_rows[rows], at_columns[columns] = 1, 1
        both = (at_rows[:, None] * at_columns).reshape(*layer.weight.shape[:2], *[1] * (layer.weight.dim() - 2))
        pieces.append(both.expand(layer.weight.shape).reshape(-1))
        pieces += [] if layer.bias is None else [at_rows]
    return torch.cat(pieces)


def shrink(task: Task, w: Tensor) -> tuple[Task, Tensor]:
    """The same function with smaller tensors: ``w [d]`` without the units that are never on, or that nothing reads."""
    layers, views = _layers(task), list(params.views(w, task.shapes).items())
    alive = [torch.zeros(n, dtype=torch.bool, device=w.device) for n in hidden_units(task)]
    for layer, units in enumerate(alive):
        made = [p.reshape(len(units), -1) for name, p in views if name.rpartition(".")[0] == _name(task, layers[layer])]
        read = dict(views)[f"{_name(task, layers[layer + 1])}.weight"]
        read = read.reshape(read.shape[0], len(units), -1)
        units |= (torch.cat(made, 1) != 0).any(1) & (read != 0).any(2).any(0)
    kept = [units.nonzero().flatten().tolist() or [0] for units in alive]
    small = Task(partial(smaller, task.model, kept), task.loss, task.metrics)
    return small, w[unit_mask(task, kept).to(w.device) > 0]


def smaller(model, kept: Kept) -> nn.Module:
    """What ``model()`` builds, of the ``kept`` units alone."""
    built = model()
    layers = [layer for layer in built if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer, (rows, columns) in zip(layers, _between(layers, kept), strict=True):
        layer.weight = nn.Parameter(layer.weight.detach()[rows][:, columns].clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[rows].clone())
        of = "features" if isinstance(layer, nn.Linear) else "channels"
        setattr(layer, f"out_{of}", len(rows))
        setattr(layer, f"in_{of}", len(columns))
    return built


def side_by_side(*tasks: Task) -> Task:
    """Several models as one, whose outputs are added: clients with different models are then rows of one matrix.

    A client that has only the i-th is a row with the mask ``model_masks(task)[i]``: models of zeros give logits of 0.
    Its loss and metrics are those of the first; those of the sum judge the ensemble.
    """
    if len(tasks) < 2:
        raise ValueError(f"side_by_side of {len(tasks)} tasks: it takes two or more")
    first = tasks[0]
    return Task(partial(Added, [task.model for task in tasks]), first.loss, first.metrics)


class Added(nn.Module):
    """The sum of what several models make of the same examples."""

    def __init__(self, models: Sequence):
        super().__init__()
        self.models = nn.ModuleList(model() for model in models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x) for model in self.models]).sum(0)


def model_masks(task: Task) -> Tensor:
    """Which numbers of a row are each model's, ``[models, d]``: of a task ``side_by_side``, or of any other as one model."""
    if not isinstance(task.template(torch.empty(0)), Added):
        return torch.ones(1, sum(shape.numel() for shape in task.shapes.values()))
    owners = [int(name.split(".")[1]) for name in task.shapes]  # models.0.1.weight
    sizes = torch.tensor([shape.numel() for shape in task.shapes.values()])
    each = torch.tensor(owners).repeat_interleave(sizes)
    return (each == torch.arange(max(owners) + 1)[:, None]).float()


def _layers(task: Task) -> list[nn.Module]:
    """The layers with parameters; ValueError where units are not what the description above says."""
    model = task.template(torch.empty(0))
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            f"the model is a {type(model).__name__}: units are known in an nn.Sequential of layers; use mlp or cnn"
        )
    for name, layer in model.named_children():
        plain = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        if not plain and not isinstance(layer, _BETWEEN):
            told = f"{type(layer).__name__} at {name!r}"
            raise ValueError(f"{told}: units are known between linear layers and convolutions with ReLU; use mlp or cnn")
    layers = [layer for layer in model if isinstance(layer, nn.Linear | nn.Conv2d)]
    if any(not p.requires_grad for layer in layers for p in layer.parameters()):
        raise ValueError("some of the model's layers do not train: units are known where all of them do")
    return layers


def _name(task: Task, layer: nn.Module) -> str:
    return next(name for name, child in task.template(torch.empty(0)).named_children() if child is layer)


def _ends(task: Task, kept: Kept) -> list[tuple[list[int], list[int]]]:
    sizes = hidden_units(task)
    if len(kept) != len(sizes):
        raise ValueError(f"kept has {len(kept)} lists of units, and the model {len(sizes)} hidden layers: give one a layer")
    for units, most in zip(kept, sizes, strict=True):
        if not len(units) or min(units) < 0 or max(units) >= most:
            raise ValueError(f"kept has {len(units)} units of a layer with units 0 to {most - 1}: give one or more of these")
    return _between(_layers(task), kept)


def _between(layers: Sequence[nn.Module], kept: Kept) -> list[tuple[list[int], list[int]]]:
    """Of each layer the rows and columns that stay; a channel is as many columns of the next layer as it has pixels."""
    ends, before = [], None
    for layer, units in zip(layers, [*kept, None], strict=True):
        outputs, inputs = layer.weight.shape[:2]
        rows = list(range(outputs) if units is None else units)
        if before is None:
            columns = list(range(inputs))
        else:
            pixels = inputs // before[1]
            columns = [unit * pixels + pixel for unit in before[0] for pixel in range(pixels)]
        ends.append((rows, columns))
        before = rows, outputs
    return ends
