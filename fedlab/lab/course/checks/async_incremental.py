"""Checks of notebook 09, Late updates."""

from __future__ import annotations

import numpy as np

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import named_cases, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.trial import check


def _mix(w, start, delta, staleness, alpha, a):
    share = alpha * (1.0 + staleness) ** -a
    return (1 - share) * w + share * (start + delta)


STALE_STEP_SLIPS = {
    "it adds the update to the current model; the client's model is its start plus its update": (
        lambda w, start, delta, t, alpha, a: w + alpha * (1.0 + t) ** -a * delta
    ),
    "staleness is left out: multiply alpha by s": (
        lambda w, start, delta, t, alpha, a: _mix(w, start, delta, 0, alpha, a)
    ),
    "alpha is left out: multiply it by s": (
        lambda w, start, delta, t, alpha, a: _mix(w, start, delta, t, 1, a)
    ),
    "the two shares are swapped: the client's model gets alpha s, and the server's the rest": (
        lambda w, start, delta, t, alpha, a: _mix(start + delta, w, 0, t, alpha, a)
    ),
    "s is (1 + staleness) to the power of -a": (
        lambda w, start, delta, t, alpha, a: _mix(w, start, delta, t - 1, alpha, a)
    ),
    "the power is -a: a stale update counts less": (
        lambda w, start, delta, t, alpha, a: _mix(w, start, delta, t, alpha, -a)
    ),
    "the server's model has to shrink by the share that the client's gets": (
        lambda w, start, delta, t, alpha, a: w + alpha * (1.0 + t) ** -a * (start + delta)
    ),
}


@check()
def stale_step(answer: Answer) -> str:
    """Check ``answer(w, start, delta, staleness, alpha, a) -> w``, a step of FedAsync.

    An update of staleness t is weighed by ``s(t) = (1 + t)^-a``.
    """
    draw = random_generator()
    cases = [(np.array([4.0, 0.0]), np.array([1.0, 1.0]), np.array([0.5, -1.0]), 3, 0.6, 0.5)]
    for staleness in (2, 4, 7):
        rows = draw.normal(size=(3, 3)).round(2)
        alpha, a = round(draw.uniform(0.3, 0.9), 2), round(draw.uniform(0.3, 1.5), 2)
        cases.append((*rows, staleness, alpha, a))
    cases = named_cases(("w", "start", "delta", "staleness", "alpha", "a"), cases)
    return compare(answer, _mix, cases, STALE_STEP_SLIPS)


def _lost(table: np.ndarray) -> np.ndarray:
    """Return for each task the best accuracy before the last phase minus the last accuracy."""
    return table[:-1].max(0) - table[-1]


FORGETTING_SLIPS = {
    "the last task is counted, which has had no time to be forgotten": (
        lambda table: _lost(table).mean()
    ),
    "divide by the tasks that could be forgotten, all but the last": (
        lambda table: _lost(table)[:-1].sum() / len(table)
    ),
    "take the best that a task ever was, not its accuracy when it was learned": (
        lambda table: (np.diag(table) - table[-1])[:-1].mean()
    ),
    "that is the gain: subtract the last accuracy from the earlier one": (
        lambda table: -_lost(table)[:-1].mean()
    ),
    "that is the sum: take the mean over tasks": lambda table: _lost(table)[:-1].sum(),
    "the best is before the last phase: leave its row out": (
        lambda table: (table.max(0) - table[-1])[:-1].mean()
    ),
    "that is the accuracy in the end": lambda table: table[-1][:-1].mean(),
}


@check()
def forgetting(answer: Answer) -> str:
    """Check ``answer(accuracy [phases, tasks]) -> number``, the mean forgetting after all phases.

    Task ``k`` is learned in phase ``k``. Its forgetting is its best accuracy before the last phase,
    minus its accuracy in the end. The last task has had no time to be forgotten.
    """
    draw = random_generator()
    tables = [np.array([[0.8, 0.1, 0.0], [0.9, 0.7, 0.1], [0.5, 0.6, 0.95]])]
    tables += [draw.uniform(size=(tasks, tasks)).round(2) for tasks in (3, 4, 5)]
    cases = [{"accuracy": table} for table in tables]
    return compare(answer, lambda table: _lost(table)[:-1].mean(), cases, FORGETTING_SLIPS)
