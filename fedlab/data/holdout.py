"""Test sets held out of a data set, always the same ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fedlab.core import generator


def hold_out(groups: np.ndarray, share: float) -> Tensor:
    """Hold out a share of each group, to within one example.

    Groups of real numbers, such as targets of a regression, are not stratified: the test set is
    drawn at random. The mask depends on the groups and the share alone, not on a seed.

    Args:
        groups: The group of each example ``[n]``, such as its class.
        share: The share of examples to hold out, between 0 and 1.

    Returns:
        A mask ``[n]`` that is True for test examples.

    Raises:
        ValueError: If the share leaves the training set or the test set empty.

    Example:
        >>> hold_out(np.array([0, 0, 1, 1]), 0.5).int().tolist()
        [0, 1, 0, 1]
    """
    n = len(groups)
    if not 0 < share < 1 or not 0 < math.floor(n * share) < n:
        remedy = f"test={0.2 if n >= 5 else 0.5}" if n > 1 else "test=(x, y)"
        raise ValueError(
            f"test={share} must be a share between 0 and 1 that leaves training and test examples "
            f"(there are {n}). Try {remedy}"
        )
    order = generator(0, "test").permutation(n)
    if groups.dtype.kind != "f":  # sorted real numbers would always give the largest of five
        order = order[np.argsort(groups[order], kind="stable")]  # by group, shuffled within
    steps = np.floor(np.arange(n + 1) * share)
    held_out = torch.zeros(n, dtype=torch.bool)
    held_out[order[np.diff(steps) > 0]] = True
    return held_out


def hold_out_each(owner: np.ndarray, labels: np.ndarray | None, share: float) -> np.ndarray:
    """Hold out a share of each owner's examples, to within one.

    Every owner keeps an example to train on.

    Args:
        owner: The owner of each example ``[n]``.
        labels: Class labels ``[n]``, which are stratified within an owner; None to draw an owner's
            examples at random.
        share: The share of examples to hold out, between 0 and 1.

    Returns:
        A mask ``[n]`` that is True for test examples.

    Raises:
        ValueError: If no example is left to test on.

    Example:
        >>> hold_out_each(np.array(["ann", "ann", "bob", "bob"]), None, 0.5).astype(int).tolist()
        [0, 1, 0, 1]
    """
    _, first, number = np.unique(owner, return_index=True, return_inverse=True)
    keys = [number]
    if labels is not None:
        keys.append(np.unique(labels, return_inverse=True)[1])
    groups = np.unique(np.stack(keys, 1), axis=0, return_inverse=True)[1].reshape(-1)
    held_out = hold_out(groups, share).numpy()
    trains = np.bincount(number, ~held_out) > 0
    held_out[first[~trains]] = False
    if not held_out.any():
        raise ValueError(
            f"test={share} must leave an example to test on (every owner has one example, which "
            "trains). Try test=(x, y), or fewer owners"
        )
    return held_out
