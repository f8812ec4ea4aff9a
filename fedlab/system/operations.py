"""Count the operations of a training step."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fedlab.client import Train, batched, zeroth_order
from fedlab.core import Task, params


class _Operations(TorchDispatchMode):
    """Counter of matrix products, like FlopCounterMode, whose first use imports a compiler."""

    total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled, so torch._dynamo is not imported. Its import takes seconds, in which
        # Ctrl-C would leave it half imported.
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            with self:  # operations that are made of others count by their parts
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        output = func(*args, **kwargs)
        self.total += count(*args, **kwargs, out_val=output)
        return output


def training_flops(task: Task, x: Tensor, y: Tensor, backend: Train = batched) -> float:
    """Return the operations of a training step per example, counted by PyTorch.

    Only matrix products count. A step goes forward and backward; with ``zeroth_order`` it goes
    forward twice. At most 32 examples are counted. Texts are counted at the length that they have.

    Args:
        task: The model and its loss.
        x: Examples ``[n, ...]``.
        y: Their labels ``[n, ...]``.
        backend: Engine that trains.

    Returns:
        Operations (FLOP) per example.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> digits = load("digits", 6)
        >>> training_flops(mlp(digits, hidden=(32,)), digits.x, digits.y)
        10112.0
    """
    while isinstance(backend, partial):
        backend = backend.func
    x, y = params.as_numbers(x[:32]), y[:32]
    w = torch.cat([torch.zeros(shape.numel()) for shape in task.shapes.values()])
    w = (w.to(x.device, x.dtype) if x.is_floating_point() else w.to(x.device)).requires_grad_()
    with _Operations() as counter:
        if backend is zeroth_order:
            with torch.no_grad():
                task.loss(task.forward(w, x), y)
            return 2 * counter.total / len(x)
        torch.autograd.grad(task.loss(task.forward(w, x), y).mean(), w)
    return counter.total / len(x)
