"""Checks of notebook 01, Federated averaging."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Experiment, FederatedDataset, Local, Task
from fedlab.data import dirichlet, load
from fedlab.engine import initial, stream
from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import TRIES, named_cases, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.trial import check
from fedlab.models import mlp
from fedlab.server import fedavg, uniform, weighted_mean


def _gradient(task: Task, data: FederatedDataset, w: Tensor, rows: Any = slice(None)) -> Tensor:
    v = w.clone().requires_grad_()
    loss = task.loss(task.forward(v, data.x[rows]), data.y[rows]).mean()
    return torch.autograd.grad(loss, v)[0]


def _unweighted(task: Task, data: FederatedDataset, w: Tensor, lr: float) -> Tensor:
    gradients = [_gradient(task, data, w, part) if len(part) else 0 * w for part in data.parts]
    return w - lr * torch.stack(gradients).mean(0)


ONE_STEP_SLIPS = {
    "the model did not move": lambda task, data, w, lr: w,
    "that is the gradient; give the model after the step": (
        lambda task, data, w, lr: _gradient(task, data, w)
    ),
    "the losses are added up; take their mean": (
        lambda task, data, w, lr: w - lr * len(data.y) * _gradient(task, data, w)
    ),
    "the step goes uphill: subtract the gradient": (
        lambda task, data, w, lr: w + lr * _gradient(task, data, w)
    ),
    "that weighs all clients equally; FedAvg weighs all examples equally": _unweighted,
    "the learning rate is missing": lambda task, data, w, lr: w - _gradient(task, data, w),
}


@check("fedlab.models", "fedlab.core")
def one_step(answer: Answer) -> str:
    """Check ``answer(task, data, w, lr) -> w``, a round with one full-batch step per client."""

    def fedavg_round(task: Task, data: FederatedDataset, w: Tensor, lr: float) -> Tensor:
        everyone, local = uniform(data.num_clients), Local(lr, None, epochs=1)
        study = Experiment(data, task, local, fedavg(), weighted_mean, everyone, rounds=1)
        *_, runs = stream(study, seeds=[seed], device="cpu")
        return runs[0].w

    def differs(value: np.ndarray, wanted: np.ndarray) -> str:
        distance = np.abs(value - wanted).max()
        return (
            f"it ends {distance:.2g} from the model of a round (the largest difference of a "
            "parameter)"
        )

    seed = int(random_generator().integers(1000))
    cases = []
    for lr in (0.5, 0.2):
        data = load("digits", 20, dirichlet(0.3), seed + len(cases)).double()
        task = mlp(data, hidden=(8,))
        cases.append({"task": task, "data": data, "w": initial(task, seed, data.x), "lr": lr})
    return compare(answer, fedavg_round, cases, ONE_STEP_SLIPS, differs=differs)


# n clients, m of them in each of t rounds.
CLIENTS_SEEN_SLIPS = {
    "that counts a client once for every round it takes part in": lambda n, m, t: m * t,
    "even with a place for every client, chance leaves some out": lambda n, m, t: min(n, m * t),
    "that is the share of the clients; multiply it by their number": (
        lambda n, m, t: 1 - (1 - m / n) ** t
    ),
    "those are the clients that never take part": lambda n, m, t: n * (1 - m / n) ** t,
    "that is the chance never to take part": lambda n, m, t: (1 - m / n) ** t,
    "that draws clients one after another, with repetition; a cohort has no client twice": (
        lambda n, m, t: n * (1 - (1 - 1 / n) ** (m * t))
    ),
}


@check()
def clients_seen(answer: Answer) -> str:
    """Check ``answer(num_clients, cohort_size, rounds)``, the mean number of different clients."""
    draw = random_generator()
    cases = [(100, 10, 20), (50, 50, 3), (30, 7, 1)]
    cases += [
        (int(draw.integers(60, 200)), int(draw.integers(5, 30)), int(draw.integers(4, 15)))
        for _ in range(TRIES)
    ]
    cases = named_cases(("num_clients", "cohort_size", "rounds"), cases)
    return compare(answer, lambda n, m, t: n * (1 - (1 - m / n) ** t), cases, CLIENTS_SEEN_SLIPS)
