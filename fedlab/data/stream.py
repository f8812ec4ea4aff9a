"""What clients keep of data that are gone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fedlab.core import FederatedDataset, generator
from fedlab.core.validate import check_whole


def replay(
    data: FederatedDataset, old: FederatedDataset, each: int, *, seed: int = 0
) -> FederatedDataset:
    """The clients of ``data``, each with ``each`` examples that clients of ``old`` hold, drawn by ``seed`` (of as many as
    there are): rehearsal, Robins 1995; Rolnick et al. 2019.

    The examples are copies, so that several clients may have the same.  Somebody must be allowed to hand them on.
    """
    check_whole(0, each=each)
    held = np.concatenate([np.empty(0, dtype=int), *old.parts])
    each = min(each, len(held))
    draw, n, m = generator(seed, "replay"), len(data.y), data.num_clients
    chosen = np.stack([draw.choice(held, each, replace=False) for _ in range(m)])  # [N, each]
    parts = [
        np.concatenate([part, n + i * each + np.arange(each)]) for i, part in enumerate(data.parts)
    ]
    numbers = torch.from_numpy(chosen.ravel())
    return replace(
        data,
        x=torch.cat([data.x, old.x[numbers]]),
        y=torch.cat([data.y, old.y[numbers]]),
        parts=parts,
    )
