"""Data that change over time: examples of earlier data that clients keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fedlab.core import FederatedDataset, generator
from fedlab.core.validate import check_whole


def replay(
    data: FederatedDataset, old: FederatedDataset, per_client: int, *, seed: int = 0
) -> FederatedDataset:
    """Add examples of old data to each client, as rehearsal against forgetting.

    Robins 1995; Rolnick et al. 2019. Several clients may get copies of the same example. The method
    hands raw examples from one client to another, which the clients must allow.

    Args:
        data: The new data.
        old: The old data; examples that its clients hold are drawn.
        per_client: The number of old examples for each client, at most as many as there are.
        seed: The seed of the draw.

    Returns:
        The new data, with the old examples appended to each client's.

    Example:
        >>> from fedlab.data import load
        >>> data = load("digits", clients=4)
        >>> (replay(data, data, per_client=5).sizes - data.sizes).tolist()
        [5, 5, 5, 5]
    """
    check_whole(0, per_client=per_client)
    held = np.concatenate([np.empty(0, dtype=int), *old.parts])
    count = min(per_client, len(held))
    draw = generator(seed, "replay")
    n, num_clients = len(data.y), data.num_clients
    chosen = [draw.choice(held, count, replace=False) for _ in range(num_clients)]
    parts = [
        np.concatenate([part, n + i * count + np.arange(count)])
        for i, part in enumerate(data.parts)
    ]
    numbers = torch.from_numpy(np.stack(chosen).ravel())  # of the examples of all clients
    return replace(
        data,
        x=torch.cat([data.x, old.x[numbers]]),
        y=torch.cat([data.y, old.y[numbers]]),
        parts=parts,
    )
