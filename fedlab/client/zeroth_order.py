"""Local training without a backward pass, for devices that cannot hold its activations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.client.optimizers import is_plain_sgd
from fedlab.client.sequential import make_updates
from fedlab.core import Task, Updates, Work, generator, params
from fedlab.models.random_subspace import RandomSubspace

DISTANCE = 1e-3  # on either side of the model, as in MeZO (Malladi et al. 2023)


@torch.no_grad()
def zeroth_order(
    task: Task, x: Tensor, y: Tensor, work: Work, *, distance: float = DISTANCE
) -> Updates:
    """Train with two forward passes per step, each step along one random direction.

    ``a_k <- a_k - lr (F(w + e z_k) - F(w - e z_k)) / 2e``, where the seed, the round and the
    client draw k uniformly for every step.

    Args:
        task: A task of ``random_subspace``.
        x: Examples of all clients, ``[n, ...]``.
        y: Their labels, ``[n]``.
        work: The work of the cohort, plain SGD.
        distance: e, on either side of the model.

    Returns:
        The updates, one row per client.

    Raises:
        ValueError: If the task moves along no directions, or the work is not plain SGD.

    References: FedKSeed, Qin et al. 2024, Algorithm 1.
    """
    model = _check(task.template(work.start), work)
    m, num = len(work.origin), work.start.shape[1]
    clients = [(cohort.seed, cohort.round, int(i)) for cohort in work.cohorts for i in cohort.ids]
    clients = clients or [(0, 0, i) for i in range(m)]
    delta = work.start.new_zeros(m, num)
    steps, losses = np.zeros(m), np.full(m, np.nan)
    for i, (seed, *draw_for) in enumerate(clients):
        w, client_losses = model.point(work.start[work.origin[i]]), []
        draw = generator(seed, "directions", *draw_for)
        for batch in work.batches[i]:
            batch = batch[batch >= 0]
            if len(batch) == 0:
                break
            k = int(draw.integers(num))
            z, examples = model.direction(k), torch.from_numpy(batch).to(x.device)
            ahead, behind = (
                _loss(model.task, w + side * distance * z, x[examples], y[examples])
                for side in (1, -1)
            )
            move = work.lr[i] * (ahead - behind) / (2 * distance)
            delta[i, k] -= move
            w = w - move * z
            client_losses.append((ahead + behind) / 2)
        if client_losses:
            steps[i], losses[i] = len(client_losses), torch.stack(client_losses).mean().item()
    return make_updates(work, delta, steps, losses)


def _check(model: nn.Module, work: Work) -> RandomSubspace:
    """Return the model; raise ValueError unless it moves along directions, by plain SGD."""
    if not isinstance(model, RandomSubspace):
        raise ValueError(
            f"the model {type(model).__name__} moves along no directions, and zeroth_order needs "
            "them. Try the task random_subspace(task, num)"
        )
    has_terms = work.h is not None or work.mask is not None or work.fixed is not None
    if not is_plain_sgd(work) or has_terms:
        raise ValueError(
            "zeroth_order takes plain SGD steps, and the work has other terms. Try fedavg() and "
            "Local(lr, ...) without momentum, weight_decay or adamw"
        )
    return model


def _loss(task: Task, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss over a batch."""
    model = task.template_with(w)
    total = torch.zeros(()).to(w)
    for group in task.length_groups(x):
        total = total + task.loss(model(params.as_numbers(x[group], w)), y[group]).sum()
    return total / len(x)
