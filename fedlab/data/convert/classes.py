"""Numbering of classes: of names, and of numbers that may be classes or targets."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from fedlab.data.convert.cells import is_boolean
from fedlab.data.partition import class_numbers

MANY_CLASSES = 100  # more classes must have two examples each, or the labels are rather targets


def is_whole(array: np.ndarray) -> bool:
    """Return whether all numbers of an array are finite and whole."""
    return array.dtype.kind in "iu" or bool(
        np.isfinite(array).all() and (array == np.round(array)).all()
    )


def check_flat(array: np.ndarray, name: str) -> None:
    """Raise ValueError for labels in rows, unless they are rows of real numbers."""
    if array.ndim == 1:
        return
    problem = (
        f"{name}: labels must be whole class numbers [n] (they have the shape {array.shape} and "
        f"type {array.dtype}"
    )
    is_binary = array.ndim == 2 and array.shape[1] > 1 and ((array == 0) | (array == 1)).all()
    if is_binary and (array.sum(1) == 1).all():
        raise ValueError(
            f"{problem}: one-hot rows). Try {name}.argmax(1), or classes=() for targets"
        )
    if array.dtype.kind in "iu" or is_boolean(array):
        raise ValueError(f"{problem}). Try classes=() if each example has several targets")
    if array.dtype.kind == "O":
        raise ValueError(f"{problem}). Try one label per example")


def are_class_numbers(arrays: list[np.ndarray], name: str) -> bool:
    """Return whether whole labels are class numbers, if no classes are named.

    Raises:
        ValueError: If the labels could be classes or numbers to predict.

    Example:
        >>> are_class_numbers([np.array([0.0, 1.0, 2.0])], "y")
        True
        >>> are_class_numbers([np.array([18.0, 35.0, 71.0])], "y")
        False
    """
    values = np.unique(np.concatenate([array.ravel() for array in arrays]))
    real = any(array.dtype.kind == "f" for array in arrays)
    if len(values) == 0 or (real and any(array.ndim > 1 for array in arrays)):
        return not real
    low, high = values[0], values[-1]
    has_gap = real and high - low + 1 != len(values)
    if real and (low not in (0, 1) or has_gap or len(values) > MANY_CLASSES):
        return False
    remedy = (
        "Try classes=() if they are numbers to predict, or "
        f"{name} = np.unique({name}, return_inverse=True)[1] if they are classes"
    )
    if real and low == 1:
        raise ValueError(
            f"labels {low:g} to {high:g} of {name} must be declared (they may be classes or "
            f"numbers). {remedy}"
        )
    if low > 1 or (low == 1 and high != len(values)):
        raise ValueError(
            f"{name} must hold class numbers from 0, and its labels are {len(values):,} whole "
            f"numbers from {low} to {high}. {remedy}"
        )
    count, n = int(high) + 1, sum(map(len, arrays))
    if count > MANY_CLASSES and (count > n / 2 or len(values) < count / 2):
        raise ValueError(
            f"{name} must hold class numbers, and labels up to {high} would make {count:,} classes "
            f"for {n:,} examples. {remedy}"
        )
    return True


def number_names(
    columns: list[tuple[np.ndarray, list | None]], names: tuple[str, ...] | None, name: str
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return class numbers of labels that are texts, booleans or categories, and their names.

    Args:
        columns: Labels ``[n]`` of each set, with the order of their categories or None.
        names: The names of the classes by number; None to take those of the labels.
        name: The argument's name, for errors.

    Raises:
        ValueError: If a label is none of the named classes.
    """
    arrays, orders = zip(*columns, strict=True)
    if names == ():
        raise ValueError(
            f"{name} must hold numbers to predict with classes=(), and its labels are texts, such "
            f"as {arrays[0].flat[0]!r}. Try classes=None"
        )
    for array in arrays:
        check_flat(array, name)
    if names is None:
        order = _order_of_names(arrays, orders)
        number, names = {value: k for k, value in enumerate(order)}, tuple(map(str, order))
        keys = [array.tolist() for array in arrays]
    else:
        number = {value: k for k, value in enumerate(names)}
        keys = [list(map(str, array)) for array in arrays]
    for key in keys:
        unknown = next((k for k, value in enumerate(key) if value not in number), None)
        if unknown is not None:
            raise ValueError(
                f"{name}[{unknown}]={key[unknown]!r} must be one of the classes "
                f"{', '.join(names)}. Try classes=None, or its name among classes"
            )
    if len(names) == 1:
        _warn_of_one_class(names[0])
    numbers = [torch.tensor([number[value] for value in key], dtype=torch.int64) for key in keys]
    return numbers, names


def _order_of_names(arrays: tuple[np.ndarray, ...], orders: tuple[list | None, ...]) -> list:
    """Return the distinct labels in the order of their categories, or sorted."""
    present = {value for array in arrays for value in array.tolist()}
    order = [value for categories in orders for value in categories or () if value in present]
    order = order or sorted(present)
    return list(dict.fromkeys([*order, *sorted(present - set(order), key=str)]))


def number_values(
    arrays: list[np.ndarray], names: tuple[str, ...] | None, name: str
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return whole labels as class numbers from 0, and the names of the classes.

    Args:
        arrays: Whole labels ``[n]`` of each set.
        names: The names of the classes by number; None to make them of the numbers.
        name: The argument's name, for errors.

    Raises:
        ValueError: If a label is below 0, or beyond the named classes.
    """
    for array in arrays:
        whole = array if array.dtype.kind in "iu" else array.astype(np.int64)
        class_numbers(whole, len(names) if names else None)
    numbers = [np.array(array, dtype=np.int64, order="C") for array in arrays]
    present = np.unique(np.concatenate(numbers))
    log = logging.getLogger(__name__)
    if names is None and len(present) and present[0] == 1:
        log.warning(
            f"labels are 1 to {present[-1]} and none is 0: they name {len(present)} classes, "
            "renumbered from 0. Try classes=() if they are numbers to predict"
        )
        names, numbers = tuple(map(str, present)), [array - 1 for array in numbers]
    elif names is None and len(present) and len(present) <= present[-1]:
        log.warning(_empty_classes(present, len(arrays), name))
    elif names is not None and len(present) and present[0] > 0:
        log.warning(
            f"no example is of class 0 ({names[0]!r}): labels are numbered from 0. "
            f"Try {name} - 1 if yours begin with 1"
        )
    if names is None:
        names = tuple(map(str, range(1 + int(present.max(initial=-1)))))
    if len(present) == 1:
        _warn_of_one_class(str(present[0]))
    return [torch.from_numpy(array) for array in numbers], names


def _empty_classes(present: np.ndarray, num_sets: int, name: str) -> str:
    """Return the warning for class numbers without an example."""
    empty = np.setdiff1d(np.arange(present[-1]), present).tolist()
    listed = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
    remedy = f"classes=range({present[-1] + 1}) if these classes exist"
    if num_sets == 1:  # training and test labels would be renumbered differently
        remedy = f"{name} = np.unique({name}, return_inverse=True)[1], or {remedy}"
    return (
        f"{name} has labels from 0 to {present[-1]}, but no example of {len(empty)} of these "
        f"classes ({listed}). Try {remedy}"
    )


def _warn_of_one_class(label: str) -> None:
    logging.getLogger(__name__).warning(
        f"all labels are {label}: with one class there is nothing to learn"
    )
