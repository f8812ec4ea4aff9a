"""Checks of notebook 02, Data that differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedlab.data import classes_per_client, dirichlet, dirichlet_equal_sizes, load
from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import TRIES, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.results import WrongAnswer, shorten
from fedlab.lab.course.trial import check
from fedlab.study import label_skew


def _entropy(counts: np.ndarray, log: Callable = np.log) -> float:
    p = counts[counts > 0] / counts.sum()
    return -(p * log(p)).sum()


def _with_zeros(counts: np.ndarray) -> float:
    p = counts / counts.sum()
    return np.exp(-(p * np.log(p)).sum())


EFFECTIVE_CLASSES_SLIPS = {
    "a missing class gives 0 log 0, which counts as 0: leave such classes out": _with_zeros,
    "that is the entropy in nats; take exp of it": _entropy,
    "that is the entropy in bits; take 2 to its power, or exp of nats": (
        lambda counts: _entropy(counts, np.log2)
    ),
    "that is exp of bits: take exp of nats, or 2 to the power of bits": (
        lambda counts: np.exp(_entropy(counts, np.log2))
    ),
    "the sign of the entropy is lost: it is minus the sum of p log p": (
        lambda counts: np.exp(-_entropy(counts))
    ),
    "that counts every class, however few examples it has": lambda counts: (counts > 0).sum(),
    "that is 1 / sum of p squared, another measure of diversity; take exp of the entropy": (
        lambda counts: counts.sum() ** 2 / (counts**2).sum()
    ),
}


@check()
def effective_classes(answer: Answer) -> str:
    """Check ``answer(counts [classes])``, exp of the entropy of the shares."""
    draw = random_generator()
    cases = [np.array([6, 2, 2, 0]), np.array([5, 5]), np.array([7, 0, 0])]
    cases += [draw.permutation([0, *draw.integers(1, 30, 5)]) for _ in range(TRIES)]
    cases = [{"counts": case} for case in cases]
    return compare(answer, lambda counts: np.exp(_entropy(counts)), cases, EFFECTIVE_CLASSES_SLIPS)


@check("fedlab")
def three_classes(answer: Answer) -> str:
    """Check ``answer() -> {split: number}``, giving clients 3 effective classes on average."""
    splits = {
        "dirichlet": dirichlet,
        "dirichlet_equal_sizes": dirichlet_equal_sizes,
        "classes_per_client": classes_per_client,
    }
    chosen = answer()
    if not isinstance(chosen, dict):
        kind = shorten(type(chosen).__name__)
        raise WrongAnswer(
            f"it gives a result of type {kind}, and a dict with one number per split is asked for"
        )
    missing = splits.keys() - chosen.keys()
    if missing:
        return f"there is no number for {', '.join(sorted(missing))}"
    words = []
    for name, split in splits.items():
        number = answer.numbers(chosen[name], ()).item()
        try:
            drawn = [load("digits", 50, split(chosen[name]), seed) for seed in range(3)]
        except (TypeError, ValueError) as error:
            return f"{name}({shorten(repr(chosen[name]))}) is refused: {shorten(error)}"
        classes = np.mean([label_skew(data)["effective_classes"].mean() for data in drawn])
        if abs(classes - 3) >= 0.25:
            remedy = "larger" if classes < 3 else "smaller"
            words.append(f"{name}({number:g}) gives {classes:.2f} classes: take a {remedy} number")
    return "; ".join(words)
