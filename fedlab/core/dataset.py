"""The examples of all clients, and the client that holds each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FederatedDataset:
    """Examples, split over clients.

    A client may be empty: it can be drawn into a cohort, and its weight is 0.

    Attributes:
        x: Every training example once, ``[n, ...]``.
        y: Labels, ``[n]``.
        parts: Numbers of the examples of each client.
        test: Examples and labels ``(x, y)`` that no client trains on.
        name: Name for titles.
        classes: Names of the classes.
        test_parts: Numbers of the test examples of each client, if they belong to clients.  A
            client with test examples only never trains.

    Example:
        >>> x, y = torch.randn(4, 2), torch.tensor([0, 1, 1, 1])
        >>> parts = [np.array([0, 1]), np.array([2, 3]), np.array([], dtype=int)]
        >>> data = FederatedDataset(x, y, parts, (x, y), classes=("cat", "dog"))
        >>> data.sizes
        array([2, 2, 0])
        >>> data.counts().tolist()
        [[1, 1], [0, 2], [0, 0]]
    """

    x: Tensor
    y: Tensor
    parts: Sequence[np.ndarray]
    test: tuple[Tensor, Tensor]
    name: str = ""
    classes: tuple[str, ...] = ()
    test_parts: Sequence[np.ndarray] | None = None

    def __repr__(self) -> str:
        if not isinstance(self.x, Tensor) or not isinstance(self.test, tuple):
            return f"<FederatedDataset {self.name!r}, whose x and test are no tensors>"
        n = self.sizes.tolist()
        return (
            f"<FederatedDataset {self.name!r}: {len(self.y)} examples of shape "
            f"{list(self.x.shape[1:])}, {self.num_clients} clients with {min(n, default=0)} to "
            f"{max(n, default=0)} of them, and {len(self.test[1])} to test>"
        )

    @property
    def num_clients(self) -> int:
        """Return the number of clients, N."""
        return len(self.parts)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Return the number of examples of each client, ``[N]``."""
        return np.array([len(part) for part in self.parts])

    def double(self) -> FederatedDataset:
        """Return the examples in double precision, in which a model then also trains."""
        return replace(self, x=self.x.double(), test=(self.test[0].double(), self.test[1]))

    def to(self, device: torch.device) -> FederatedDataset:
        """Return the examples on a device; itself if it lies there already."""
        if self.x.device == device:
            return self
        x, y = self.test
        return replace(
            self, x=self.x.to(device), y=self.y.to(device), test=(x.to(device), y.to(device))
        )

    def counts(self) -> np.ndarray:
        """Return the number of examples of each client and class, ``[N, classes]``."""
        y = self.y.numpy(force=True)
        return np.stack([np.bincount(y[part], minlength=len(self.classes)) for part in self.parts])
