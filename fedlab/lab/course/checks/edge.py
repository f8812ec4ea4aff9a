"""Checks of notebook 10, Edges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import TRIES, named_cases, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.trial import check


def _fill_diagonal(weights: np.ndarray) -> np.ndarray:
    """Set the diagonal so that each row sums to 1."""
    return weights + np.diag(1 - weights.sum(1))


def _pair_weights(links: np.ndarray, larger: Callable = np.maximum) -> np.ndarray:
    return links / (1 + larger.outer(links.sum(1), links.sum(1)))


METROPOLIS_SLIPS = {
    "the diagonal is missing: each row has to sum to 1": _pair_weights,
    "the 1 is missing: a client counts itself beside its neighbours": (
        lambda links: _fill_diagonal(links / np.maximum.outer(links.sum(1), links.sum(1)))
    ),
    "that takes the smaller degree of the two": (
        lambda links: _fill_diagonal(_pair_weights(links, np.minimum))
    ),
    "each row is divided by its own degree, and so is not symmetric": (
        lambda links: (links + np.eye(len(links))) / (1 + links.sum(1))[:, None]
    ),
}


@check()
def metropolis(answer: Answer) -> str:
    """Check ``answer(adjacency [N, N]) -> [N, N]``, the Metropolis-Hastings weights of a graph."""

    def differs(value: np.ndarray, wanted: np.ndarray) -> str:
        row = int(np.abs(value - wanted).max(1).argmax())
        result, target = value[row].round(3).tolist(), wanted[row].round(3).tolist()
        return f"row {row} is {result} where {target} is asked for"

    draw = random_generator()
    cases = [np.array([[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])]
    for clients in (4, 5, 6):
        star = np.triu(draw.integers(0, 2, (clients, clients)), 1)
        star[0, 1:] = 1  # connected, and its degrees differ
        star[1, 2] = star[clients - 2, clients - 1] = 0
        cases.append(star + star.T)
    cases = [{"adjacency": case} for case in cases]

    def right(links: np.ndarray) -> np.ndarray:
        return _fill_diagonal(_pair_weights(links))

    return compare(answer, right, cases, METROPOLIS_SLIPS, differs=differs)


def _times(flops, sizes, device, server, rate, computing=1, last=0) -> list[float]:
    """Return the seconds of every cut, from no layer on the device to all of them.

    With ``computing=0`` or ``last=1`` it makes a slip: it leaves computing out, or sends the last
    layer's output.
    """
    layers = len(flops)
    sent = [*sizes[:layers], last * sizes[layers]]
    return [
        computing * (sum(flops[:k]) / device + sum(flops[k:]) / server) + sent[k] / rate
        for k in range(layers + 1)
    ]


BEST_CUT_SLIPS = {
    "it forgets the case that nothing runs on the device": (
        lambda *case: 1 + int(np.argmin(_times(*case)[1:]))
    ),
    "it forgets the case that everything runs on the device": (
        lambda *case: int(np.argmin(_times(*case)[:-1]))
    ),
    "with all layers on the device nothing is sent, not even the output of the last one": (
        lambda *case: int(np.argmin(_times(*case, last=1)))
    ),
    "it counts only the time of sending, and not that of computing": (
        lambda *case: int(np.argmin(_times(*case, computing=0)))
    ),
    "that is the shortest time; how many layers are on the device then?": (
        lambda *case: min(_times(*case))
    ),
}


def _is_clear(case: tuple) -> bool:
    """Return whether the best cut is faster than the second best by more than 5 %."""
    first, second = sorted(_times(*case))[:2]
    return second > 1.05 * first


@check()
def best_cut(answer: Answer) -> str:
    """Check ``answer(flops, handed, device_speed, server_speed, rate) -> layers on the device``.

    ``flops`` has shape ``[L]`` and ``handed`` has shape ``[L + 1]``.
    """
    draw = random_generator()
    flops = [100.0, 400.0, 300.0]
    cases = [
        (flops, [80.0, 20.0, 60.0, 4.0], 100.0, 1e9, 10.0),  # 1 layer: 1 + 2 s
        (flops, [50.0, 40.0, 30.0, 900.0], 1000.0, 1000.0, 1.0),  # all, nothing is sent: 0.8 s
        (flops, [80.0, 200.0, 600.0, 4.0], 100.0, 1e9, 1000.0),  # none: 0.08 s
        (flops, [5.0, 3.0, 1.0, 0.5], 100.0, 100.0, 1.0),
    ]
    while len(cases) < 4 + 2 * TRIES:
        layers = 3 + len(cases) % 3
        work, sizes = draw.uniform(50, 500, layers).round(), draw.uniform(1, 90, layers + 1).round()
        server, rate = float(draw.choice([200.0, 1e5])), float(draw.choice([3.0, 30.0]))
        case = (work.tolist(), sizes.tolist(), 100.0, server, rate)
        cases += [case] * _is_clear(case)
    cases = named_cases(("flops", "handed", "device_speed", "server_speed", "rate"), cases)
    return compare(
        answer, lambda *case: int(np.argmin(_times(*case))), cases, BEST_CUT_SLIPS, exact=True
    )
