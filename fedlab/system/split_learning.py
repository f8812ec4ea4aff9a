"""A model cut in two: the client computes the first layers, the server the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.client import Train, sequential
from fedlab.core import Task, params


# -- a model cut in two
@dataclass
class CutTraffic:
    """What has crossed the cut, in bytes: activations and labels up, gradients of the activations down."""

    up: int = 0
    down: int = 0
    steps: int = 0


def split_learning(
    cut: int, crossing: CutTraffic | None = None, *, dtype: torch.dtype = torch.float32
) -> Train:
    """Local training with the layers before ``cut`` on the client and the others on a server: an engine for ``run``.

    SplitFed, Thapa et al. 2022, the first version: clients and server-side models are both averaged after a round, so that
    with ``dtype=torch.float32`` everything is as in training whole models.  In every step the client sends what comes out of
    its last layer, and the labels, and gets the gradient back, packed as ``dtype``; ``crossing`` counts these bytes.

    For models that are layers one after another; ``cut`` is from 1 to their number less 1.
    """
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(
            f"dtype={dtype!r} must be a floating type of PyTorch (activations are no integers). Try torch.float16"
        )
    crossing = CutTraffic() if crossing is None else crossing
    return lambda task, x, y, work: sequential(
        task, x, y, work, gradient=_across(cut, crossing, dtype)
    )


def _across(cut: int, crossing: CutTraffic, dtype: torch.dtype) -> Callable:
    def gradient(task: Task, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        layers = list(cut_layers(task, cut, w))
        views = {
            name: p.detach().requires_grad_() for name, p in params.views(w, task.shapes).items()
        }
        mine = [name for name in views if int(name.split(".")[0]) < cut]
        theirs = [name for name in views if name not in mine]
        sent = _forward(layers[:cut], views, x, 0)  # on the client
        packed = _pack(sent, dtype)
        got = _unpack(packed, sent, dtype).requires_grad_()  # on the server
        loss = task.loss(_forward(layers[cut:], views, got, cut), y).mean()
        back, *up = torch.autograd.grad(
            loss, [got, *(views[name] for name in theirs)], materialize_grads=True
        )
        returned = _pack(back, dtype)
        down = (
            torch.autograd.grad(
                sent, [views[name] for name in mine], _unpack(returned, back, dtype)
            )
            if mine
            else ()
        )
        crossing.up += len(packed) + y.numel() * y.element_size()
        crossing.down += len(returned)
        crossing.steps += 1
        found = dict(zip([*theirs, *mine], [*up, *down], strict=True))
        return loss.detach(), torch.cat([found[name].flatten() for name in views])

    return gradient


def cut_layers(task: Task, cut: int, w: Tensor) -> nn.Sequential:
    """The layers of a task's model; ValueError for a cut that is not between two of them."""
    model = task.template(w)
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            f"{type(model).__name__} is not a line of layers: split learning here needs an nn.Sequential"
        )
    held = [p for layer in model for p in {id(p): p for p in layer.parameters()}]
    if len(set(held)) < len(held):
        told = "two layers of the model are the same, or share a parameter, which client and server would both train"
        raise ValueError(f"{told}. Try sequential, or layers of their own")
    if isinstance(cut, bool) or not (isinstance(cut, int | np.integer) and 1 <= cut < len(model)):
        raise ValueError(
            f"cut={cut!r}: the model has {len(model)} layers, so it is from 1 to {len(model) - 1}"
        )
    return model


def _forward(
    layers: Sequence[nn.Module], views: dict[str, Tensor], x: Tensor, first: int
) -> Tensor:
    for k, layer in enumerate(layers, first):
        prefix = f"{k}."
        own = {name.removeprefix(prefix): p for name, p in views.items() if name.startswith(prefix)}
        x = params.call(layer, own, x) if own else layer(x)
    return x


def _pack(values: Tensor, dtype: torch.dtype) -> bytes:
    return values.detach().to(dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _unpack(packed: bytes, like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(packed), dtype=dtype).view(like.shape).to(like)
