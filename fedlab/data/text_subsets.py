"""Parts of a set of texts: a test set, so many texts per class, the largest owners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedlab.core import generator
from fedlab.data.holdout import hold_out
from fedlab.data.text import HeldOut, Texts


def with_test_set(
    name: str, texts: Sequence[str], labels: np.ndarray, owner: np.ndarray, classes: tuple[str, ...]
) -> Texts:
    """Hold out a fifth of each class, or of each owner if there are no classes.

    Args:
        name: The name of the set.
        texts: All texts.
        labels: The class of each ``[n]``.
        owner: The owner of each ``[n]``.
        classes: The names of the classes; empty if there are none.

    Returns:
        The texts, with a test set.
    """
    groups = labels if classes else np.unique(owner, return_inverse=True)[1]
    mask = hold_out(groups, 0.2).numpy()
    train, test = np.flatnonzero(~mask), np.flatnonzero(mask)
    held_out = HeldOut([texts[i] for i in test], labels[test], owner[test])
    return Texts(name, [texts[i] for i in train], labels[train], owner[train], held_out, classes)


def take_per_class(texts: Texts, per_class: int) -> Texts:
    """Return ``per_class`` texts of each class, with the set's share of test texts.

    Raises:
        ValueError: If the set has no classes, or if a class has too few texts.
    """
    if not texts.classes:
        raise ValueError(
            f"per_class={per_class} must be None ({texts.name} has no classes). Try owners=10"
        )
    num_train, num_test = len(texts.texts), len(texts.test[1])
    of_test = round(per_class * num_test / (num_test + num_train))
    of_train = per_class - of_test
    train_counts = np.bincount(texts.labels)
    test_counts = np.bincount(texts.test[1], minlength=len(texts.classes))
    if train_counts.min() < of_train or test_counts.min() < of_test:
        counts = train_counts + test_counts
        raise ValueError(
            f"per_class={per_class} must be smaller (class {texts.classes[counts.argmin()]!r} of "
            f"{texts.name} has {counts.min():,} texts). Try per_class={max(1, per_class // 2)}"
        )
    train, test = _first_of_each(texts.labels, of_train), _first_of_each(texts.test[1], of_test)
    owner = None if texts.test.owner is None else texts.test.owner[test]
    return replace(
        texts,
        name=f"{texts.name}, {per_class} of each class",
        texts=[texts.texts[i] for i in train],
        labels=texts.labels[train],
        owner=texts.owner[train],
        test=HeldOut([texts.test.texts[i] for i in test], texts.test.labels[test], owner),
    )


def _first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the numbers of ``count`` examples per class, ascending.

    The draw is always the same, and a smaller count takes a part of a larger one's examples.
    """
    order = generator(0, "texts").permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    rank = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    return np.sort(order[rank < count])


def take_largest_owners(texts: Texts, owners: int) -> Texts:
    """Return the training texts of the ``owners`` owners with the highest number of texts."""
    names, count = np.unique(texts.owner, return_counts=True)
    if owners > len(names):
        raise ValueError(
            f"owners={owners} must be at most {len(names)} ({texts.name} has no more owners). "
            f"Try owners={len(names)}"
        )
    largest = names[np.argsort(-count, kind="stable")[:owners]]
    numbers = np.flatnonzero(np.isin(texts.owner, largest))
    return replace(
        texts,
        name=f"{texts.name}, {owners} owners",
        texts=[texts.texts[i] for i in numbers],
        labels=texts.labels[numbers],
        owner=texts.owner[numbers],
    )
