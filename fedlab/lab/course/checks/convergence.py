"""Checks of notebook 03, Convergence."""

from __future__ import annotations

from functools import partial

import numpy as np

from fedlab.core import Experiment, Local
from fedlab.engine import initial, stream
from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import random_generator
from fedlab.lab.course.compare import CLOSE, compare
from fedlab.lab.course.trial import check
from fedlab.models import least_squares
from fedlab.server import scaffold, uniform, weighted_mean
from fedlab.study import Quadratics, quadratics

RESTING_POINT_SLIPS = {
    "that is the optimum of all clients; FedAvg rests elsewhere when they take several steps": (
        lambda a, b, p, lr, steps: Quadratics(a, b, p).optimum
    ),
    "the weights p are missing": (
        lambda a, b, p, lr, steps: Quadratics(a, b, 0 * p + 1).fedavg(lr, steps).fixed_point
    ),
    "that gives every client the steps of the first client": (
        lambda a, b, p, lr, steps: Quadratics(a, b, p).fedavg(lr, int(steps[0])).fixed_point
    ),
    "that gives every client the steps of the busiest": (
        lambda a, b, p, lr, steps: Quadratics(a, b, p).fedavg(lr, int(max(steps))).fixed_point
    ),
    "that is the other objective's optimum, right for small rates only; use the exact Q_i": (
        lambda a, b, p, lr, steps: Quadratics(a, b, p).surrogate(steps).optimum
    ),
    "that is the mean of the clients' optima, the limit of infinitely many steps": (
        lambda a, b, p, lr, steps: p @ b
    ),
}


@check()
def resting_point(answer: Answer) -> str:
    """Check ``answer(A [m, d, d], b [m, d], p [m], lr, steps [m]) -> [d]``, FedAvg's fixed point.

    The clients are quadratic.
    """

    def right(a, b, p, lr, steps) -> np.ndarray:
        return Quadratics(a, b, p).fedavg(lr, steps).fixed_point

    def differs(value: np.ndarray, wanted: np.ndarray) -> str:
        return f"it is {np.abs(value - wanted).max():.2g} from the resting point"

    draw = random_generator()
    cases = []
    for lr in (0.4, 0.25, 0.5):
        clients = quadratics(4, 3, seed=int(draw.integers(1000)))
        p = draw.permutation([4.0, 3.0, 2.0, 1.0]) / 10
        steps = np.array([3, *draw.permutation([2, 5, 8])])  # the first client is not the busiest
        cases.append({"A": clients.A, "b": clients.b, "p": p, "lr": lr, "steps": steps})
    return compare(answer, right, cases, RESTING_POINT_SLIPS, differs=differs)


def _scaffold(clients, w, lr, steps, rounds, *, sign=1.0, divide=True, moves=1.0) -> np.ndarray:
    """Return the models of SCAFFOLD with full participation, or of a version with a slip."""
    models, c_i = [w], np.zeros_like(clients.b)
    for _ in range(rounds):
        c = moves * c_i.mean(0)
        w_i = np.repeat(w[None], len(clients.b), axis=0)
        for _ in range(steps):
            w_i = w_i - lr * (
                np.einsum("ijk,ik->ij", clients.A, w_i - clients.b) + sign * (c - c_i)
            )
        c_i = c_i - c + (w - w_i) / (lr * steps if divide else 1)
        w = w_i.mean(0)
        models.append(w)
    return np.stack(models)


SCAFFOLD_SLIPS = {
    "that is FedAvg: nothing is corrected; do the c_i ever change?": partial(_scaffold, sign=0),
    "the sign of the correction is wrong: a step subtracts lr (gradient - c_i + c)": (
        partial(_scaffold, sign=-1)
    ),
    "c_i has to be a gradient again: (w - w_i) / (lr steps), and the division is missing": (
        partial(_scaffold, divide=False)
    ),
    "c has to be the mean of the c_i after each round, and it stays 0": (
        partial(_scaffold, moves=0)
    ),
}


@check(
    "fedlab.study.theory.Quadratics.gradients",
    "fedlab.study.theory.Quadratics.p",
    "fedlab.study.theory.Quadratics.weights",
)
def scaffold_by_hand(answer: Answer) -> str:
    """Check ``answer(clients, w, lr, steps, rounds) -> [rounds + 1, d]``, the server's models.

    All clients take part in every round.
    """

    def by_the_package(clients: Quadratics, w, lr, steps, rounds) -> np.ndarray:
        data = clients.federated()
        everyone, local = uniform(data.num_clients), Local(lr, None, steps=steps)
        study = Experiment(
            data, least_squares(data), local, scaffold(), weighted_mean, everyone, rounds
        )
        return np.stack([runs[0].w.numpy(force=True) for runs in stream(study, device="cpu")])

    def differs(value: np.ndarray, wanted: np.ndarray) -> str:
        first = int(
            np.isclose(value, wanted, **CLOSE).all(1).argmin()
        )  # the first row that differs
        if first:
            return f"it agrees until round {first - 1}, and then differs"
        return "the first model is not the w that was given"

    cases = []
    for lr, steps, rounds in ((0.2, 8, 12), (0.3, 5, 6)):
        clients = quadratics(4, 3, seed=int(random_generator().integers(1000)))
        data = clients.federated()
        w = initial(least_squares(data), 0, data.x).numpy(force=True)
        cases.append({"clients": clients, "w": w, "lr": lr, "steps": steps, "rounds": rounds})
    return compare(answer, by_the_package, cases, SCAFFOLD_SLIPS, differs=differs)
