"""The examples of all clients, and which client holds which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FederatedDataset:
    """Examples, and which client holds which.

    ``x [n, ...]`` and ``y [n]`` hold every training example once; ``parts[i]`` numbers those of client ``i``.
    A client may be empty: it can be drawn into a cohort, and never weighs.  ``test`` is ``(x, y)`` that no client trains
    on.  ``test_parts[i]`` numbers the test examples of client ``i``, where they are known to be anyone's.  A client may
    have none, or test examples only: then it never trains.
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
        shape, test, n = list(self.x.shape[1:]), len(self.test[1]), self.sizes.tolist()
        held = f"{self.num_clients} clients with {min(n, default=0)} to {max(n, default=0)} of them"
        return f"<FederatedDataset {self.name!r}: {len(self.y)} examples of shape {shape}, {held}, and {test} to test>"

    @property
    def num_clients(self) -> int:
        return len(self.parts)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Examples of each client, ``[N]``."""
        return np.array([len(part) for part in self.parts])

    def double(self) -> FederatedDataset:
        """The same examples in double precision; what trains on them computes in it, too."""
        return replace(self, x=self.x.double(), test=(self.test[0].double(), self.test[1]))

    def to(self, device: torch.device) -> FederatedDataset:
        """The same examples on another device; itself where they lie there already."""
        if self.x.device == device:
            return self
        x, y = self.test
        return replace(
            self, x=self.x.to(device), y=self.y.to(device), test=(x.to(device), y.to(device))
        )

    def counts(self) -> np.ndarray:
        """How many examples of each class each client holds, ``[N, classes]``."""
        y = self.y.numpy(force=True)
        return np.stack([np.bincount(y[part], minlength=len(self.classes)) for part in self.parts])
