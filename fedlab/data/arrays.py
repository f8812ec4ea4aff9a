"""Data sets as tensors, before they are divided over clients, and the division itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fedlab.core import FederatedDataset, generator
from fedlab.core.validate import (
    as_parts,
    check_examples,
    check_function,
    check_parts,
    check_same_format,
)
from fedlab.data.convert import to_examples, to_labels
from fedlab.data.partition import Split, class_numbers, iid, natural

Owners = tuple[np.ndarray, np.ndarray | None]  # of the training and of the test examples


class Arrays(NamedTuple):
    """A data set before it is divided over clients.

    Attributes:
        x: Training examples ``[n, ...]``.
        y: Training labels ``[n]``.
        test: The test examples and their labels.
        classes: The names of the classes by number; empty for a regression.
        name: The name of the data, for tables and reports.
    """

    x: Tensor
    y: Tensor
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    name: str


def to_arrays(x, y, test: tuple, classes: tuple[str, ...], name: str) -> Arrays:
    """Convert examples and labels into tensors, and check that they fit each other.

    Args:
        x: Training examples ``[n, ...]``, of any kind that ``to_examples`` takes.
        y: Training labels ``[n]``, of any kind that ``to_labels`` takes.
        test: The pair of test examples and test labels.
        classes: The names of the classes by number; empty for a regression.
        name: The name of the data.

    Returns:
        The data set as tensors.
    """
    (y, test_y), _ = to_labels([y, test[1]], classes)
    x, test_x = to_examples(x), to_examples(test[0], "test[0]")
    return validate_arrays(Arrays(x, y, (test_x, test_y), classes, name))


def validate_arrays(data: Arrays) -> Arrays:
    """Return the data unchanged; raise ValueError unless examples and labels fit each other."""
    check_set("training", data.x, data.y, data.classes)
    check_set("test", *data.test, data.classes)
    check_same_format(data.x, data.y, data.test)
    return data


def check_set(kind: str, x: Tensor, y: Tensor, classes: tuple[str, ...] = ()) -> None:
    """Raise ValueError unless the examples and labels of one set are usable.

    Args:
        kind: "training" or "test", for errors.
        x: Examples ``[n, ...]``.
        y: Labels ``[n]``.
        classes: The names of the classes; empty if they are not known, or for a regression.
    """
    check_examples(kind, x, y)
    shape = list(x.shape)
    if x.dim() < 2:
        raise ValueError(
            f"{kind} examples of shape {shape} must be [n, ...] (of one number each, [n, 1]). "
            "Try x[:, None]"
        )
    if x[0].numel() == 0:
        raise ValueError(
            f"{kind} examples of shape {shape} must have a feature. Try x with one column or more"
        )
    if not y.is_floating_point():
        class_numbers(y.numpy(), len(classes) or None)


def divide(
    data: Arrays,
    clients: int | None,
    split: Split | None,
    seed: int,
    owners: Owners | None = None,
) -> FederatedDataset:
    """Divide a data set over clients, by a split or by the owners of its examples.

    Args:
        data: The data set as tensors.
        clients: The number of clients; None for 10, or for one per owner.
        split: The division of the training examples; None for ``iid()``.
        seed: The seed of the split.
        owners: The owners of the training examples ``[n]`` and of the test examples (or None),
            in place of a split.

    Returns:
        The dataset; with owners of test examples it has ``test_parts``.
    """
    parts, test_parts = split_examples(data.y.numpy(), clients, split, seed, owners)
    return FederatedDataset(data.x, data.y, parts, data.test, data.name, data.classes, test_parts)


def split_examples(
    y: np.ndarray,
    clients: int | None,
    split: Split | None,
    seed: int,
    owners: Owners | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Return the numbers of each client's training examples and test examples.

    Args:
        y: Training labels ``[n]``.
        clients: The number of clients; None for 10, or for one per owner, including owners of
            test examples only.
        split: The division of the training examples; None for ``iid()``.
        seed: The seed of the split.
        owners: The owners of the training and of the test examples, in place of a split.

    Returns:
        One array of numbers per client, of training examples and of test examples. The second is
        None if the owners of the test examples are not known.

    Raises:
        ValueError: If an argument is no seed, no split or no number of clients.
    """
    if not isinstance(seed, Real) or seed != int(seed):
        raise ValueError(f"seed={seed!r} must be a whole number. Try seed=0")
    if owners is not None:
        split = natural(owners[0])
    one_per_owner = clients is None
    if one_per_owner:
        clients = 10 if owners is None else len(np.unique(owners[0]))
    split = iid() if split is None else split
    if isinstance(split, Integral):
        raise ValueError(
            f"split={split!r} must be a split, not a number (the seed comes after it). "
            f"Try split=iid(), or seed={split!r} by name"
        )
    check_function("Split", "dirichlet(0.1)", split=split)
    parts = as_parts(split(y, clients, generator(seed, "split")))
    check_parts(parts, len(y))
    if owners is None or owners[1] is None:
        return parts, None
    return parts_by_owner(parts, owners[0], owners[1], one_per_owner)


def parts_by_owner(
    parts: Sequence[np.ndarray], owner: np.ndarray, test_owner: np.ndarray, one_per_owner: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Give each client the test examples of its owners.

    Owners without a training example are named in a log line.

    Args:
        parts: The numbers of each client's training examples.
        owner: The owner of each training example ``[n]``.
        test_owner: The owner of each test example ``[n_test]``.
        one_per_owner: Whether each client is one owner. Owners without a training example then
            become clients with test examples only, in the order of the names. Otherwise no client
            gets their test examples.

    Returns:
        The numbers of each client's training examples and test examples, ascending.

    Raises:
        ValueError: If no owner of a test example has a training example.
    """
    names, number = np.unique(owner, return_inverse=True)
    new = np.setdiff1d(test_owner, names)
    if len(new) and not np.isin(test_owner, names).any():
        raise ValueError(
            f"owners of test examples must also have training examples (the test set has "
            f"{new.tolist()[0]!r}, and the training set has {names.tolist()[0]!r}). Try names of "
            "one type and spelling in both, or a test set without owners, such as test=(x, y)"
        )
    if len(new):
        _warn_of_test_owners(new, len(names), one_per_owner)
    client_of_owner = np.full(len(names) + len(new), -1)
    for i, part in enumerate(parts):
        client_of_owner[number[part]] = i
    order = np.argsort(np.append(names, new), kind="stable")
    if one_per_owner:
        parts = [*parts, *[np.empty(0, np.int64)] * len(new)]
        client_of_owner, parts = np.argsort(order), [parts[i] for i in order]
    position = np.searchsorted(np.append(names, new)[order], test_owner)
    client = client_of_owner[order][position]
    ends = np.cumsum(np.bincount(client + 1, minlength=len(parts) + 1))
    return parts, np.split(np.argsort(client, kind="stable"), ends[:-1])[1:]


def _warn_of_test_owners(new: np.ndarray, num_owners: int, one_per_owner: bool) -> None:
    """Log the names of owners that have test examples only."""
    listed = ", ".join(map(repr, new[:5].tolist())) + (", ..." if len(new) > 5 else "")
    role, remedy = "no clients", "federate without clients= to have them"
    if one_per_owner:
        role = "clients that never train"
        remedy = f"sample=with_examples(uniform({min(10, num_owners)})) if they are held out"
    logging.getLogger(__name__).warning(
        f"owners with test examples only ({listed}) are {role}. "
        f"Try the training owners' names if these are misspelled, or {remedy}"
    )
