"""Your own examples and labels as the data of clients."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from fedlab.core import FederatedDataset
from fedlab.core.validate import check_test_pair
from fedlab.data.arrays import Arrays, Owners, check_set, divide, validate_arrays
from fedlab.data.convert import (
    check_columns,
    check_index,
    to_examples,
    to_labels,
    to_owners,
    warn_of_channels,
)
from fedlab.data.holdout import hold_out, hold_out_each
from fedlab.data.partition import Split


def federate(
    x,
    y,
    *,
    clients: int | None = None,
    split: Split | None = None,
    owner: Sequence | None = None,
    test: float | tuple = 0.2,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    name: str = "",
) -> FederatedDataset:
    """Check your own examples and labels, and divide them over clients.

    Examples: real numbers, booleans, sparse matrices and every number of a frame become float32
    features (``.double()`` gives double). Whole numbers of arrays, tensors and lists stay whole,
    int64, for models that look tokens up; use ``x.astype(float)`` for features. uint8 stays uint8:
    a batch becomes real numbers of the same values (0 to 255) when a model reads it. The dataset
    shares no memory with ``x`` and ``y``.

    Labels: texts, booleans, categories, whole numbers from 0 or from 1, and reals 0.0, 1.0, ...
    without a gap are classes. All other numbers are targets of a regression, and with
    ``classes=()`` all numbers are.

    An Experiment takes a function of the seed: ``functools.partial(federate, x, y)``.

    Args:
        x: Examples ``[n, ...]``: array, tensor, list, DataFrame of numbers, sparse matrix, list of
            pictures.
        y: Labels ``[n]``: array, tensor, list, Series, frame of one column; numbers or texts.
        clients: The number of clients (default 10). With ``owner`` the default is one client per
            owner; if fewer, owners are merged.
        split: The division over clients (default ``iid()``).
        owner: The owner of each example ``[n]``, by name or number, in place of a split. Client i
            is the i-th owner in sorted order.
        test: The share that is held out, always the same one, stratified by label. Or the test set
            itself, as a pair ``(x, y)``. With ``owner`` the share is drawn at random from each
            owner's examples, and ``test_parts`` holds their owners; the test set is then a triple
            ``(x, y, owner)``. An owner of test examples only is a client that never trains, unless
            ``clients`` is given. A log line names such owners.
        classes: The names of the classes by number; of texts, their order; empty for a regression.
        seed: The seed of the split.
        name: The name of the data, for tables and reports.

    Returns:
        The dataset.

    Raises:
        ValueError: If an argument does not fit; the message is one line and names the remedy.

    Example:
        >>> x, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "yes", "no", "yes"]
        >>> data = federate(x, y, clients=2, test=0.5)
        >>> data.classes, data.sizes.tolist()
        (('no', 'yes'), [1, 1])
        >>> federate(x, y, owner=["ann", "ann", "bob", "bob"], test=0.5).num_clients
        2
    """
    check_index(x=x, y=y, owner=owner)
    test_owner = None
    is_share = isinstance(test, Real)
    if not is_share:
        if owner is not None and isinstance(test, tuple | list) and len(test) == 3:
            *test, test_owner = test
        check_test_pair(test)
        check_columns(x, test[0])
        check_index(**{"test[0]": test[0], "test[1]": test[1]})
    examples = [to_examples(x), *([] if is_share else [to_examples(test[0], "test[0]")])]
    warn_of_channels(examples[0])
    _check_lengths(examples[0], y)
    labels, names = to_labels([y] if is_share else [y, test[1]], classes)
    x, y = examples[0], labels[0]
    check_set("training", x, y)
    if owner is not None:
        if split is not None:
            raise ValueError(
                "split must be None beside owner (the owner of an example is its client). "
                "Try split=None, or owner=None"
            )
        owner = to_owners(owner, len(y))
    if is_share:
        x, y, test_pair, owners = _hold_out(x, y, owner, test)
    else:
        test_pair, owners = (examples[1].clone(), labels[1].clone()), None
        x, y = x.clone(), y.clone()
        if owner is not None:
            known = test_owner is not None
            owners = owner, to_owners(test_owner, len(test_pair[1])) if known else None
    data = validate_arrays(Arrays(x, y, test_pair, names, name or ""))
    return divide(data, clients, split, seed, owners)


def _hold_out(
    x: Tensor, y: Tensor, owner: np.ndarray | None, share: float
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Owners | None]:
    """Divide examples, labels and owners into a training set and a test set."""
    if owner is None:
        held_out = hold_out(y.numpy(), share)
        return x[~held_out], y[~held_out], (x[held_out], y[held_out]), None
    mask = hold_out_each(owner, None, share)
    held_out = torch.from_numpy(mask)
    test_pair = x[held_out], y[held_out]
    return x[~held_out], y[~held_out], test_pair, (owner[~mask], owner[mask])


def _check_lengths(x: Tensor, y) -> None:
    """Raise ValueError if there are more or fewer labels than examples."""
    is_list = hasattr(y, "__len__") and not isinstance(y, str) and getattr(y, "ndim", 1)
    if is_list and np.ndim(x) and len(x) != len(y):
        raise ValueError(
            f"{len(x)} training examples and {len(y)} labels must be equally many, and at least "
            "one. Try one label per example"
        )
