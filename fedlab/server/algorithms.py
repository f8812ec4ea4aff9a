"""Federated algorithms, each the paper's formula in four small functions (see ``records.Algorithm``).

In the formulas ``delta_i = w_i - w`` is a client's update, ``p_i = n_i / n`` its share of the cohort's examples, ``mean``
what the aggregate makes of the rows, N the number of all clients.  A client without a step weighs nothing, and a round in
which nobody took a step changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedlab.core import Algorithm, ClientTable, Experiment, Local, Terms, Updates, weighted_sum
from fedlab.server.aggregate import weighted_mean


def fedavg(server_lr: float = 1.0) -> Algorithm:
    """Federated averaging: ``w <- w + server_lr * sum_i p_i delta_i``.  McMahan et al. 2017, Algorithm 1.

    ``server_lr`` is 1 in the paper: the new model is then the mean of the clients' models.
    """
    _above_0(server_lr=server_lr)

    def step(w, state, cohort, updates, mean):
        return w + server_lr * mean, state

    return Algorithm(_no_state, _no_local_objective, _weigh_by_size, step, sizes_once)


def fedsgd(server_lr: float = 1.0) -> Algorithm:
    """One full-batch gradient of each client: ``w <- w - server_lr * lr * sum_i p_i g_i``.  McMahan et al. 2017, section 2.

    FedAvg with ``Local(lr, batch_size=None, steps=1)``: only that is taken, with or without weight decay.
    """

    def validate(local, experiment):
        once = local.steps == 1 or (local.steps is None and local.epochs == 1)
        if local.batch_size is not None or not once or local.optimizer != "sgd" or local.momentum:
            told = f"FedSGD takes one full-batch gradient, and this is {local}"
            raise ValueError(f"{told}: use Local({local.lr:g}, batch_size=None, steps=1)")
        sizes_once(local, experiment)

    return fedavg(server_lr)._replace(validate=validate)


def fedavgm(beta: float = 0.9, *, server_lr: float = 1.0) -> Algorithm:
    """Momentum at the server: ``v <- beta v + sum_i p_i delta_i``, ``w <- w + server_lr * v``.  Hsu et al. 2019."""
    _below_1(beta=beta)
    _above_0(server_lr=server_lr)

    def init(w, num_clients):
        return torch.zeros_like(w)

    def step(w, v, cohort, updates, mean):
        if not updates.steps.any():
            return w, v
        v = beta * v + mean
        return w + server_lr * v, v

    return Algorithm(init, _no_local_objective, _weigh_by_size, step, sizes_once)


def fedadagrad(server_lr: float = 0.1, *, beta1: float = 0.0, tau: float = 1e-3) -> Algorithm:
    """Adagrad at the server: ``v <- v + D^2`` in ``_adaptive``.  Reddi et al. 2021, Algorithm 2; there beta1 = 0, too."""
    return _adaptive(server_lr, beta1, tau, lambda v, square: v + square)


def fedadam(
    server_lr: float = 0.03, *, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Algorithm:
    """Adam at the server: ``v <- beta2 v + (1 - beta2) D^2`` in ``_adaptive``.  Reddi et al. 2021, Algorithm 2."""
    _below_1(beta2=beta2)
    return _adaptive(server_lr, beta1, tau, lambda v, square: beta2 * v + (1 - beta2) * square)


def fedyogi(
    server_lr: float = 0.03, *, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Algorithm:
    """Yogi at the server: ``v <- v - (1 - beta2) D^2 sign(v - D^2)`` in ``_adaptive``.  Reddi et al. 2021, Algorithm 2."""
    _below_1(beta2=beta2)
    return _adaptive(
        server_lr, beta1, tau, lambda v, square: v - (1 - beta2) * square * torch.sign(v - square)
    )


def _adaptive(server_lr: float, beta1: float, tau: float, second) -> Algorithm:
    """Reddi et al. 2021, Algorithm 2: ``m <- beta1 m + (1 - beta1) D``, ``w <- w + server_lr * m / (sqrt(v) + tau)``.

    ``D = sum_i p_i delta_i``; ``v = second(v, D^2)`` starts at tau^2, m at 0, and neither is corrected for its start as
    Adam's are.  The paper tunes ``server_lr`` from 0.001 to 10 and ``tau``, the adaptivity, from 1e-5 to 0.1.
    Differs: in the paper's D the cohort counts alike; that is ``aggregate=mean``.
    """
    _above_0(server_lr=server_lr, tau=tau)
    _below_1(beta1=beta1)

    def init(w, num_clients):
        return torch.zeros_like(w), torch.full_like(w, tau**2)

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        m, v = state
        m = beta1 * m + (1 - beta1) * mean
        v = second(v, mean**2)
        return w + server_lr * m / (v.sqrt() + tau), (m, v)

    return Algorithm(init, _no_local_objective, _weigh_by_size, step, sizes_once)


def fedprox(mu: float = 0.01) -> Algorithm:
    """Clients stay near the model they were sent: they minimise ``F_i(v) + mu/2 ||v - w||^2``.  Li et al. 2020, Algorithm 2.

    The paper tries mu = 0.001 to 1; 0 is FedAvg.
    Differs: the paper draws clients by size and averages them equally; that is ``sample=by_size(K), aggregate=mean``.
    """
    if not mu >= 0:
        raise ValueError(f"mu={mu}: a proximal term pulls back, so it is at least 0; try 0.01")
    return fedavg()._replace(local_objective=lambda state, cohort: Terms(mu=mu))


def scaffold(server_lr: float = 1.0) -> Algorithm:
    """Control variates take the clients' drift out: local steps ``v <- v - lr (g_i(v) - c_i + c)``; at the server
    ``w <- w + server_lr * mean``, the cohort's members counting alike.  Karimireddy et al. 2020, Algorithm 1, option II.

    Then ``c_i <- c_i - c - delta_i / (K lr)``, the mean of the gradients that the client saw, weight decay included, and
    ``c <- c + (1/N) sum_i (change of c_i)``, over all N clients and not over the cohort.  All start at zero.  By the clock,
    c in the former is the one that the client was sent.
    Differs: the paper's clients send their change of c_i, too; here the server finds it from delta_i and c.
    """
    _above_0(server_lr=server_lr)

    def init(w, num_clients):
        return torch.zeros_like(w), ClientTable(w, num_clients)

    def local_objective(state, cohort):
        c, c_i = state
        return Terms(h=c - c_i[cohort.ids])

    def step(w, state, cohort, updates, mean):
        c, c_i = state
        h = local_objective(state, cohort).h if updates.h is None else updates.h
        trained, gradient = updates.steps > 0, -_negative_mean_gradient(updates) - h  # [m], [m, d]
        ids, gradient = cohort.ids[trained.numpy(force=True)], gradient[trained]
        change = gradient - c_i[ids]
        c_i[ids] = gradient
        return w + server_lr * mean, (c + change.sum(0) / cohort.num_clients, c_i)

    def validate(local, experiment):
        why = "SCAFFOLD's control variate is the mean gradient of plain SGD steps, delta / (K lr) in option II"
        if local.momentum:
            other = "momentum counts a gradient up to 1/(1 - momentum) times, the early ones most"
            raise ValueError(
                f"momentum={local.momentum}: {why}, and {other}: use momentum=0, or fedavgm"
            )
        _no_adamw(local, f"{why}, and AdamW's steps are no multiple of gradients")

    return Algorithm(init, local_objective, _weigh_equally, step, validate, vectors_down=2)


def feddyn(alpha: float = 0.01) -> Algorithm:
    """Clients minimise ``F_i(v) - <g_i, v> + alpha/2 ||v - w||^2``, so that what they agree on is the federation's optimum.

    Acar et al. 2021, Algorithm 1: ``g_i <- g_i - alpha delta_i``, which is the gradient of F_i where the client ended, if it
    minimised exactly; ``h <- h - alpha (1/N) sum_i delta_i``; ``w <- w + mean - h / alpha``, the cohort counting alike.
    The paper tries alpha = 0.001 to 0.1.
    """
    _above_0(alpha=alpha)

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

    return Algorithm(init, local_objective, _weigh_equally, step)


def fednova() -> Algorithm:
    """Clients that did more steps do not weigh more: ``w <- w + tau sum_i p_i delta_i / tau_i``, ``tau = sum_i p_i tau_i``.

    Wang et al. 2020.  ``tau_i`` is how much of a gradient stands in delta_i: lr times the steps for plain SGD,
    ``lr (K - r (1 - r^K) / (1 - r)) / (1 - r)`` with momentum r.
    """

    def contributions(updates, cohort):
        return _negative_mean_gradient(updates), _trained(updates) * updates.num_examples

    def step(w, state, cohort, updates, mean):
        n = _trained(updates) * updates.num_examples
        return w + (n @ updates.lr_sum) / n.sum().clamp(min=1) * mean, state

    def validate(local, experiment):
        _no_adamw(
            local,
            "FedNova divides by what a client's steps add up to, and for AdamW's there is no such number",
        )
        only_weighted_mean(
            experiment, "FedNova multiplies the result by the weighted mean of the tau_i"
        )
        sizes_once(local, experiment, "sample=uniform(K)")

    return Algorithm(_no_state, _no_local_objective, contributions, step, validate)


def mimelite(beta: float = 0.9) -> Algorithm:
    """The server's momentum, held fixed during local steps: ``v <- v - lr ((1 - beta) g_i(v) + beta m)``.

    Karimireddy et al. 2021, Algorithm 1 with MimeLite's steps and momentum SGD as the base; then ``w <- w + mean``,
    the cohort counting alike, and ``m <- (1 - beta) mean_i(gradient of F_i at the old w) + beta m``.
    """
    _below_1(beta=beta)

    def init(w, num_clients):
        return torch.zeros_like(w)

    def local_objective(m, cohort):
        return Terms(h=(beta / (1 - beta) * m).expand(len(cohort.ids), -1), lr=1 - beta)

    def step(w, m, cohort, updates, mean):
        trained = updates.steps > 0
        if not trained.any():
            return w, m
        return w + mean, (1 - beta) * updates.gradient[trained].mean(0) + beta * m

    def validate(local, experiment):
        if local.momentum:
            raise ValueError(
                f"momentum={local.momentum}: MimeLite's local steps have the server's momentum: use momentum=0"
            )
        if local.weight_decay:
            why = "MimeLite's momentum is made of the gradients of F_i, without decay"
            raise ValueError(f"weight_decay={local.weight_decay}: {why}: use weight_decay=0")
        _no_adamw(
            local, "MimeLite's local steps are the server's optimiser, here SGD with momentum"
        )

    return Algorithm(
        init,
        local_objective,
        _weigh_equally,
        step,
        validate,
        needs_full_gradient=True,
        vectors_up=2,
        vectors_down=2,
    )


def fedexp(eps: float = 1e-3) -> Algorithm:
    """The more clients disagree, the longer the step: ``w <- w + max(1, e) mean`` with
    ``e = sum_i p_i |delta_i|^2 / (2 (|mean|^2 + eps))``.  Jhunjhunwala et al. 2023, Algorithm 1.

    Weights by examples, as in the authors' code.
    Differs: their reported model is the average of the last two; here it is the last.
    """
    if not eps >= 0:
        raise ValueError(f"eps={eps}: it is at least 0; the paper takes 0.001 to 0.1")

    def step(w, state, cohort, updates, mean):
        if not mean.any():
            return w, state
        p = updates.num_examples / updates.num_examples.sum()
        fresh = weighted_sum(p, updates.delta)  # mean, where no stale row is discounted
        rate = p @ updates.delta.square().sum(1) / (2 * (fresh @ fresh + eps))
        return w + rate.clamp(min=1) * mean, state

    def validate(local, experiment):
        only_weighted_mean(
            experiment, "FedExP compares the result with the rows' lengths, weighted by examples"
        )
        sizes_once(local, experiment, "sample=uniform(K)")

    return Algorithm(_no_state, _no_local_objective, _weigh_by_size, step, validate)


def qfedavg(q: float = 1.0) -> Algorithm:
    """Clients with a larger loss count more: ``w <- w + sum_i F_i^q L delta_i / sum_i h_i`` with F_i the client's loss at w,
    ``h_i = q F_i^(q-1) |L delta_i|^2 + L F_i^q`` and L = 1 / lr.  Li et al. 2020 (ICLR), Algorithm 2.

    What falls is ``sum_i F_i^(q+1)``, clients counting alike; q = 0 is their plain mean; the paper tries q = 0.001 to 15.
    L is one number a round, the cohort's steps over its ``lr_sum``.  The aggregate sees the weights ``F_i^q``, and the step
    then shrinks its result.
    Differs: the paper draws clients by their weights p_k, so that ``sum_i p_i F_i^(q+1)`` falls; that is
    ``sample=by_size(K)`` for ``p_i = n_i / n``.
    """
    if not q >= 0:
        raise ValueError(f"q={q}: it is at least 0, where 0 is the plain mean; try 1")

    def relative(updates):
        # at least 1e-10, as in the authors' code; over the largest, so that no power of them vanishes
        loss = torch.where(updates.steps > 0, updates.start_loss, 0).clamp(min=1e-10)
        largest = loss.max() if len(loss) else 1
        return loss / largest, largest

    def contributions(updates, cohort):
        return updates.delta, _trained(updates) * relative(updates)[0] ** q

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        trained, (loss, largest) = _trained(updates), relative(updates)
        smooth = updates.steps.sum() / updates.lr_sum.sum()  # L
        h = (
            q * loss ** (q - 1) / largest * smooth * updates.delta.square().sum(1) + loss**q
        )  # [m], over L largest^q
        return w + (trained @ loss**q) / (trained @ h) * mean, state

    def validate(local, experiment):
        _no_adamw(
            local,
            "q-FedAvg reads gradients off the updates, and AdamW's steps are no multiple of them",
        )
        only_weighted_mean(
            experiment, "q-FedAvg's weights F_i^q would have no say, and yet shrink the result"
        )

    return Algorithm(
        _no_state, _no_local_objective, contributions, step, validate, needs_full_gradient=True
    )


def _no_state(w, num_clients):
    return None


def _no_local_objective(state, cohort):
    return Terms()


def _weigh_by_size(updates, cohort):
    return updates.delta, updates.num_examples


def _weigh_equally(updates, cohort):
    return updates.delta, _trained(updates)


def _trained(updates: Updates) -> Tensor:
    """1 for who took a step, else 0: ``[m]``."""
    return (updates.steps > 0).to(updates.delta.dtype)


def _negative_mean_gradient(updates: Updates) -> Tensor:
    """Minus the mean gradient that a client's steps followed, ``[m, d]``; 0 for who took none."""
    return updates.delta / torch.where(updates.steps > 0, updates.lr_sum, 1)[:, None]


def only_weighted_mean(experiment: Experiment, why: str) -> None:
    if experiment.aggregate is not weighted_mean:
        name = getattr(experiment.aggregate, "__name__", experiment.aggregate)
        raise ValueError(f"aggregate={name}: {why}: use aggregate=weighted_mean")


def sizes_once(local: Local, experiment: Experiment, remedy: str = "aggregate=mean") -> None:
    if getattr(experiment.sample, "by_size", False) and experiment.aggregate is weighted_mean:
        told = "sample=by_size with aggregate=weighted_mean counts sizes twice, in who is drawn and in who weighs"
        raise ValueError(f"{told}: use {remedy}")


def _above_0(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: it is above 0; see the docstring for the paper's")


def _below_1(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(
                f"{name}={value}: it is at least 0 and below 1; see the docstring for the paper's"
            )


def _no_adamw(local: Local, why: str) -> None:
    if local.optimizer == "adamw":
        raise ValueError(f"optimizer='adamw': {why}: use optimizer='sgd'")
