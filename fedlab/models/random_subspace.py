"""A model that can move along a few random directions only: what must travel is a number for each, not one a parameter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from fedlab.core import Task, generator, params
from fedlab.core.rng import seeded
from fedlab.core.validate import check_whole


def random_subspace(task: Task, num: int = 1024, seed: int = 0) -> Task:
    """The same task with the row ``a [num]``: its model is ``w_0 + sum_k a_k z_k``, the z_k normal and known by their seeds.

    FedKSeed, Qin et al. 2024: with ``zeroth_order`` as the backend, and ``fedavg``, clients send ``num`` scalars, whatever
    the model's size (the paper takes 1,024 to 4,096), and no client keeps a gradient.  ``w_0`` is one and the same under
    every seed.
    """
    check_whole(1, num=num)
    return replace(task, model=partial(RandomSubspace, task, num, seed))


class RandomSubspace(nn.Module):
    """``w_0 + sum_k a_k z_k`` in place of a task's own parameters."""

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
        """``z_k [d]``, drawn again whenever it is needed: together they would be ``num`` models."""
        z = generator(self.seed, "direction", k).standard_normal(len(self.w_0), dtype="float32")
        return torch.from_numpy(z).to(self.w_0)

    def point(self, a: Tensor) -> Tensor:
        """The model's own row ``[d]`` at ``a [num]``; the last one is kept."""
        slope = a.requires_grad and torch.is_grad_enabled()
        if self._last is not None and not slope and torch.equal(self._last[0], a):
            return self._last[1]
        w = self.w_0
        for k in range(len(a)) if slope else a.nonzero().flatten().tolist():
            w = w + a[k] * self.direction(k)
        if not slope:
            self._last = a.detach().clone(), w
        return w
