"""A model that moves in a random subspace, so that one number per direction is sent."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from fedlab.core import Task, generator, params
from fedlab.core.rng import seeded
from fedlab.core.validate import check_whole


def random_subspace(task: Task, num: int = 1024, seed: int = 0) -> Task:
    """Return the task of training coefficients of random directions.

    The row is ``a [num]``, and the model is ``w_0 + sum_k a_k z_k`` with normal directions z_k,
    which a seed determines. With ``zeroth_order`` as backend and ``fedavg`` as algorithm this is
    FedKSeed (Qin et al. 2024): clients send ``num`` scalars, whatever the size of the model, and
    store no gradient. ``w_0`` is the same for all seeds of an experiment.

    Args:
        task: The task to restrict.
        num: Number of directions. The paper takes 1,024 to 4,096.
        seed: Seed of the directions and of ``w_0``.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import logistic_regression
        >>> task = random_subspace(logistic_regression(load("digits")), num=64)
        >>> task.shapes
        {'a': torch.Size([64])}
    """
    check_whole(1, num=num)
    return replace(task, model=partial(RandomSubspace, task, num, seed))


class RandomSubspace(nn.Module):
    """The model at ``w_0 + sum_k a_k z_k``; only ``a`` trains."""

    def __init__(self, task: Task, num: int, seed: int):
        super().__init__()
        self.task, self.seed = task, seed
        self.a = nn.Parameter(torch.zeros(num))
        with seeded(seed, "directions"):
            self.register_buffer("w_0", params.flatten(task.model()), persistent=False)
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.task.forward(self.point(self.a), x)

    def direction(self, k: int) -> Tensor:
        """Draw ``z_k [d]`` anew: stored together, the directions would be ``num`` models."""
        z = generator(self.seed, "direction", k).standard_normal(len(self.w_0), dtype="float32")
        return torch.from_numpy(z).to(self.w_0)

    def point(self, a: Tensor) -> Tensor:
        """Return the model's row ``[d]`` at coefficients ``a [num]``; the last one is cached."""
        needs_gradient = a.requires_grad and torch.is_grad_enabled()
        if self._last is not None and not needs_gradient and torch.equal(self._last[0], a):
            return self._last[1]
        w = self.w_0
        for k in range(len(a)) if needs_gradient else a.nonzero().flatten().tolist():
            w = w + a[k] * self.direction(k)
        if not needs_gradient:
            self._last = a.detach().clone(), w
        return w
