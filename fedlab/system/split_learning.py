"""Split learning: the client computes the first layers of a model, the server the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.client import Train, sequential
from fedlab.core import Task, params


@dataclass
class CutTraffic:
    """Bytes that have crossed the cut of a model.

    Attributes:
        up: Bytes of activations and labels.
        down: Bytes of the activations' gradients.
        steps: Number of training steps.
    """

    up: int = 0
    down: int = 0
    steps: int = 0


def split_learning(
    cut: int, traffic: CutTraffic | None = None, *, dtype: torch.dtype = torch.float32
) -> Train:
    """Return an engine that cuts a model in two, between clients and a server.

    Layers before ``cut`` train on the clients, the others on the server.

    SplitFed, Thapa et al. 2022, the first version: client-side and server-side models are both
    averaged after a round. With ``dtype=torch.float32`` the result is that of training whole
    models. In every step the client sends the output of its last layer and the labels. It receives
    the gradient of that output. Both are packed as ``dtype``.

    Args:
        cut: Number of layers on the client, from 1 to their number less 1. Models must be an
            ``nn.Sequential``.
        traffic: Counter of the bytes that cross the cut.
        dtype: Floating type of activations and gradients on the way.

    Returns:
        The engine, for ``run``.

    Raises:
        ValueError: If ``dtype`` is no floating type; when it trains, if the model cannot be cut.

    Example:
        >>> from fedlab.core import Experiment, Local
        >>> from fedlab.data import load
        >>> from fedlab.engine import run
        >>> from fedlab.models import mlp
        >>> from fedlab.server import fedavg, uniform, weighted_mean
        >>> digits = load("digits", 30)
        >>> parts = Local(0.1), fedavg(), weighted_mean, uniform(1)
        >>> study = Experiment(digits, mlp(digits, hidden=(16,)), *parts, rounds=1)
        >>> traffic = CutTraffic()
        >>> result = run(study, split_learning(2, traffic))
        >>> traffic.steps == int(result.rounds["steps"].sum()), traffic.up > traffic.down
        (True, True)
    """
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(
            f"dtype={dtype!r} must be a floating type of PyTorch (activations are no integers). "
            "Try torch.float16"
        )
    traffic = CutTraffic() if traffic is None else traffic
    gradient = _split_gradient(cut, traffic, dtype)
    return lambda task, x, y, work: sequential(task, x, y, work, gradient=gradient)


def _split_gradient(cut: int, traffic: CutTraffic, dtype: torch.dtype) -> Callable:
    def gradient(task: Task, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        layers = list(cut_layers(task, cut, w))
        views = {
            name: p.detach().requires_grad_() for name, p in params.views(w, task.shapes).items()
        }
        on_client = [name for name in views if int(name.split(".")[0]) < cut]
        on_server = [name for name in views if name not in on_client]
        # The client computes and sends its activations.
        sent = _forward(layers[:cut], views, x, 0)
        packed = _pack(sent, dtype)
        # The server goes forward and backward, and returns their gradient.
        received = _unpack(packed, sent, dtype).requires_grad_()
        loss = task.loss(_forward(layers[cut:], views, received, cut), y).mean()
        back, *server_gradients = torch.autograd.grad(
            loss, [received, *(views[name] for name in on_server)], materialize_grads=True
        )
        returned = _pack(back, dtype)
        client_gradients = ()
        if on_client:
            parameters = [views[name] for name in on_client]
            client_gradients = torch.autograd.grad(sent, parameters, _unpack(returned, back, dtype))
        traffic.up += len(packed) + y.numel() * y.element_size()
        traffic.down += len(returned)
        traffic.steps += 1
        names = [*on_server, *on_client]
        gradients = dict(zip(names, [*server_gradients, *client_gradients], strict=True))
        return loss.detach(), torch.cat([gradients[name].flatten() for name in views])

    return gradient


def cut_layers(task: Task, cut: int, w: Tensor) -> nn.Sequential:
    """Return the layers of a task's model, which must have a place for the cut.

    Args:
        task: The model and its loss.
        cut: Number of layers on the client.
        w: Parameters of the model ``[d]``.

    Returns:
        The layers.

    Raises:
        ValueError: If the model is no ``nn.Sequential``, shares parameters, or ``cut`` is not
            between two layers.
    """
    model = task.template(w)
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            f"{type(model).__name__} must be an nn.Sequential (split learning cuts between two "
            "layers). Try mlp(data)"
        )
    parameters = [p for layer in model for p in {id(p): p for p in layer.parameters()}]
    if len(set(parameters)) < len(parameters):
        raise ValueError(
            "two layers of the model are the same, or share a parameter, which client and server "
            "would both train. Try sequential, or separate layers"
        )
    if isinstance(cut, bool) or not (isinstance(cut, int | np.integer) and 1 <= cut < len(model)):
        raise ValueError(
            f"cut={cut!r} must be from 1 to {len(model) - 1} (the model has {len(model)} layers). "
            "Try cut=1"
        )
    return model


def _forward(
    layers: Sequence[nn.Module], views: dict[str, Tensor], x: Tensor, offset: int
) -> Tensor:
    """Return the output of layers, the first of which has the number ``offset``."""
    for k, layer in enumerate(layers, offset):
        prefix = f"{k}."
        parameters = {
            name.removeprefix(prefix): p for name, p in views.items() if name.startswith(prefix)
        }
        x = params.call(layer, parameters, x) if parameters else layer(x)
    return x


def _pack(values: Tensor, dtype: torch.dtype) -> bytes:
    return values.detach().to(dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _unpack(packed: bytes, like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(packed), dtype=dtype).view(like.shape).to(like)
