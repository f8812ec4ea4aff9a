"""Checks of values before anything is trained with them: each raises ValueError, in one line."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor


def is_number(value: Any) -> bool:
    """Return whether a value is one finite real number; True and False are not.

    Example:
        >>> is_number(0.5), is_number(math.nan), is_number(True), is_number("0.5")
        (True, False, False, False)
    """
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and -math.inf < value < math.inf


def check_whole(minimum: int, **named: Any) -> None:
    """Raise ValueError unless the named values are whole numbers of at least ``minimum``.

    Example:
        >>> check_whole(1, rounds=0)
        Traceback (most recent call last):
        ValueError: rounds=0 must be a whole number of at least 1. Try 1
    """
    for name, value in named.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
            raise ValueError(
                f"{name}={value!r} must be a whole number of at least {minimum}. Try {minimum}"
            )


def check_function(kind: str, example: str, **named: Any) -> None:
    """Raise ValueError unless the named values are functions that a call returned.

    The common slip is the maker itself, such as ``uniform`` for ``uniform(10)``.

    Args:
        kind: Return type in the annotations of such makers, as text.
        example: A call that returns such a function, for the error.
        named: Values by the names of their arguments.

    Raises:
        ValueError: If a value is no function, or a maker.
    """
    for name, value in named.items():
        if not callable(value) or getattr(value, "__annotations__", {}).get("return") == kind:
            text = getattr(value, "__name__", repr(value))
            raise ValueError(f"{name}={text} must be the result of a call. Try {example}")


def check_named_functions(kind: str, functions: Any, taken: Collection[str]) -> None:
    """Raise ValueError unless ``functions`` is a dict of functions by names.

    Args:
        kind: Name of the argument: "metrics" or "measures".
        functions: The value to check.
        taken: Names that a function must not have.
    """
    if not isinstance(functions, Mapping):
        raise ValueError(
            f"{kind}={functions!r} must be a dict of name: function. Try {kind}={{}} for none"
        )
    for name, function in functions.items():
        if not isinstance(name, str) or name in taken:
            raise ValueError(
                f"{kind} must not be named {name!r} (the tables of a result have such a column). "
                "Try another name"
            )
        if not callable(function):
            raise ValueError(
                f"{kind}[{name!r}]={function!r} must be a function of outputs and labels. "
                "Try {'accuracy': accuracy}"
            )


def takes_cohort(aggregate: Callable) -> bool:
    """Return whether an aggregate has a parameter ``cohort``.

    Raises:
        ValueError: If it takes other arguments than ``(delta, weights)`` and ``cohort``.

    Example:
        >>> takes_cohort(lambda delta, weights: weights @ delta)
        False
        >>> takes_cohort(lambda delta, weights, cohort: weights @ delta)
        True
    """
    try:
        signature = inspect.signature(aggregate)
    except (TypeError, ValueError):  # a function in C has no signature
        return False
    has_cohort = "cohort" in signature.parameters
    try:
        signature.bind(None, None, **({"cohort": None} if has_cohort else {}))
    except TypeError as error:
        name = getattr(aggregate, "__name__", repr(aggregate))
        raise ValueError(
            f"aggregate={name} must take (delta, weights) or (delta, weights, cohort), and it "
            f"takes {signature}. Try functools.partial for the other arguments"
        ) from error
    return has_cohort


def check_seeds(seeds: int | Iterable[int]) -> list[int]:
    """Return the seeds ``0 .. seeds - 1``, or the listed ones.

    Raises:
        ValueError: If they are no whole numbers, or not different, or none.

    Example:
        >>> check_seeds(3), check_seeds([7, 9])
        ([0, 1, 2], [7, 9])
    """
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        listed = list(range(int(seeds)))
    elif isinstance(seeds, Iterable) and not isinstance(seeds, str | bytes | Mapping):
        listed = list(seeds)
    else:
        raise ValueError(
            f"seeds={seeds!r} must be how many there are, or a list of them. Try seeds=5, or "
            "seeds=[3, 7]"
        )
    for seed in listed:
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
            raise ValueError(
                f"seeds={seeds!r} must be whole numbers, and one is {seed!r}. Try seeds=5, "
                "or [3, 7]"
            )
    listed = [int(seed) for seed in listed]
    twice = [seed for k, seed in enumerate(listed) if seed in listed[:k]]
    if twice:
        raise ValueError(
            f"seeds={listed} must differ, and {twice[0]} is listed twice (they give equal runs). "
            "Try seeds=5"
        )
    if not listed:
        raise ValueError(
            f"seeds={seeds!r} must be at least one (there is nothing to run). Try seeds=1"
        )
    return listed


def check_examples(
    kind: str, x: Tensor, y: Tensor, parts: Sequence[np.ndarray] | None = None
) -> None:
    """Raise ValueError unless examples are tensors of one length and of finite numbers.

    Args:
        kind: "training" or "test".
        x: Examples, ``[n, ...]``.
        y: Labels, ``[n, ...]``.
        parts: Numbers of the examples of each client, which are then checked, too.
    """
    for name, values in {"x": x, "y": y}.items():
        if not isinstance(values, Tensor) or values.dim() == 0:
            text = "single number" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{kind} {name} is a {text} and must be a tensor [n, ...]. Try federate, which "
                "takes arrays"
            )
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"{len(x)} {kind} examples and {len(y)} labels must be equally many, and at least one. "
            "Try x[:n] and y[:n]"
        )
    if parts is not None:
        check_parts(parts, len(y))
    for name, values in {"x": x, "y": y}.items():
        # A sum is non-finite if any element is, and is cheaper to check.
        if values.is_floating_point() and not values.sum().isfinite():
            _check_finite(kind, name, values, parts or ())


def _check_finite(kind: str, name: str, values: Tensor, parts: Sequence[np.ndarray]) -> None:
    rows = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero().flatten().tolist()
    if not rows:
        return
    first = rows[0]
    holders = [f", which client {i} holds," for i, part in enumerate(parts) if first in part]
    words = "non-finite features" if name == "x" else "a non-finite label"
    place = (values[first].isfinite() == 0).nonzero()[0].tolist()
    raise ValueError(
        f"{kind} example {first}{''.join(holders[:1])} has {words} ({len(rows)} of {len(values)} "
        f"have): {name}{[first, *place]} is {values[first][tuple(place)]:g} and must be finite. "
        "Try to fill them in, or to drop it"
    )


def check_parts(parts: Sequence[np.ndarray], n: int, name: str = "parts") -> None:
    """Raise ValueError unless each of ``n`` examples has at most one client.

    Args:
        parts: Numbers of the examples of each client.
        n: Number of examples.
        name: Name of the argument: "parts" or "test_parts".
    """
    for i, part in enumerate(parts):
        _check_part(part, f"{name}[{i}]")
    numbers = np.concatenate([np.empty(0, int), *parts])
    if len(numbers) == 0:
        purpose = "train on" if name == "parts" else "test on"
        raise ValueError(
            f"none of the {len(parts)} clients holds an example, and one must (there is nothing to "
            f"{purpose}). Try other {name}"
        )
    client = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    outside = np.flatnonzero((numbers < 0) | (numbers >= n))
    if len(outside):
        raise ValueError(
            f"client {client[outside[0]]} holds example {numbers[outside[0]]}, and there are {n}: "
            f"{name} must be numbers from 0 to {n - 1}. Try np.array_split(np.arange({n}), clients)"
        )
    times = np.bincount(numbers)
    if times.max() > 1:
        first, second = client[numbers == times.argmax()][:2]
        words = f"client {first} twice" if first == second else f"the clients {first} and {second}"
        raise ValueError(
            f"example {times.argmax()} is held by {words}: {name} must be disjoint. Try a second "
            "copy in x, for two equal examples"
        )


def _check_part(part: Any, name: str) -> None:
    if not isinstance(part, np.ndarray):
        text = type(part).__name__
    elif part.ndim != 1 or part.dtype not in (np.int32, np.int64):
        text = f"of shape {part.shape} and type {part.dtype}"
    else:
        return
    is_mask = isinstance(part, np.ndarray) and part.dtype == bool
    remedy = "np.flatnonzero(mask)" if is_mask else "np.array(..., dtype=int)"
    raise ValueError(f"{name} is {text} and must be an array [n_i] of numbers. Try {remedy}")


def check_test_parts(parts: Sequence[np.ndarray], num_clients: int, n: int) -> None:
    """Raise ValueError unless test examples have one entry per client, which may be empty.

    Args:
        parts: Numbers of the test examples of each client.
        num_clients: Number of clients.
        n: Number of test examples.
    """
    if len(parts) != num_clients:
        raise ValueError(
            f"test_parts has {len(parts)} entries and must have one per client ({num_clients}). "
            "Try an empty array for a client without test examples"
        )
    check_parts(parts, n, "test_parts")


def as_parts(parts: Sequence) -> list[np.ndarray]:
    """Return lists, ranges and arrays of whole numbers as arrays of int64; others unchanged.

    Example:
        >>> as_parts([[0, 2], range(3, 5), []])
        [array([0, 2]), array([3, 4]), array([], dtype=int64)]
    """
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
    """Raise ValueError unless ``test`` is a pair ``(x, y)``."""
    if not isinstance(test, tuple | list) or len(test) != 2:
        length = f" of {len(test)}" if isinstance(test, tuple | list) else ""
        raise ValueError(
            f"test is a {type(test).__name__}{length} and must be a pair (x, y). Try a share to "
            "hold out, such as 0.2, which federate also takes"
        )


def check_same_format(x: Tensor, y: Tensor, test: tuple[Tensor, Tensor]) -> None:
    """Raise ValueError unless the test set has the shapes and types of the training set.

    Args:
        x: Training examples.
        y: Their labels.
        test: Test examples and labels.
    """
    for kind, train, held_out in (("examples", x, test[0]), ("labels", y, test[1])):
        shapes = (list(train.shape[1:]), list(held_out.shape[1:]))
        types = (train.dtype, held_out.dtype)
        for words, (first, second) in {"have the shape": shapes, "are of type": types}.items():
            if first != second:
                raise ValueError(
                    f"training {kind} {words} {first} and test ones {second}: they must be equal. "
                    "Try the same preprocessing for both"
                )
