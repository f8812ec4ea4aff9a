"""Counts, means and deviations of numbers per client, and of all clients together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Moments of columns of numbers, missing values left out.

    Attributes:
        count: The number of values, ``[..., columns]``.
        mean: Their mean.
        squares: Their summed squared deviations from the mean.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @property
    def deviation(self) -> np.ndarray:
        """The standard deviation (divided by the count); 1 if the values do not differ."""
        deviation = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(deviation > 0, deviation, 1.0)


def moments(x: np.ndarray, client: np.ndarray, num_clients: int) -> Moments:
    """Return the moments of each client's values, ``[N, columns]``.

    Args:
        x: Values ``[n, columns]``; NaN is a missing value.
        client: The client of each row ``[n]``; -1 for rows of no client.
        num_clients: The number N of clients.

    Example:
        >>> x = np.array([[1.0], [3.0], [np.nan], [5.0]])
        >>> each = moments(x, np.array([0, 0, 1, 1]), num_clients=2)
        >>> each.count.tolist(), each.mean.tolist()
        ([[2.0], [1.0]], [[2.0], [5.0]])
        >>> pooled(each).mean.tolist()
        [3.0]
    """
    count, mean, squares = (np.zeros((num_clients, x.shape[1])) for _ in range(3))
    for i in range(num_clients):
        rows = x[client == i]
        present = ~np.isnan(rows)
        count[i] = present.sum(0)
        mean[i] = np.where(present, rows, 0).sum(0) / np.maximum(count[i], 1)
        squares[i] = (np.where(present, rows - mean[i], 0) ** 2).sum(0)
    return Moments(count, mean, squares)


def pooled(each: Moments) -> Moments:
    """Return the moments ``[columns]`` of all clients' values, from those of each client.

    Chan et al. 1983: no difference of large sums, so that columns far from 0 lose no digits.
    """
    count = each.count.sum(0)
    mean = (each.count * each.mean).sum(0) / np.maximum(count, 1)
    return Moments(count, mean, (each.squares + each.count * (each.mean - mean) ** 2).sum(0))
