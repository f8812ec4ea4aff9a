"""What values must be before anything is trained with them; where they are not, a ValueError says so in one line."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor


def is_number(value: Any) -> bool:
    """Whether it is one real number, and finite; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and -math.inf < value < math.inf


def check_whole(least: int, **named: Any) -> None:
    for name, value in named.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r}: it is a whole number of at least {least}")


def check_function(kind: str, example: str, **named: Any) -> None:
    """For what a call makes: a function, and not the one that makes it, such as ``uniform`` for ``uniform(10)``."""
    for name, value in named.items():
        if not callable(value) or getattr(value, "__annotations__", {}).get("return") == kind:
            told = getattr(value, "__name__", repr(value))
            raise ValueError(f"{name}={told}: it is what a call gives, such as {example}")


def check_named_functions(what: str, functions: Any, taken: Collection[str]) -> None:
    """Raise ValueError unless ``functions`` is a dict of functions by names that are not ``taken``."""
    if not isinstance(functions, Mapping):
        raise ValueError(
            f"{what}={functions!r} must be a dict of name: function. Try {what}={{}} where there are none"
        )
    for name, function in functions.items():
        if not isinstance(name, str) or name in taken:
            raise ValueError(
                f"{what} must not be named {name!r} (the tables of a result have such a column). Try another name"
            )
        if not callable(function):
            raise ValueError(
                f"{what}[{name!r}]={function!r} must be a function of outputs and labels. Try {{'accuracy': accuracy}}"
            )


def takes_cohort(aggregate: Callable) -> bool:
    """Return whether an aggregate has a parameter ``cohort``; raise ValueError for one that takes other arguments."""
    try:
        signature = inspect.signature(aggregate)
    except (TypeError, ValueError):  # a function in C tells nothing of itself
        return False
    named = "cohort" in signature.parameters
    try:
        signature.bind(None, None, **({"cohort": None} if named else {}))
    except TypeError as error:
        name = getattr(aggregate, "__name__", repr(aggregate))
        raise ValueError(
            f"aggregate={name} must take (delta, weights) or (delta, weights, cohort), and it takes {signature}. "
            "Try functools.partial for the other arguments"
        ) from error
    return named


def check_seeds(seeds: int | Iterable[int]) -> list[int]:
    """Return the seeds ``0 .. seeds - 1``, or those listed; raise ValueError for others."""
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        listed = list(range(int(seeds)))
    elif isinstance(seeds, Iterable) and not isinstance(seeds, str | bytes | Mapping):
        listed = list(seeds)
    else:
        raise ValueError(
            f"seeds={seeds!r} must be how many there are, or a list of them. Try seeds=5, or seeds=[3, 7]"
        )
    for seed in listed:
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
            raise ValueError(
                f"seeds={seeds!r} must be whole numbers, and one is {seed!r}. Try seeds=5, or [3, 7]"
            )
    listed = [int(seed) for seed in listed]
    twice = [seed for k, seed in enumerate(listed) if seed in listed[:k]]
    if twice:
        raise ValueError(
            f"seeds={listed} must differ, and {twice[0]} is listed twice (they give equal runs). Try seeds=5"
        )
    if not listed:
        raise ValueError(
            f"seeds={seeds!r} must be at least one (there is nothing to run). Try seeds=1"
        )
    return listed


def check_examples(
    what: str, x: Tensor, y: Tensor, parts: Sequence[np.ndarray] | None = None
) -> None:
    """For the "training" or "test" examples: tensors of one length and of finite numbers, and who holds which, if given."""
    for name, values in {"x": x, "y": y}.items():
        if not isinstance(values, Tensor) or values.dim() == 0:
            told = "single number" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{what} {name} is a {told}: it is a tensor [n, ...]; federate takes arrays"
            )
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"{len(x)} {what} examples and {len(y)} labels: there must be equally many, and at least one"
        )
    if parts is not None:
        check_parts(parts, len(y))
    for word, values in {"features": x, "a label": y}.items():
        if (
            not values.is_floating_point() or values.sum().isfinite()
        ):  # a sum is not where one of its terms is not
            continue
        bad = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero().flatten().tolist()
        if bad:
            holder = next(
                (
                    f", which client {i} holds,"
                    for i, part in enumerate(parts or ())
                    if bad[0] in part
                ),
                "",
            )
            told = f"{what} example {bad[0]}{holder} has {word} not finite ({len(bad)} of {len(x)} have)"
            place = (values[bad[0]].isfinite() == 0).nonzero()[0].tolist()
            value = f"{'x' if values is x else 'y'}{[bad[0], *place]} is {values[bad[0]][tuple(place)]:g}"
            raise ValueError(f"{told}: fill them in or drop it; {value}")


def check_parts(parts: Sequence[np.ndarray], n: int, name: str = "parts") -> None:
    """For who holds which of ``n`` examples: every example has one holder, or none."""
    for i, part in enumerate(parts):
        if (
            not isinstance(part, np.ndarray)
            or part.ndim != 1
            or part.dtype not in (np.int32, np.int64)
        ):
            told = (
                f"of shape {part.shape} and type {part.dtype}"
                if isinstance(part, np.ndarray)
                else type(part).__name__
            )
            mask = isinstance(part, np.ndarray) and part.dtype == bool
            remedy = (
                "np.flatnonzero(mask) makes one of a mask"
                if mask
                else "np.array(..., dtype=int) makes one"
            )
            raise ValueError(f"{name}[{i}] is {told}: it is an array [n_i] of numbers; {remedy}")
    held = np.concatenate([np.empty(0, int), *parts])
    if len(held) == 0:
        purpose = "train on" if name == "parts" else "test on"
        raise ValueError(
            f"none of the {len(parts)} clients holds an example: there is nothing to {purpose}; fill {name}"
        )
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    outside = np.flatnonzero((held < 0) | (held >= n))
    if len(outside):
        told = f"client {owner[outside[0]]} holds example {held[outside[0]]}, and there are {n}"
        raise ValueError(f"{told}: {name} are numbers from 0 to {n - 1}")
    times = np.bincount(held)
    if times.max() > 1:
        one, other = owner[held == times.argmax()][:2]
        who = f"client {one} twice" if one == other else f"the clients {one} and {other}"
        raise ValueError(
            f"example {times.argmax()} is held by {who}: {name} are disjoint; for two alike, have x twice"
        )


def check_test_parts(parts: Sequence[np.ndarray], num_clients: int, n: int) -> None:
    """For whose each of ``n`` test examples is: one entry per client, which may be empty."""
    if len(parts) != num_clients:
        raise ValueError(
            f"test_parts has {len(parts)} entries and must have one per client ({num_clients}). Try an empty array"
        )
    check_parts(parts, n, "test_parts")


def as_parts(parts: Sequence) -> list[np.ndarray]:
    """Return who holds what as arrays of int64: of lists, too, and of other whole numbers; the rest as it is."""
    arrays = [
        np.asarray(part) if isinstance(part, list | tuple | range) else part for part in parts
    ]
    return [
        part.astype(np.int64)
        if isinstance(part, np.ndarray) and (part.dtype.kind in "iu" or part.size == 0)
        else part
        for part in arrays
    ]


def check_test_pair(test: Any) -> None:
    if not isinstance(test, tuple | list) or len(test) != 2:
        told = (
            f"{type(test).__name__}{f' of {len(test)}' if isinstance(test, tuple | list) else ''}"
        )
        raise ValueError(
            f"test is a {told}: it is a pair (x, y); federate also takes a share to hold out, such as 0.2"
        )


def check_same_format(x: Tensor, y: Tensor, test: tuple[Tensor, Tensor]) -> None:
    """For a test set: the shapes and types of the training set."""
    for what, one, other in (("examples", x, test[0]), ("labels", y, test[1])):
        shapes, kinds = (list(one.shape[1:]), list(other.shape[1:])), (one.dtype, other.dtype)
        for word, (mine, theirs) in {"have the shape": shapes, "are of type": kinds}.items():
            if mine != theirs:
                raise ValueError(
                    f"training {what} {word} {mine} and test ones {theirs}: make them alike"
                )
