"""Local training without a backward pass, for what cannot hold the activations of one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedlab.client.sequential import updates
from fedlab.core import Task, Updates, Work, generator, params
from fedlab.models.random_subspace import RandomSubspace

DISTANCE = 1e-3  # on either side of the model, as in MeZO (Malladi et al. 2023)


@torch.no_grad()
def zeroth_order(
    task: Task, x: Tensor, y: Tensor, work: Work, *, distance: float = DISTANCE
) -> Updates:
    """Steps along one random direction each: ``a_k <- a_k - lr (F(w + e z_k) - F(w - e z_k)) / 2e``, two forward passes.

    FedKSeed, Qin et al. 2024, Algorithm 1, for a task of ``random_subspace``; k is drawn uniformly for every step of a client,
    by seed, round and client.
    Raises ValueError for another task, and for what is not plain SGD.
    """
    model = task.template(work.start)
    if not isinstance(model, RandomSubspace):
        raise ValueError(
            "zeroth_order trains along directions: make the task with random_subspace(task, num)"
        )
    more = work.h is not None or work.mask is not None or work.fixed is not None
    if (
        work.optimizer != "sgd"
        or more
        or work.mu.any()
        or work.momentum.any()
        or work.weight_decay.any()
    ):
        raise ValueError(
            "zeroth_order takes plain steps: use fedavg() and Local(lr, ...) without momentum, decay or adamw"
        )
    m, num = len(work.origin), work.start.shape[1]
    who = [(cohort.seed, cohort.round, int(i)) for cohort in work.cohorts for i in cohort.ids] or [
        (0, 0, i) for i in range(m)
    ]
    delta, steps, losses = work.start.new_zeros(m, num), np.zeros(m), np.full(m, np.nan)
    for i in range(m):
        w, seen = model.point(work.start[work.origin[i]]), []
        draw = generator(who[i][0], "directions", *who[i][1:])
        for batch in work.batches[i]:
            batch = batch[batch >= 0]
            if len(batch) == 0:
                break
            k = int(draw.integers(num))
            z, here = model.direction(k), torch.from_numpy(batch).to(x.device)
            ahead, behind = (
                _loss(model.task, w + side * distance * z, x[here], y[here]) for side in (1, -1)
            )
            move = work.lr[i] * (ahead - behind) / (2 * distance)
            delta[i, k] -= move
            w = w - move * z
            seen.append((ahead + behind) / 2)
        if seen:
            steps[i], losses[i] = len(seen), torch.stack(seen).mean().item()
    return updates(work, delta, steps, losses)


def _loss(task: Task, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The mean over a batch."""
    model = task.template_with(w)
    return sum(
        task.loss(model(params.as_numbers(x[piece], w)), y[piece]).sum()
        for piece in task.length_groups(x)
    ) / len(x)
