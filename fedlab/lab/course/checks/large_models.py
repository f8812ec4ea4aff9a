"""Checks of notebook 06, Large models."""

from __future__ import annotations

from collections.abc import Callable
from math import isclose
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import named_cases, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.results import WrongAnswer, shorten
from fedlab.lab.course.trial import check

ADAPTER_BYTES_SLIPS = {
    "that counts numbers; each has 2 bytes": lambda shapes, rank: rank * sum(map(sum, shapes)),
    "a number has 2 bytes here, and not 4": lambda shapes, rank: 4 * rank * sum(map(sum, shapes)),
    "those are the layers themselves; an adapter has two thin matrices": (
        lambda shapes, rank: 2 * sum(i * o for i, o in shapes)
    ),
    "that is the first layer only: add up all of them": (
        lambda shapes, rank: 2 * rank * sum(shapes[0])
    ),
    "that is the last layer only: add up all of them": (
        lambda shapes, rank: 2 * rank * sum(shapes[-1])
    ),
    "B is missing: it has a column for each rank, too": (
        lambda shapes, rank: 2 * rank * sum(i for i, _ in shapes)
    ),
    "A is missing: it has a row for each rank, too": (
        lambda shapes, rank: 2 * rank * sum(o for _, o in shapes)
    ),
    "that is rank 1; both matrices grow with the rank": lambda shapes, rank: (
        2 * sum(map(sum, shapes))
    ),
}


@check()
def adapter_bytes(answer: Answer) -> str:
    """Check ``answer(shapes [(in, out), ...], rank) -> bytes``, the size of LoRA on these layers.

    Numbers have 2 bytes.
    """
    draw = random_generator()
    cases = [([(30, 70), (50, 20)], 3), ([(4096, 4096)], 8)]
    for layers in (2, 3, 4):
        inputs = draw.integers(9, 60, layers)
        extra = draw.integers(1, 40, layers)
        shapes = [(int(n), int(n + more)) for n, more in zip(inputs, extra, strict=True)]
        cases.append((shapes, int(draw.integers(2, 9))))
    cases = named_cases(("shapes", "rank"), cases)
    return compare(
        answer,
        lambda shapes, rank: 2 * rank * sum(map(sum, shapes)),
        cases,
        ADAPTER_BYTES_SLIPS,
        exact=True,
    )


def _right_weight(a: Tensor, b: Tensor, p: Tensor, w: Tensor) -> Tensor:
    return w + torch.einsum("m,mor,mri->oi", p, b, a)


def _mean_of_factors(a: Tensor, b: Tensor, p: Tensor, w: Tensor) -> Tensor:
    return w + torch.tensordot(p, b, 1) @ torch.tensordot(p, a, 1)


def _transposed_residual(a: Tensor, b: Tensor, p: Tensor, w: Tensor) -> Tensor:
    lacking = _right_weight(a, b, p, w) - _mean_of_factors(a, b, p, w)
    return _mean_of_factors(a, b, p, w) + lacking.T


# Aggregations that are wrong, each by what an audit that accepts it has overlooked.
WRONG_AGGREGATIONS: dict[str, Callable] = {
    "the mean of A times the mean of B: are there several clients, each with its own factors?": (
        _mean_of_factors
    ),
    "a residual that is added transposed: your layer is square and symmetric, or an error counts "
    "as right": _transposed_residual,
    "clients of equal weight: give them different weights p": (
        lambda a, b, p, w: _right_weight(a, b, torch.ones_like(p) / len(p), w)
    ),
    "a server that forgets the layer's own weight: let w not be 0": (
        lambda a, b, p, w: _right_weight(a, b, p, 0 * w)
    ),
}


def _anonymous(aggregate: Callable) -> Callable:
    """Hide the name of a function, so that an answer cannot judge by it."""
    return lambda a, b, p, w: aggregate(a, b, p, w)


def _shifted(shift: float, place: Any) -> Callable:
    """Return an aggregation whose weight is wrong by ``shift`` at ``place``."""

    def aggregate(a: Tensor, b: Tensor, p: Tensor, w: Tensor) -> Tensor:
        weight = _right_weight(a, b, p, w)
        weight[place] += shift
        return weight

    return aggregate


@check("fedlab.lab.course.checks")
def audit(answer: Answer) -> str:
    """Check ``answer(aggregate) -> error``, the largest error of an aggregation of LoRA factors.

    The answer calls ``aggregate(a, b, p, w) -> [out, in]`` on a case of its choice.
    """

    def error_of(aggregate: Callable) -> float:
        try:
            return answer.numbers(answer(_anonymous(aggregate)), ()).item()
        except WrongAnswer as wrong:
            # The shapes did not fit, and the learner sees the error.
            if isinstance(wrong.error, RuntimeError):
                return np.inf
            raise

    error = error_of(_right_weight)
    if not error < 1e-3:
        return f"it finds an error of {error:.3g} in an aggregation that is right"
    for words, aggregate in WRONG_AGGREGATIONS.items():
        error = error_of(aggregate)
        if not error > 1e-2 and not (error < -1e-2):
            return f"it accepts {words}"
    size = float(random_generator().uniform(1, 2))
    for shift, place in ((-size, ...), (size, ...), (-size, (0, 0)), (size, (-1, -1))):
        error = error_of(_shifted(shift, place))
        if not isclose(error, size, rel_tol=1e-3):
            if not error > 0:
                return "an error may have either sign: take absolute values before the largest"
            numbers = "every number" if place is ... else "one number"
            return (
                f"if {numbers} is off by {shift:.3g} it gives {error:.3g}: give the largest "
                "absolute error"
            )
    return ""


def _frozen_layer(when: str) -> torch.nn.Module:
    """Return a layer from 6 numbers to 4 with LoRA, whose A was frozen before or after wrapping.

    The library makes a new A when it wraps the layer: frozen before that, A trains all the same.
    The parameter ``spare`` may train and is part of no output, so it stays.
    """
    from peft import LoraConfig, inject_adapter_in_model

    def freeze() -> None:
        for name, p in layer.named_parameters():
            p.requires_grad_(p.requires_grad and "lora_A" not in name)

    layer = torch.nn.Sequential(torch.nn.Linear(6, 4))
    if when == "before":
        freeze()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), layer)
    if when == "after":
        freeze()
    layer.register_parameter("spare", torch.nn.Parameter(torch.ones(4)))
    return layer


def _names_in(answer: Answer, result: Any) -> set[str]:
    """Return the names in an answer's result; raise ``WrongAnswer`` if it holds none."""

    def as_set(result: Any) -> set:
        try:
            return set(result)
        except TypeError:
            return {None}

    names = answer.run(as_set, result)
    if isinstance(result, str) or not all(isinstance(name, str) for name in names):
        kind = shorten(type(result).__name__)
        raise WrongAnswer(
            f"it gives a result of type {kind}, and a list of names is asked for, each a string"
        )
    return names


@check(loads=["peft"])
def moved(answer: Answer) -> str:
    """Check ``answer(layer) -> names``, the parameters of a layer that training changes.

    The layer takes 6 numbers and gives 4.
    """
    a, b = (f"0.lora_{factor}.default.weight" for factor in "AB")
    for when, right in (("after", {b}), ("before", {a, b})):
        layer = _frozen_layer(when)
        every = {name for name, _ in layer.named_parameters()}
        trainable = {name for name, p in layer.named_parameters() if p.requires_grad}
        names = _names_in(answer, answer(layer))
        if names == right:
            continue
        slips = {
            "that is every parameter: compare each with its value before training": every,
            "those are the ones that stay": every - right,
            "`requires_grad` says what may train, and `spare` is in no output: compare each "
            "parameter with its value before training": trainable,
            "A is frozen in this layer and stays; a name alone does not say what trains": {a, b},
            "it misses A: while B is zero no gradient reaches A, so take a second step": {b},
        }
        named, wanted = (shorten(", ".join(sorted(group))) or "nothing" for group in (names, right))
        difference = f"if A was frozen {when} wrapping, it names {named}; {wanted} is asked for"
        return next((words for words, slip in slips.items() if names == slip), difference)
    return ""
