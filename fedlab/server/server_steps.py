"""Algorithms whose server does more than average: momentum, adaptive steps, other weights.

The formulas are written as in ``fedlab.server.algorithms``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedlab.core import Algorithm, Updates, weighted_sum
from fedlab.server.building_blocks import (
    check_above_0,
    check_below_1,
    has_trained,
    negative_mean_gradient,
    no_state,
    plain_objective,
    refuse_adamw,
    refuse_double_weighting,
    require_weighted_mean,
    weigh_by_size,
)


def fedavgm(beta: float = 0.9, *, server_lr: float = 1.0) -> Algorithm:
    """Keep momentum on the server.

    ``v <- beta v + sum_i p_i delta_i`` and ``w <- w + server_lr * v``. Hsu et al. 2019.

    Args:
        beta: Share of v that stays, at least 0 and below 1.
        server_lr: Step on the server, above 0.

    Example:
        >>> algorithm = fedavgm(0.9, server_lr=0.1)
    """
    check_below_1(beta=beta)
    check_above_0(server_lr=server_lr)

    def init(w, num_clients):
        return torch.zeros_like(w)

    def step(w, v, cohort, updates, mean):
        if not updates.steps.any():
            return w, v
        v = beta * v + mean
        return w + server_lr * v, v

    return Algorithm(init, plain_objective, weigh_by_size, step, refuse_double_weighting)


def fedadagrad(server_lr: float = 0.1, *, beta1: float = 0.0, tau: float = 1e-3) -> Algorithm:
    """Take Adagrad steps on the server: ``v <- v + D^2``, with D the weighted mean update.

    ``m <- beta1 m + (1 - beta1) D`` and ``w <- w + server_lr * m / (sqrt(v) + tau)``; v starts at
    tau^2 and m at 0. Reddi et al. 2021, Algorithm 2, where beta1 is 0, too.

    Args:
        server_lr: Step on the server, above 0; the paper tunes it from 0.001 to 10.
        beta1: Share of m that stays, at least 0 and below 1.
        tau: Adaptivity, above 0; the paper tunes it from 1e-5 to 0.1.
    """
    return _adaptive(server_lr, beta1, tau, lambda v, square: v + square)


def fedadam(
    server_lr: float = 0.03, *, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Algorithm:
    """Take Adam steps on the server: ``v <- beta2 v + (1 - beta2) D^2``, D the mean update.

    ``m <- beta1 m + (1 - beta1) D`` and ``w <- w + server_lr * m / (sqrt(v) + tau)``; v starts at
    tau^2 and m at 0, and neither is corrected for its start as Adam's are. Reddi et al. 2021,
    Algorithm 2.
    Differs: in the paper's D all clients of the cohort weigh alike; that is ``aggregate=mean``.

    Args:
        server_lr: Step on the server, above 0; the paper tunes it from 0.001 to 10.
        beta1: Share of m that stays, at least 0 and below 1.
        beta2: Share of v that stays, at least 0 and below 1.
        tau: Adaptivity, above 0; the paper tunes it from 1e-5 to 0.1.

    Example:
        >>> algorithm = fedadam(server_lr=0.01)
    """
    check_below_1(beta2=beta2)
    return _adaptive(server_lr, beta1, tau, lambda v, square: beta2 * v + (1 - beta2) * square)


def fedyogi(
    server_lr: float = 0.03, *, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Algorithm:
    """Take Yogi steps on the server: ``v <- v - (1 - beta2) D^2 sign(v - D^2)``.

    All else is as in ``fedadam``. Reddi et al. 2021, Algorithm 2.

    Args:
        server_lr: Step on the server, above 0.
        beta1: Share of m that stays, at least 0 and below 1.
        beta2: 1 minus the largest relative change of v, at least 0 and below 1.
        tau: Adaptivity, above 0.
    """
    check_below_1(beta2=beta2)
    return _adaptive(
        server_lr, beta1, tau, lambda v, square: v - (1 - beta2) * square * torch.sign(v - square)
    )


def _adaptive(
    server_lr: float, beta1: float, tau: float, second: Callable[[Tensor, Tensor], Tensor]
) -> Algorithm:
    """Take adaptive steps with ``v <- second(v, D^2)``, Reddi et al. 2021, Algorithm 2."""
    check_above_0(server_lr=server_lr, tau=tau)
    check_below_1(beta1=beta1)

    def init(w, num_clients):
        return torch.zeros_like(w), torch.full_like(w, tau**2)

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        m, v = state
        m = beta1 * m + (1 - beta1) * mean
        v = second(v, mean**2)
        return w + server_lr * m / (v.sqrt() + tau), (m, v)

    return Algorithm(init, plain_objective, weigh_by_size, step, refuse_double_weighting)


def fednova() -> Algorithm:
    """Normalise updates by their steps, so that clients with more steps do not weigh more.

    ``w <- w + tau sum_i p_i delta_i / tau_i`` with ``tau = sum_i p_i tau_i``. ``tau_i`` says how
    much of a gradient is in delta_i: lr times the steps for plain SGD, and ``lr (K - r (1 - r^K) /
    (1 - r)) / (1 - r)`` with momentum r. Wang et al. 2020.

    Example:
        >>> algorithm = fednova()  # takes SGD with momentum, aggregate=weighted_mean
    """

    def contributions(updates, cohort):
        return negative_mean_gradient(updates), has_trained(updates) * updates.num_examples

    def step(w, state, cohort, updates, mean):
        n = has_trained(updates) * updates.num_examples
        return w + (n @ updates.lr_sum) / n.sum().clamp(min=1) * mean, state

    def validate(local, experiment):
        refuse_adamw(
            local,
            "FedNova divides by the sum of a client's rates, and AdamW's steps are no multiple of "
            "gradients",
        )
        require_weighted_mean(
            experiment, "FedNova multiplies the result by the weighted mean of the tau_i"
        )
        refuse_double_weighting(local, experiment, "sample=uniform(K)")

    return Algorithm(no_state, plain_objective, contributions, step, validate)


def fedexp(eps: float = 1e-3) -> Algorithm:
    """Take longer steps on the server, the more the clients disagree.

    ``w <- w + max(1, e) mean`` with ``e = sum_i p_i |delta_i|^2 / (2 (|mean|^2 + eps))``. Clients
    weigh by their examples, as in the authors' code. Jhunjhunwala et al. 2023, Algorithm 1.
    Differs: their reported model is the average of the last two; here it is the last.

    Args:
        eps: Number that keeps e small where updates nearly vanish, at least 0; the paper takes
            0.001 to 0.1.

    Example:
        >>> algorithm = fedexp()
    """
    if not eps >= 0:
        raise ValueError(f"eps={eps} must be at least 0. Try 0.001; the paper takes up to 0.1")

    def step(w, state, cohort, updates, mean):
        if not mean.any():
            return w, state
        p = updates.num_examples / updates.num_examples.sum()
        fresh = weighted_sum(p, updates.delta)  # equals mean, unless stale updates are discounted
        rate = p @ updates.delta.square().sum(1) / (2 * (fresh @ fresh + eps))
        return w + rate.clamp(min=1) * mean, state

    def validate(local, experiment):
        require_weighted_mean(
            experiment, "FedExP compares the result with the rows' lengths, weighted by examples"
        )
        refuse_double_weighting(local, experiment, "sample=uniform(K)")

    return Algorithm(no_state, plain_objective, weigh_by_size, step, validate)


def qfedavg(q: float = 1.0) -> Algorithm:
    """Weigh clients with a larger loss more: ``w <- w + sum_i F_i^q L delta_i / sum_i h_i``.

    F_i is the client's loss at w, ``h_i = q F_i^(q-1) |L delta_i|^2 + L F_i^q`` and L = 1 / lr. The
    result minimises ``sum_i F_i^(q+1)``, all clients weighing alike. L is one number per round: the
    cohort's steps over its ``lr_sum``. The aggregate sees the weights ``F_i^q``, and the step then
    shrinks its result. Li et al. 2020 (ICLR), Algorithm 2.
    Differs: the paper draws clients by their weights p_k and so minimises
    ``sum_i p_i F_i^(q+1)``; that is ``sample=by_size(K)`` for ``p_i = n_i / n``.

    Args:
        q: Fairness, at least 0, where 0 is the plain mean; the paper tries 0.001 to 15.

    Returns:
        An algorithm for which clients also compute their loss at w.

    Example:
        >>> qfedavg(q=2).needs_full_gradient
        True
    """
    if not q >= 0:
        raise ValueError(f"q={q} must be at least 0 (where 0 is the plain mean). Try 1")

    def contributions(updates, cohort):
        return updates.delta, has_trained(updates) * _relative_loss(updates)[0] ** q

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        trained, (loss, largest) = has_trained(updates), _relative_loss(updates)
        smooth = updates.steps.sum() / updates.lr_sum.sum()  # L
        # h [m] is relative to L largest^q.
        curvature = q * loss ** (q - 1) / largest * smooth * updates.delta.square().sum(1)
        h = curvature + loss**q
        return w + (trained @ loss**q) / (trained @ h) * mean, state

    def validate(local, experiment):
        refuse_adamw(
            local,
            "q-FedAvg reads gradients off the updates, and AdamW's steps are no multiple of them",
        )
        require_weighted_mean(
            experiment, "q-FedAvg's weights F_i^q would not count, and yet shrink the result"
        )

    return Algorithm(
        no_state, plain_objective, contributions, step, validate, needs_full_gradient=True
    )


def _relative_loss(updates: Updates) -> tuple[Tensor, Tensor | int]:
    """Return each client's loss over the largest, so that no power of it vanishes, and that.

    A loss is at least 1e-10, as in the authors' code.
    """
    assert updates.start_loss is not None  # the algorithm needs the full gradient
    loss = torch.where(updates.steps > 0, updates.start_loss, 0).clamp(min=1e-10)
    largest = loss.max() if len(loss) else 1
    return loss / largest, largest
