"""Checks of notebook 04, Communication budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import TRIES, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.results import WrongAnswer
from fedlab.lab.course.trial import check


def _entropy(p: float, log: Callable = np.log2) -> float:
    return -p * log(p) - (1 - p) * log(1 - p)


BITS_PER_PLACE_SLIPS = {
    "that is H(p), the cost of every place: divide by p, only taken places count": _entropy,
    "that is in nats; take logarithms to the base 2": lambda p: _entropy(p, np.log) / p,
    "that is -log2(p), the bits of a taken place alone; the free places have to be encoded, too": (
        lambda p: -np.log2(p)
    ),
    "the sign is lost: entropy is minus the sum of p log p": lambda p: -_entropy(p) / p,
    "there are p d taken places and d in all: divide by p, do not multiply": (
        lambda p: _entropy(p) * p
    ),
}


@check()
def bits_per_place(answer: Answer) -> str:
    """Check ``answer(p)``, the fewest bits per taken place if a share p of all places is taken."""
    shares = [0.02, 0.5, *random_generator().uniform(0.01, 0.9, TRIES).round(3)]
    cases = [{"p": float(p)} for p in shares]
    return compare(answer, lambda p: _entropy(p) / p, cases, BITS_PER_PLACE_SLIPS)


def _size(v: Tensor) -> Tensor:
    return v.abs().mean()


def _sent(delta: Tensor, e: Tensor) -> Tensor:
    return _size(delta + e) * (delta + e).sign()


SENT_SLIPS = {
    "the memory is not sent: compress the sum of update and memory": (
        lambda delta, e: _size(delta) * delta.sign()
    ),
    "the size is missing: the sign times the mean size of the sum": (
        lambda delta, e: (delta + e).sign()
    ),
    "that is the largest size; take the mean": (
        lambda delta, e: (delta + e).abs().max() * (delta + e).sign()
    ),
    "the mean size is that of the update; take that of the sum": (
        lambda delta, e: _size(delta) * (delta + e).sign()
    ),
    "the mean is of the numbers with their signs; take that of their sizes": (
        lambda delta, e: (delta + e).mean() * (delta + e).sign()
    ),
    "that is the sum itself: only signs and one size travel": lambda delta, e: delta + e,
}

MEMORY_SLIPS = {
    "the memory is the sum minus what was sent; yours is the update minus what was sent": (
        lambda delta, e: delta - _sent(delta, e)
    ),
    "the memory grows by the whole sum: subtract what was sent": lambda delta, e: delta + e,
    "the memory has the wrong sign: it is the sum minus what was sent": (
        lambda delta, e: _sent(delta, e) - delta - e
    ),
    "the memory is never written": lambda delta, e: e,
}


def _part(k: int) -> Callable[[Any], Any]:
    """Return a function that takes result ``k`` of the pair that an answer returned."""

    def choose(pair: Any) -> Any:
        is_sequence = isinstance(pair, tuple | list) or (
            isinstance(pair, np.ndarray | torch.Tensor) and pair.ndim > 0
        )
        if not is_sequence or len(pair) != 2:
            raise WrongAnswer(
                "two results are asked for, `return sent, e`: what is sent, and the new memory"
            )
        return pair[k]

    return choose


def _differs(verb: str) -> Callable[[np.ndarray, np.ndarray], str]:
    return lambda value, wanted: (
        f"it {verb} {value.round(3).tolist()} where {wanted.round(3).tolist()} is asked for"
    )


@check()
def sign_round(answer: Answer) -> str:
    """Check ``answer(delta [d], e [d]) -> (sent [d], e [d])``, EF-signSGD of one client."""
    draw = random_generator()
    rows = [torch.tensor([[1.0, -2.0, 0.5, 4.0], [-3.0, 0.0, 1.0, 0.5]])]
    rows += [
        torch.from_numpy(draw.normal(size=(2, d)).round(2).astype(np.float32)) for d in (3, 5, 6)
    ]
    cases = [{"delta": delta, "e": e} for delta, e in rows]

    def memory(delta: Tensor, e: Tensor) -> Tensor:
        return delta + e - _sent(delta, e)

    sends, remembers = _differs("sends"), _differs("remembers")
    return compare(answer, _sent, cases, SENT_SLIPS, differs=sends, part=_part(0)) or compare(
        answer, memory, cases, MEMORY_SLIPS, differs=remembers, part=_part(1)
    )
