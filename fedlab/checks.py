"""What values must be before anything is trained with them; where they are not, a ValueError says so in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor


def is_number(value: Any) -> bool:
    """Whether it is one real number, and finite."""
    return isinstance(value, Real) and -math.inf < value < math.inf


def check_whole(least: int, **named: Any) -> None:
    for name, value in named.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name}={value!r}: it is a whole number of at least {least}")


def check_function(kind: str, example: str, **named: Any) -> None:
    """For what a call makes: a function, and not the one that makes it, such as ``uniform`` for ``uniform(10)``."""
    for name, value in named.items():
        if not callable(value) or getattr(value, "__annotations__", {}).get("return") == kind:
            told = getattr(value, "__name__", repr(value))
            raise ValueError(f"{name}={told}: it is what a call gives, such as {example}")


def check_examples(what: str, x: Tensor, y: Tensor, parts: Sequence[np.ndarray] | None = None) -> None:
    """For the "training" or "test" examples: tensors of one length and of finite numbers, and who holds which, if given."""
    for name, values in {"x": x, "y": y}.items():
        if not isinstance(values, Tensor) or values.dim() == 0:
            told = "single number" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{what} {name} is a {told}: it is a tensor [n, ...]; federate takes arrays")
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"{len(x)} {what} examples and {len(y)} labels: there must be equally many, and at least one")
    if parts is not None:
        check_parts(parts, len(y))
    for word, values in {"features": x, "a label": y}.items():
        if not values.is_floating_point() or values.sum().isfinite():  # a sum is not where one of its terms is not
            continue
        bad = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero().flatten().tolist()
        if bad:
            holder = next((f", which client {i} holds," for i, part in enumerate(parts or ()) if bad[0] in part), "")
            told = f"{what} example {bad[0]}{holder} has {word} not finite ({len(bad)} of {len(x)} have)"
            place = (values[bad[0]].isfinite() == 0).nonzero()[0].tolist()
            value = f"{'x' if values is x else 'y'}{[bad[0], *place]} is {values[bad[0]][tuple(place)]:g}"
            raise ValueError(f"{told}: fill them in or drop it; {value}")


def check_parts(parts: Sequence[np.ndarray], n: int) -> None:
    """For who holds which of ``n`` examples: every example has one holder, or none."""
    for i, part in enumerate(parts):
        if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype not in (np.int32, np.int64):
            told = f"of shape {part.shape} and type {part.dtype}" if isinstance(part, np.ndarray) else type(part).__name__
            mask = isinstance(part, np.ndarray) and part.dtype == bool
            remedy = "np.flatnonzero(mask) makes one of a mask" if mask else "np.array(..., dtype=int) makes one"
            raise ValueError(f"parts[{i}] is {told}: it is an array [n_i] of numbers; {remedy}")
    held = np.concatenate([np.empty(0, int), *parts])
    if len(held) == 0:
        raise ValueError(f"none of the {len(parts)} clients holds an example: there is nothing to train on; fill parts")
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    outside = np.flatnonzero((held < 0) | (held >= n))
    if len(outside):
        told = f"client {owner[outside[0]]} holds example {held[outside[0]]}, and there are {n}"
        raise ValueError(f"{told}: parts are numbers from 0 to {n - 1}")
    times = np.bincount(held)
    if times.max() > 1:
        one, other = owner[held == times.argmax()][:2]
        who = f"client {one} twice" if one == other else f"the clients {one} and {other}"
        raise ValueError(f"example {times.argmax()} is held by {who}: parts are disjoint; for two alike, have it in x twice")


def as_parts(parts: Sequence) -> list[np.ndarray]:
    """Return who holds what as arrays of int64: of lists, too, and of other whole numbers; the rest as it is."""
    arrays = [np.asarray(part) if isinstance(part, list | tuple | range) else part for part in parts]
    return [
        part.astype(np.int64) if isinstance(part, np.ndarray) and (part.dtype.kind in "iu" or part.size == 0) else part
        for part in arrays
    ]


def check_pair(test: Any) -> None:
    if not isinstance(test, tuple | list) or len(test) != 2:
        told = f"{type(test).__name__}{f' of {len(test)}' if isinstance(test, tuple | list) else ''}"
        raise ValueError(f"test is a {told}: it is a pair (x, y); federate also takes a share to hold out, such as 0.2")


def check_alike(x: Tensor, y: Tensor, test: tuple[Tensor, Tensor]) -> None:
    """For a test set: the shapes and types of the training set."""
    for what, one, other in (("examples", x, test[0]), ("labels", y, test[1])):
        shapes, kinds = (list(one.shape[1:]), list(other.shape[1:])), (one.dtype, other.dtype)
        for word, (mine, theirs) in {"have the shape": shapes, "are of type": kinds}.items():
            if mine != theirs:
                raise ValueError(f"training {what} {word} {mine} and test ones {theirs}: make them alike")
