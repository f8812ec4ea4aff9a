"""Algorithms that average the clients' updates, and that correct what clients minimise.

Each is the paper's formula in four small functions (see ``fedlab.core.Algorithm``). In the formulas
``delta_i = w_i - w`` is a client's update, and ``p_i = n_i / n`` its share of the cohort's
examples. ``mean`` is the result of the aggregate, and N the number of all clients.

A client without a step has weight 0. A round in which no client took a step changes nothing.
"""

from __future__ import annotations

import torch

from fedlab.core import Algorithm, ClientTable, Terms
from fedlab.server.building_blocks import (
    check_above_0,
    check_below_1,
    negative_mean_gradient,
    no_state,
    plain_objective,
    refuse_adamw,
    refuse_double_weighting,
    weigh_by_size,
    weigh_equally,
)


def fedavg(server_lr: float = 1.0) -> Algorithm:
    """Average the clients' updates: ``w <- w + server_lr * sum_i p_i delta_i``.

    McMahan et al. 2017, Algorithm 1.

    Args:
        server_lr: Step on the server, above 0. At 1, as in the paper, the new model is the mean of
            the clients' models.

    Example:
        >>> from fedlab.core import Cohort
        >>> import numpy as np
        >>> algorithm, w = fedavg(), torch.tensor([1.0, 2.0])
        >>> cohort, mean = Cohort(np.array([0, 1]), 1, 0, 2), torch.tensor([0.5, -1.0])
        >>> w, _ = algorithm.step(w, None, cohort, None, mean)
        >>> w.tolist()
        [1.5, 1.0]
    """
    check_above_0(server_lr=server_lr)

    def step(w, state, cohort, updates, mean):
        return w + server_lr * mean, state

    return Algorithm(no_state, plain_objective, weigh_by_size, step, refuse_double_weighting)


def fedsgd(server_lr: float = 1.0) -> Algorithm:
    """Take one gradient of each client: ``w <- w - server_lr * lr * sum_i p_i g_i``.

    FedSGD is FedAvg with one full-batch step, ``Local(lr, batch_size=None, steps=1)``, with or
    without weight decay. It takes no other local training. McMahan et al. 2017, section 2.

    Args:
        server_lr: Step on the server, above 0.

    Example:
        >>> import fedlab as fl
        >>> local, algorithm = fl.Local(0.1, batch_size=None, steps=1), fedsgd()
    """

    def validate(local, experiment):
        once = local.steps == 1 or (local.steps is None and local.epochs == 1)
        if local.batch_size is not None or not once or local.optimizer != "sgd" or local.momentum:
            raise ValueError(
                f"local={local} must be one full-batch step (FedSGD takes one gradient). "
                f"Try Local({local.lr:g}, batch_size=None, steps=1)"
            )
        refuse_double_weighting(local, experiment)

    return fedavg(server_lr)._replace(validate=validate)


def fedprox(mu: float = 0.01) -> Algorithm:
    """Keep clients near the model they were sent: they minimise ``F_i(v) + mu/2 ||v - w||^2``.

    Li et al. 2020, Algorithm 2.
    Differs: the paper draws clients by size and averages them equally; that is
    ``sample=by_size(K), aggregate=mean``.

    Args:
        mu: Weight of the proximal term, at least 0; the paper tries 0.001 to 1, and 0 is FedAvg.

    Example:
        >>> fedprox(mu=0.1).local_objective(None, None).mu
        0.1
    """
    if not mu >= 0:
        raise ValueError(f"mu={mu} must be at least 0 (a proximal term pulls back). Try 0.01")
    return fedavg()._replace(local_objective=lambda state, cohort: Terms(mu=mu))


def scaffold(server_lr: float = 1.0) -> Algorithm:
    """Correct the clients' drift by control variates.

    Local steps are ``v <- v - lr (g_i(v) - c_i + c)``. On the server ``w <- w + server_lr * mean``,
    all clients of the cohort weighing alike. All control variates start at zero. After training,
    ``c_i <- c_i - c - delta_i / (K lr)`` is the mean gradient of the client's steps, weight decay
    included. In a simulation by the clock, this c is the value that was sent to the client. Then
    ``c <- c + (1/N) sum_i (change of c_i)``, over all N clients and not over the cohort.
    Karimireddy et al. 2020, Algorithm 1, option II.
    Differs: the paper's clients also send their change of c_i; here the server computes it from
    delta_i and c.

    Args:
        server_lr: Step on the server, above 0.

    Returns:
        An algorithm whose state is c and the c_i of all clients. It takes plain SGD only, and sends
        two vectors down.

    Example:
        >>> algorithm = scaffold()
        >>> algorithm.vectors_up, algorithm.vectors_down
        (1, 2)
    """
    check_above_0(server_lr=server_lr)

    def init(w, num_clients):
        return torch.zeros_like(w), ClientTable(w, num_clients)

    def local_objective(state, cohort):
        c, c_i = state
        return Terms(h=c - c_i[cohort.ids])

    def step(w, state, cohort, updates, mean):
        c, c_i = state
        h = local_objective(state, cohort).h if updates.h is None else updates.h
        trained, gradient = updates.steps > 0, -negative_mean_gradient(updates) - h  # [m], [m, d]
        ids, gradient = cohort.ids[trained.numpy(force=True)], gradient[trained]
        change = gradient - c_i[ids]
        c_i[ids] = gradient
        return w + server_lr * mean, (c + change.sum(0) / cohort.num_clients, c_i)

    return Algorithm(
        init, local_objective, weigh_equally, step, _only_gradient_steps, vectors_down=2
    )


def _only_gradient_steps(local, experiment):
    reason = (
        "SCAFFOLD's control variate is the mean gradient of plain SGD steps, delta / (K lr) in "
        "option II"
    )
    if local.momentum:
        counted = "momentum counts a gradient up to 1/(1 - momentum) times, the early ones longest"
        raise ValueError(
            f"momentum={local.momentum} must be 0 ({reason}, and {counted}). "
            "Try momentum=0, or fedavgm"
        )
    refuse_adamw(local, f"{reason}, and AdamW's steps are no multiple of gradients")


def feddyn(alpha: float = 0.01) -> Algorithm:
    """Regularise clients dynamically, so that their common optimum is that of the federation.

    Clients minimise ``F_i(v) - <g_i, v> + alpha/2 ||v - w||^2``. Then
    ``g_i <- g_i - alpha delta_i``, which is the gradient of F_i where the client ended, if it
    minimised exactly; ``h <- h - alpha (1/N) sum_i delta_i``; ``w <- w + mean - h / alpha``, all
    clients of the cohort weighing alike. Acar et al. 2021, Algorithm 1.

    Args:
        alpha: Weight of the proximal term, above 0; the paper tries 0.001 to 0.1.

    Returns:
        An algorithm whose state is h and the g_i of all clients.

    Example:
        >>> state = feddyn(0.1).init(torch.zeros(3), num_clients=5)
        >>> state[0].tolist()
        [0.0, 0.0, 0.0]
    """
    check_above_0(alpha=alpha)

    def init(w, num_clients):
        return torch.zeros_like(w), ClientTable(w, num_clients)

    def local_objective(state, cohort):
        _, g = state
        return Terms(h=-g[cohort.ids], mu=alpha)

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        h, g = state
        trained = updates.steps > 0
        ids, delta = cohort.ids[trained.numpy(force=True)], updates.delta[trained]
        g[ids] = g[ids] - alpha * delta
        h = h - alpha * delta.sum(0) / cohort.num_clients
        return w + mean - h / alpha, (h, g)

    return Algorithm(init, local_objective, weigh_equally, step)


def mimelite(beta: float = 0.9) -> Algorithm:
    """Use the server's momentum, held fixed, in local steps.

    The local steps are ``v <- v - lr ((1 - beta) g_i(v) + beta m)``. On the server ``w <- w +
    mean``, all clients of the cohort weighing alike, and ``m <- (1 - beta) mean_i(gradient of F_i
    at the old w) + beta m``. Karimireddy et al. 2021, Algorithm 1 with MimeLite's steps and
    momentum SGD as the base.

    Args:
        beta: Momentum, at least 0 and below 1.

    Returns:
        An algorithm whose state is m. Clients also compute and send their full gradient.

    Example:
        >>> mimelite().needs_full_gradient
        True
    """
    check_below_1(beta=beta)

    def init(w, num_clients):
        return torch.zeros_like(w)

    def local_objective(m, cohort):
        return Terms(h=(beta / (1 - beta) * m).expand(len(cohort.ids), -1), lr=1 - beta)

    def step(w, m, cohort, updates, mean):
        trained = updates.steps > 0
        if not trained.any():
            return w, m
        return w + mean, (1 - beta) * updates.gradient[trained].mean(0) + beta * m

    return Algorithm(
        init,
        local_objective,
        weigh_equally,
        step,
        _only_plain_steps,
        needs_full_gradient=True,
        vectors_up=2,
        vectors_down=2,
    )


def _only_plain_steps(local, experiment):
    if local.momentum:
        raise ValueError(
            f"momentum={local.momentum} must be 0 (MimeLite's local steps have the server's "
            "momentum). Try momentum=0"
        )
    if local.weight_decay:
        raise ValueError(
            f"weight_decay={local.weight_decay} must be 0 (MimeLite's momentum is the mean of "
            "gradients of F_i, without decay). Try weight_decay=0"
        )
    refuse_adamw(local, "MimeLite's local steps are the server's optimizer, SGD with momentum")
