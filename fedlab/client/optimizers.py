"""Optimizers of one parameter tensor for many clients at once.

``step(add)`` takes one step in place.  ``add(to, sign)`` adds ``sign`` times the gradient to a
tensor, so that no gradient has to be stored where the parameter itself can take it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.client.sequential import BETAS, EPSILON
from fedlab.core import Work, params
from fedlab.core.params import per_row

Add = Callable[[Tensor, int], object]


class Sgd(NamedTuple):
    """Plain SGD: ``w <- w - lr (g + decay w + linear_term)``, with lr in all the terms.

    Attributes:
        p: Parameters of the clients at work, ``[a, *shape]``.
        decay: ``lr (mu + weight decay)``, ``[a]``; None for zero.
        linear_term: ``lr (h - mu w_t)``, ``[a, *shape]``; None for zero.
    """

    p: Tensor
    decay: Tensor | None
    linear_term: Tensor | None

    def step(self, add: Add) -> None:
        if self.decay is not None:
            self.p.mul_(per_row(1 - self.decay, self.p))
        if self.linear_term is not None:
            self.p.sub_(self.linear_term)
        add(self.p, -1)


class Momentum(NamedTuple):
    """SGD with momentum: ``v <- rho v + lr (g + decay w + linear_term)``, ``w <- w - v``.

    It equals the usual form for a constant rate.  ``v`` is ``[a, *shape]`` and ``rho`` ``[a]``;
    the other attributes are those of ``Sgd``.
    """

    p: Tensor
    decay: Tensor | None
    linear_term: Tensor | None
    v: Tensor
    rho: Tensor

    def step(self, add: Add) -> None:
        self.v.mul_(per_row(self.rho, self.v))
        if self.decay is not None:
            self.v.addcmul_(per_row(self.decay, self.p), self.p)
        if self.linear_term is not None:
            self.v.add_(self.linear_term)
        add(self.v, 1)
        self.p.sub_(self.v)


class AdamW(NamedTuple):
    """AdamW, Loshchilov & Hutter 2019, Algorithm 2; its gradient arrives without lr.

    Attributes:
        p: Parameters of the clients at work, ``[a, *shape]``.
        decay: ``mu``, ``[a]``; None for zero.
        linear_term: ``h - mu w_t``, ``[a, *shape]``; None for zero.
        m: First moment, ``[a, *shape]``.
        v: Second moment, ``[a, *shape]``.
        steps: Steps taken, ``[a]``.
        lr: Learning rates, ``[a]``.
        weight_decay: Decoupled weight decay, ``[a]``.
    """

    p: Tensor
    decay: Tensor | None
    linear_term: Tensor | None
    m: Tensor
    v: Tensor
    steps: Tensor
    lr: Tensor
    weight_decay: Tensor

    def step(self, add: Add) -> None:
        (b1, b2), g = BETAS, torch.zeros_like(self.p)
        if self.decay is not None:
            g.addcmul_(per_row(self.decay, self.p), self.p)
        if self.linear_term is not None:
            g.add_(self.linear_term)
        add(g, 1)
        self.steps.add_(1)
        self.m.lerp_(g, 1 - b1)
        self.v.mul_(b2).addcmul_(g, g, value=1 - b2)
        m_hat = self.m / per_row(1 - b1**self.steps, g)
        v_hat = self.v / per_row(1 - b2**self.steps, g)
        self.p.mul_(per_row(1 - self.lr * self.weight_decay, g))
        self.p.addcmul_(m_hat / v_hat.sqrt_().add_(EPSILON), per_row(-self.lr, g))


class Fixed(NamedTuple):
    """A parameter that does not train."""

    p: Tensor

    def step(self, add: Add) -> None:
        pass


Optimizer = Sgd | Momentum | AdamW | Fixed


class Gathered:
    """An optimizer for a parameter that a pass may read several times, or never.

    It takes one step, with the sum of the gradients.
    """

    def __init__(self, optimizer: Optimizer):
        self.optimizer, self.p = optimizer, optimizer.p
        self.reads, self.moved = 0, False
        self.sum: Tensor | None = None

    def step(self, add: Add) -> None:
        if self.reads == 1:  # no other layer needs the old parameter, or has a gradient of it
            self.optimizer.step(add)
            self.moved = True
            return
        self.sum = torch.zeros_like(self.p) if self.sum is None else self.sum
        add(self.sum, 1)

    def finish(self) -> None:
        """End a step of training."""
        if not self.moved:
            self.optimizer.step(self._add)
        self.reads, self.moved = 0, False
        self.sum = None

    def _add(self, to: Tensor, sign: int) -> None:
        if self.sum is not None:
            to.add_(self.sum, alpha=sign)


Optimizers = dict[str, Optimizer]


def make_optimizers(work: Work, rows: np.ndarray, w: dict[str, Tensor], shapes: dict) -> Optimizers:
    """Return the optimizer of each parameter, with the linear and proximal terms.

    Args:
        work: The work of the cohort.
        rows: Clients whose models these are, ``[c]``.
        w: Their parameters at the start, ``[c, *shape]`` by name.
        shapes: Names and shapes of all tensors of a row.
    """
    if is_plain_sgd(work):
        return {name: Sgd(p, None, None) for name, p in w.items()}
    columns = (work.lr, work.mu, work.momentum, work.weight_decay)
    lr, mu, rho, weight_decay = (
        torch.from_numpy(column[rows]).to(work.start) for column in columns
    )
    is_adamw = work.optimizer == "adamw"
    scale = torch.ones_like(lr) if is_adamw else lr
    pull = mu if is_adamw else lr * (mu + weight_decay)
    decay = pull if pull.any() else None
    linear_terms = _linear_terms(work, rows, w, shapes, scale, mu)
    zeros, has_momentum = torch.zeros_like, bool(rho.any())
    optimizers: Optimizers = {}
    for name, p in w.items():
        terms = (p, decay, linear_terms[name])
        if is_adamw:
            optimizers[name] = AdamW(*terms, zeros(p), zeros(p), zeros(lr), lr, weight_decay)
        elif has_momentum:
            optimizers[name] = Momentum(*terms, zeros(p), rho)
        else:
            optimizers[name] = Sgd(*terms)
    return optimizers


def _linear_terms(
    work: Work, rows: np.ndarray, w: dict[str, Tensor], shapes: dict, scale: Tensor, mu: Tensor
) -> dict[str, Tensor | None]:
    """Return ``scale (h - mu z)`` for each parameter; None for zero."""
    terms: dict[str, Tensor | None] = dict.fromkeys(w)
    place = params.as_slice(rows)
    if mu.any():
        centre = w if work.centre is None else params.views(work.centre[place], shapes)
        terms = {name: -per_row(scale * mu, p) * centre[name] for name, p in w.items()}
    if work.h is not None:
        for name, h in params.views(work.h[place], shapes).items():
            if name in w:
                term, before = per_row(scale, h) * h, terms[name]
                terms[name] = term if before is None else before + term
    return terms


def is_plain_sgd(work: Work) -> bool:
    """Return whether the work is SGD without momentum, decay, linear or proximal terms."""
    has_terms = work.mu.any() or work.momentum.any() or work.weight_decay.any()
    return work.optimizer == "sgd" and work.h is None and not has_terms


def first_clients(active: int, optimizer: Optimizer) -> Optimizer:
    """Return the optimizer of the first ``active`` clients, which are still at work."""
    columns: Any = (None if column is None else column[:active] for column in optimizer)
    return type(optimizer)(*columns)
