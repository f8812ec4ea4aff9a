"""Rows of a table as features, by statistics of the clients' training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedlab.data.columns import (
    find_levels,
    is_category,
    level_numbers,
    no_value,
    owner_column,
    read_levels,
    read_numbers,
)
from fedlab.data.convert import to_owners
from fedlab.data.moments import Moments, moments, pooled

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Encoding:
    """Encoding of a table's rows as features, fitted on the training rows of its clients.

    ``transform`` encodes new rows; ``with_client`` adds a client that never trained, by its rows.

    Attributes:
        order: The table's columns of features.
        levels: The levels of each categorical column.
        categories: "onehot", "dummies" or "codes" (see ``tabular``).
        missing: "federated", "local" or "refuse".
        scale: "federated", "local" or "none".
        flagged: Columns with a feature that is 1 where they are missing.
        min_values: The number of values from which on a client's own statistics are used.
        clients: The client's number of each owner.
        client_moments: The moments of each client's numbers, ``[N, numbers]``.
        level_counts: The number of each client's rows by level, ``[N, levels]``, of each
            categorical column.
    """

    order: tuple[str, ...]
    levels: Mapping[str, tuple]
    categories: str
    missing: str
    scale: str
    flagged: tuple[str, ...]
    min_values: int
    clients: Mapping[Any, int]
    client_moments: Moments = field(repr=False)
    level_counts: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns of numbers."""
        return tuple(column for column in self.order if column not in self.levels)

    @property
    def columns(self) -> tuple[str, ...]:
        """The name of each feature, ``[d]``."""
        names = []
        for column in self.order:
            if column not in self.levels or self.categories == "codes":
                names.append(str(column))
            else:
                names += [f"{column}={level}" for level in self._encoded_levels(column)]
        return (*names, *(f"{column} missing" for column in self.flagged))

    @property
    def federated(self) -> Moments:
        """The moments of all training rows together, ``[numbers]``, from those of the clients."""
        return pooled(self.client_moments)

    def transform(self, frame: pd.DataFrame, owner: Any = None) -> Tensor:
        """Encode the rows of a table that has the columns of the first one.

        Args:
            frame: The rows; columns that the encoding does not know are left out.
            owner: The owner of each row: a column's name, or one name per row. None uses federated
                statistics only.

        Returns:
            Features ``[n, d]`` of float32.

        Raises:
            ValueError: If a column is missing, or if an owner is unknown whose local statistics are
                needed.
        """
        if owner is None:
            return self.features(frame, np.full(len(frame), -1))
        names = to_owners(owner_column(frame, owner), len(frame)).tolist()
        unknown = next((name for name in names if name not in self.clients), None)
        if unknown is not None and "local" in (self.missing, self.scale):
            raise ValueError(
                f"owner={unknown!r} must be one of the {len(self.clients)} owners whose statistics "
                f"are known. Try encoding.with_client({unknown!r}, rows), or owner=None for "
                "federated ones"
            )
        clients = [self.clients.get(name, -1) for name in names]
        return self.features(frame, np.array(clients, dtype=int))

    def with_client(self, owner: Any, frame: pd.DataFrame) -> Encoding:
        """Return the encoding with one more client, whose local statistics are those of its rows.

        The federated statistics are then those of all clients, including the new one.

        Args:
            owner: The new client's name.
            frame: Its rows.

        Raises:
            ValueError: If the owner is a client already.
        """
        if owner in self.clients:
            raise ValueError(
                f"owner={owner!r} must be new (its statistics are known). Try another name"
            )
        numbers, codes = self.read(frame)
        client = np.zeros(len(frame), dtype=int)
        new = moments(numbers, client, 1)
        counts = {}
        for k, (column, levels) in enumerate(self.levels.items()):
            count = count_levels(codes[:, k], client, 1, len(levels))
            counts[column] = np.concatenate([self.level_counts[column], count])
        pairs = zip(self.client_moments, new, strict=True)
        return replace(
            self,
            clients={**self.clients, owner: len(self.client_moments.count)},
            client_moments=Moments(*map(np.concatenate, pairs)),
            level_counts=counts,
        )

    def read(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers and the levels of a table's rows.

        Returns:
            The numbers ``[n, numbers]``, NaN where missing; and the number of each row's level
            ``[n, categorical columns]``, -1 where it is missing or was in no training row.

        Raises:
            ValueError: If the table lacks a column.
        """
        absent = [column for column in self.order if column not in frame.columns]
        if absent:
            raise ValueError(
                f"the table must have the column {absent[0]!r} (the encoding reads it). "
                f"Try a table with the columns {list(self.order)}"
            )
        numbers = np.empty((len(frame), len(self.numbers)))
        for k, column in enumerate(self.numbers):
            numbers[:, k] = read_numbers(frame, column)
        codes = np.full((len(frame), len(self.levels)), -1)
        for k, (column, levels) in enumerate(self.levels.items()):
            codes[:, k] = level_numbers(read_levels(frame, column), levels)
        return numbers, codes

    def features(self, frame: pd.DataFrame, client: np.ndarray) -> Tensor:
        """Return the features ``[n, d]`` of rows of ``client [n]``, -1 for no client."""
        numbers, codes = self.read(frame)
        absent = self.missing_masks(numbers, codes)
        if self.missing == "refuse":
            self._refuse(frame, absent)
        fill = self._by_row(self.missing, "mean")[client]
        numbers = np.where(np.isnan(numbers), fill, numbers)
        if self.scale != "none":
            numbers = numbers - self._by_row(self.scale, "mean")[client]
            numbers = numbers / self._by_row(self.scale, "deviation")[client]
        value = dict(zip(self.numbers, numbers.T, strict=True))
        code = dict(zip(self.levels, codes.T, strict=True))
        features = []
        for column in self.order:
            if column in value:
                features.append(value[column])
            else:
                filled = np.where(code[column] < 0, self._modes(column)[client], code[column])
                features += self._category_features(column, filled)
        features += [absent[column] for column in self.flagged]
        return torch.from_numpy(np.stack(features, 1).astype(np.float32))

    def missing_masks(self, numbers: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Return a mask ``[n]`` per column that is True where its value is missing."""
        masks = dict(zip(self.numbers, np.isnan(numbers).T, strict=True))
        return masks | dict(zip(self.levels, (codes < 0).T, strict=True))

    def _encoded_levels(self, column: str) -> tuple:
        """Return the levels that have a feature."""
        return self.levels[column][1:] if self.categories == "dummies" else self.levels[column]

    def _category_features(self, column: str, code: np.ndarray) -> list[np.ndarray]:
        """Return the features of a categorical column, from the number of each row's level."""
        if self.categories == "codes":
            return [code]
        first = len(self.levels[column]) - len(self._encoded_levels(column))
        return [code == level for level in range(first, len(self.levels[column]))]

    def _by_row(self, choice: str, name: str) -> np.ndarray:
        """Return a moment of each client, and last the federated one: ``[N + 1, numbers]``."""
        federated = getattr(self.federated, name)
        count = self.client_moments.count
        is_local = choice == "local"
        known = count >= self.min_values if is_local else np.zeros(count.shape, bool)
        each = np.where(known, getattr(self.client_moments, name), federated)
        return np.concatenate([each, federated[None]])

    def _modes(self, column: str) -> np.ndarray:
        """Return the most frequent level of each client, and last that of all: ``[N + 1]``."""
        counts = self.level_counts[column]
        federated = counts.sum(0).argmax()
        known = (counts.sum(1) >= self.min_values) & (self.missing == "local")
        return np.append(np.where(known, counts.argmax(1), federated), federated)

    def _refuse(self, frame: pd.DataFrame, absent: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError if a value is missing."""
        for column, mask in absent.items():
            if mask.any():
                row = int(np.flatnonzero(mask)[0])
                raise ValueError(
                    f"column {column!r} must have known values, and it has "
                    f"{frame[column].iloc[row]!r} at row {row} ({mask.sum()} of {len(frame)} are "
                    "missing, or no level of a training row). Try missing='federated'"
                )


def fit_encoding(
    encoding: Encoding,
    frame: pd.DataFrame,
    categorical: set[str],
    client: np.ndarray,
    num_clients: int,
    flags: bool,
) -> Encoding:
    """Return the encoding with the levels and statistics of the clients' training rows.

    Args:
        encoding: The choices of the study, without statistics.
        frame: The training rows.
        categorical: Columns that the user names as categorical.
        client: The client of each row ``[n]``; -1 for rows of no client.
        num_clients: The number of clients.
        flags: Whether columns with missing values get a feature that says so.

    Raises:
        ValueError: If a column is no feature, or has no value in any training row.
    """
    order = encoding.order
    absent = categorical - set(order)
    if absent:
        raise ValueError(
            f"categorical={sorted(absent)[0]!r} must be a column of features. "
            f"Try one of {list(order)}"
        )
    if not order:
        raise ValueError(
            "the table must have a column beside label and owner (there is no feature). "
            "Try a table with more columns"
        )
    held = frame[client >= 0]
    categories = [column for column in order if is_category(held, column, column in categorical)]
    levels = {column: find_levels(held, column) for column in categories}
    encoding = replace(encoding, levels=levels)
    numbers, codes = encoding.read(frame)
    client_moments = moments(numbers, client, num_clients)
    for column, count in zip(encoding.numbers, client_moments.count.sum(0), strict=True):
        if not count:
            raise ValueError(no_value(column))
    counts = {
        column: count_levels(codes[:, k], client, num_clients, len(levels[column]))
        for k, column in enumerate(levels)
    }
    masks = encoding.missing_masks(numbers, codes)
    flagged = tuple(column for column in order if flags and masks[column].any())
    return replace(encoding, client_moments=client_moments, level_counts=counts, flagged=flagged)


def count_levels(
    codes: np.ndarray, client: np.ndarray, num_clients: int, num_levels: int
) -> np.ndarray:
    """Return the number of each client's rows by level, ``[N, levels]``.

    Args:
        codes: The number of each row's level ``[n]``; -1 if it is missing.
        client: The client of each row ``[n]``; -1 for rows of no client.
        num_clients: The number N of clients.
        num_levels: The number of levels.

    Example:
        >>> count_levels(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, 2).tolist()
        [[1, 1], [0, 1]]
    """
    known = (codes >= 0) & (client >= 0)
    flat = client[known] * num_levels + codes[known]
    counts = np.bincount(flat, minlength=num_clients * num_levels)
    return counts.reshape(num_clients, num_levels)
