"""Tables of mixed columns as the data of clients.

A study chooses the treatment of categories, missing values and scales. The encoding is
fitted on training rows only, from sums that each client can compute of its own rows: counts, means
and squared deviations of numbers, and counts of the levels of a category. Together they equal those
of the pooled rows, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from fedlab.core import FederatedDataset
from fedlab.core.validate import check_whole
from fedlab.data.arrays import Arrays, Owners, split_examples, validate_arrays
from fedlab.data.columns import check_table, is_column, owner_column
from fedlab.data.convert import to_labels, to_owners
from fedlab.data.encoding import Encoding, fit_encoding
from fedlab.data.holdout import hold_out, hold_out_each
from fedlab.data.moments import Moments
from fedlab.data.partition import Split

if TYPE_CHECKING:
    import pandas as pd

CHOICES = {
    "categories": ("onehot", "dummies", "codes"),
    "missing": ("federated", "local", "refuse"),
    "scale": ("federated", "local", "none"),
}


@dataclass(frozen=True, eq=False)
class TabularDataset(FederatedDataset):
    """Rows of a table as examples; ``encoding.columns`` names their features."""

    encoding: Encoding | None = None


def tabular(
    frame: pd.DataFrame,
    *,
    label: str,
    owner: Any = None,
    clients: int | None = None,
    split: Split | None = None,
    test: float | pd.DataFrame = 0.2,
    categorical: Sequence[str] = (),
    categories: Literal["onehot", "dummies", "codes"] = "onehot",
    missing: Literal["federated", "local", "refuse"] = "federated",
    flags: bool = False,
    scale: Literal["federated", "local", "none"] = "federated",
    min_values: int = 10,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    name: str = "",
) -> TabularDataset:
    """Encode a table by the preprocessing of the study, and divide its rows over clients.

    Columns of texts and of pandas' categories are categorical, all others are numbers. Texts such
    as ``?`` and empty ones are missing. Texts such as ``1,234`` or ``5 %`` are refused with a
    remedy. So are columns of more than 50 different texts, if over half of the rows differ.

    All statistics are fitted on training rows. Numbers are standardised by the mean and standard
    deviation (divided by n) of the values that are present; features of categories and flags stay 0
    and 1. "local" uses the statistics of a client's own training rows, for its training and its
    test rows. Test rows of no client use the federated statistics; so do columns with fewer than
    ``min_values`` values at a client.

    Args:
        frame: One row per example, with the label and perhaps the owner among its columns.
        label: The column of labels: classes of any kind, or targets (see ``federate``).
        owner: The column of owners, or one name per row; None divides the rows by ``split``.
        clients: The number of clients (default 10). With owners the default is one client per
            owner; if fewer, owners are merged.
        split: The division over clients, if there is no owner (default ``iid()``).
        test: The share of each owner's rows that is held out, stratified by class (of all rows, if
            there is no owner), or a table of test rows with the same columns. Owners of test rows
            without a training row are clients with test rows only; they are no clients if
            ``clients`` is given. A log line names them. If no owner of a test row has a training
            row, leave the owner's column out of the test table.
        categorical: Columns of numbers, or of texts of any kind, that are categories, too.
        categories: "onehot" has a feature per level, "dummies" one less, "codes" one number, the
            level's.
        missing: Fill with the mean, or the most frequent level, of all clients ("federated") or of
            the client ("local"), or "refuse" rows with missing values. A level that no training row
            has counts as missing.
        flags: Whether columns with missing values in training rows get a feature that is 1 where
            they are missing.
        scale: Standardise numbers by the statistics of all clients ("federated"), of the client
            ("local"), or not ("none").
        min_values: The number of values from which on a client's local statistics are used.
        classes: The names of the classes; empty for a regression.
        seed: The seed of the split.
        name: The name of the data.

    Returns:
        The dataset, with its ``encoding``; with owners, ``test_parts`` has each client's test rows.

    Raises:
        ValueError: If a column, label or owner is missing, or an argument is none of the choices;
            the message names the remedy.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame(
        ...     {"age": [40, 50, None, 60] * 5, "sex": list("fmfm") * 5, "ill": [0, 1, 0, 1] * 5}
        ... )
        >>> table["site"] = list("ab") * 10
        >>> data = tabular(table, label="ill", owner="site", flags=True)
        >>> data.encoding.columns, list(data.x.shape)
        (('age', 'sex=f', 'sex=m', 'age missing'), [16, 4])
        >>> data.encoding.transform(table[:1]).shape
        torch.Size([1, 4])
    """
    _check_choices(categories=categories, missing=missing, scale=scale)
    check_whole(1, min_values=min_values)
    check_table(frame, label)
    if not isinstance(test, Real):
        check_table(test, label)
    if owner is not None and split is not None:
        raise ValueError(
            "split must be None beside owner (the owner of a row is its client). "
            "Try split=None, or owner=None"
        )
    tables, y, owners, names = _train_and_test(frame, label, owner, test, classes)
    parts, test_parts = split_examples(y[0].numpy(), clients, split, seed, owners)
    client = _client_of_each(parts, len(tables[0]))
    test_client = _client_of_each(test_parts or [], len(tables[1]))
    left_out = {label, owner} if is_column(frame, owner) else {label}
    order = tuple(column for column in frame.columns if column not in left_out)
    empty = Moments(*[np.empty(0)] * 3)
    number = {}
    if owners is not None:
        number = dict(zip(owners[0].tolist(), client.tolist(), strict=True))
    choices = Encoding(order, {}, categories, missing, scale, (), min_values, number, empty, {})
    named = {categorical} if isinstance(categorical, str) else set(categorical)
    encoding = fit_encoding(choices, tables[0], named, client, len(parts), flags)
    x, x_test = encoding.features(tables[0], client), encoding.features(tables[1], test_client)
    data = validate_arrays(Arrays(x, y[0], (x_test, y[1]), names, name))
    return TabularDataset(data.x, data.y, parts, data.test, name, names, test_parts, encoding)


def _train_and_test(
    frame: pd.DataFrame,
    label: str,
    owner: Any,
    test: float | pd.DataFrame,
    classes: Sequence[str] | None,
) -> tuple[list[pd.DataFrame], list[Tensor], Owners | None, tuple[str, ...]]:
    """Return the training and test rows, their labels, their owners, and the class names."""
    owners = None if owner is None else to_owners(owner_column(frame, owner), len(frame))
    full = f"frame[{label!r}]"
    if not isinstance(test, Real):
        labels, names = to_labels([frame[label], test[label]], classes, full)
        if owners is None:
            return [frame, test], labels, None, names
        in_both = is_column(frame, owner) and is_column(test, owner)
        test_owners = to_owners(test[owner], len(test)) if in_both else None
        return [frame, test], labels, (owners, test_owners), names
    (labels,), names = to_labels([frame[label]], classes, full)
    groups = labels.numpy()
    if owners is None:
        mask = hold_out(groups, test).numpy()
        owner_pair = None
    else:
        mask = hold_out_each(owners, groups if names else None, test)
        owner_pair = owners[~mask], owners[mask]
    return [frame[~mask], frame[mask]], [labels[~mask], labels[mask]], owner_pair, names


def _client_of_each(parts: Sequence[np.ndarray], n: int) -> np.ndarray:
    """Return the client of each example, ``[n]``; -1 for examples of no client."""
    client = np.full(n, -1)
    for i, part in enumerate(parts):
        client[part] = i
    return client


def _check_choices(**arguments: str) -> None:
    for name, value in arguments.items():
        if value not in CHOICES[name]:
            choices = ", ".join(map(repr, CHOICES[name]))
            raise ValueError(
                f"{name}={value!r} must be one of {choices}. Try {name}={CHOICES[name][0]!r}"
            )
