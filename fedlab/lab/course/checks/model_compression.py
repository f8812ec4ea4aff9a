"""Checks of notebook 05, Smaller models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import named_cases, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.trial import check


def _count(widths: Sequence[float], bias: int = 1) -> float:
    return sum((n + bias) * m for n, m in itertools.pairwise(widths))


def _shrink(widths: Sequence[int], keep: float) -> list[int]:
    return [widths[0], *(int(keep * n) for n in widths[1:-1]), widths[-1]]


PARAMETERS_LEFT_SLIPS = {
    "that is a share of all parameters: a layer between two hidden layers shrinks at both ends": (
        lambda widths, keep: keep * _count(widths)
    ),
    "that is the square of the share: inputs and outputs stay, so their layers shrink at one end": (
        lambda widths, keep: keep**2 * _count(widths)
    ),
    "inputs and outputs shrink, too; only hidden units go": (
        lambda widths, keep: _count([int(keep * n) for n in widths])
    ),
    "the biases are missing: one for each unit that stays": (
        lambda widths, keep: _count(_shrink(widths, keep), 0)
    ),
    "the biases of the whole model were counted": (
        lambda widths, keep: _count(_shrink(widths, keep), 0) + sum(widths[1:])
    ),
    "that is the whole model; what does keep do?": lambda widths, keep: _count(widths),
    "that keeps a fraction of a unit: round down": (
        lambda widths, keep: _count([widths[0], *(keep * n for n in widths[1:-1]), widths[-1]])
    ),
}


@check()
def parameters_left(answer: Answer) -> str:
    """Check ``answer(widths, keep)``, the number of parameters of a perceptron.

    The perceptron has biases, and its hidden layers keep a share of their units.
    """
    draw = random_generator()
    cases = [((64, 120, 40, 10), 0.25), ((64, 120, 40, 10), 1.0), ((20, 31, 5), 0.5)]
    cases += [
        ((30, *map(int, draw.integers(8, 60, depth)), 7), float(draw.choice([0.25, 0.5, 0.75])))
        for depth in (1, 2, 3)
    ]
    cases = named_cases(("widths", "keep"), cases)

    def right(widths: Sequence[int], keep: float) -> float:
        return _count(_shrink(widths, keep))

    return compare(answer, right, cases, PARAMETERS_LEFT_SLIPS, exact=True)


def _cover(masks: Tensor, n: Tensor) -> Tensor:
    """Return the number of examples of the clients that have each parameter."""
    return n @ masks


def _overlap_mean(w: Tensor, delta: Tensor, masks: Tensor, n: Tensor) -> Tensor:
    return w + n @ delta / _cover(masks, n).clamp(min=1)


OVERLAP_MEAN_SLIPS = {
    "clients without a parameter vote against it: divide by the examples of those that have it": (
        lambda w, delta, masks, n: w + n @ delta / n.sum()
    ),
    "clients have different numbers of examples: weigh them by n": (
        lambda w, delta, masks, n: w + delta.sum(0) / masks.sum(0).clamp(min=1)
    ),
    "that is the mean update; add it to w": (
        lambda w, delta, masks, n: _overlap_mean(w, delta, masks, n) - w
    ),
    "a parameter that no client has must stay as it was, and there you divide 0 by 0": (
        lambda w, delta, masks, n: w + n @ delta / _cover(masks, n)
    ),
    "a parameter that no client has became 0: it must stay as it was": (
        lambda w, delta, masks, n: _overlap_mean(w, delta, masks, n) * (_cover(masks, n) > 0)
    ),
    "updates are differences: the server adds their mean": (
        lambda w, delta, masks, n: 2 * w - _overlap_mean(w, delta, masks, n)
    ),
}


@check()
def overlap_mean(answer: Answer) -> str:
    """Check ``answer(w [d], delta [m, d], masks [m, d], n [m]) -> [d]``, a mean over submodels."""
    draw = random_generator()
    cases = []
    for clients in (3, 3, 4):
        masks = draw.integers(0, 2, (clients, 5))
        masks[:, 0] = 1  # all clients have the first parameter
        masks[0, 1], masks[1:, 1] = 1, 0  # one client has the second
        masks[:, 2] = 0  # no client has the third
        delta, w = masks * draw.normal(size=(clients, 5)).round(2), draw.normal(size=5).round(2)
        sizes = draw.permutation(clients) * 2.0 + 1
        cases.append(tuple(map(torch.from_numpy, (w, delta, masks.astype(float), sizes))))
    cases = named_cases(("w", "delta", "masks", "n"), cases)
    return compare(answer, _overlap_mean, cases, OVERLAP_MEAN_SLIPS)
