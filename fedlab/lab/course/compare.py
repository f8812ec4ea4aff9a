"""Compare the results of an answer with the right ones, and recognise common mistakes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy import allclose, array_equal  # bound at import: an answer may replace them in NumPy
from torch import equal

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.results import SHORT, WrongAnswer, numbers_of, value_in_words

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # an answer may compute in float32

Case = Mapping[str, Any]  # the arguments of a call, by name and in order


def compare(
    answer: Answer,
    right: Callable,
    cases: Iterable[Case],
    slips: Mapping[str, Callable] | None = None,
    *,
    exact: bool = False,
    differs: Callable[[np.ndarray, np.ndarray], str] | None = None,
    part: Callable[[Any], Any] = lambda result: result,
) -> str:
    """Return the mistake in an answer in words, or nothing if it is right.

    Args:
        answer: The learner's function.
        right: The right function.
        cases: The arguments of each call, by name and in order.
        slips: Wrong functions of the same arguments, by the words that name their mistake.
        exact: Results are counts, in which no digit may differ.
        differs: Describes how a wrong result differs from the right one, if not by their values.
        part: Takes the part of the answer's result that is compared. Default: all of it.

    Returns:
        The words of the first slip that gives the answer's result in every case, else a case in
        which the answer is wrong.

    Raises:
        WrongAnswer: If the answer fails, returns no numbers, or changes its arguments.

    Example:
        >>> slips = {"that is the area": lambda a, b: a * b}
        >>> cases = [{"a": 3.0, "b": 4.0}, {"a": 5.0, "b": 12.0}]
        >>> compare(Answer(lambda a, b: a * b), np.hypot, cases, slips)
        'that is the area'
        >>> compare(Answer(lambda a, b: a + b), np.hypot, cases, slips)
        'for a=3, b=4 it gives 7, and 5 is asked for'
    """
    cases = list(cases)
    rights, values = [], []
    for case in cases:
        rights.append(numbers_of(right(*copy.deepcopy(list(case.values())))))
        values.append(_result(answer, case, part, rights[-1].shape))
    close = partial(allclose, rtol=1e-9, atol=0) if exact else partial(allclose, **CLOSE)
    bad = [
        k
        for k, (value, wanted) in enumerate(zip(values, rights, strict=True))
        if not close(value, wanted)
    ]
    if not bad:
        return ""
    words = _matching_slip(slips or {}, cases, values, close)
    if words:
        return words
    value, wanted = values[bad[0]], rights[bad[0]]
    if differs:
        return differs(value, wanted)
    setting = ", ".join(f"{name}={value_in_words(item)}" for name, item in cases[bad[0]].items())
    if value.size > SHORT:
        distance = np.abs(value - wanted).max()
        return f"for {setting} its largest difference from what is asked for is {distance:.3g}"
    result, target = value_in_words(value, exact), value_in_words(wanted, exact)
    return f"for {setting} it gives {result}, and {target} is asked for"


def _result(
    answer: Answer, case: Case, part: Callable[[Any], Any], shape: tuple[int, ...]
) -> np.ndarray:
    """Return the answer's result for a case; raise ``WrongAnswer`` if it changes an argument."""
    arguments = copy.deepcopy(dict(case))
    value = answer.numbers(answer.run(part, answer(*arguments.values())), shape)
    for name, argument in arguments.items():
        if not _same(argument, case[name]):
            raise WrongAnswer(
                f"it changes its argument `{name}`, which others still need: compute a new one"
            )
    return value


def _matching_slip(
    slips: Mapping[str, Callable], cases: list[Case], values: list[np.ndarray], close: Callable
) -> str:
    """Return the words of the first slip that gives the same values in all cases."""
    with np.errstate(all="ignore"):
        for words, slip in slips.items():
            results = (numbers_of(slip(*copy.deepcopy(list(case.values())))) for case in cases)
            if all(
                value.shape == result.shape and close(value, result, equal_nan=True)
                for value, result in zip(values, results, strict=True)
            ):
                return words
    return ""


def _same(a: Any, b: Any) -> bool:
    """Return whether an argument is unchanged."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and equal(a, b)
    if isinstance(a, np.ndarray):
        return array_equal(a, b)
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if dataclasses.is_dataclass(a):
        return all(
            _same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)
        )
    return not isinstance(a, int | float) or a == b
