"""Methods that average the clients' adapters.

In the formulas client i of the cohort has ``B_i [out, r]``, ``A_i [r, in]`` and the weight ``p_i``,
its share of the cohort's examples; ``s = alpha / r`` stands before each product, and W is the
layer's own weight. Everything else in the row, such as a head, is averaged by ``p_i``. The formulas
as functions are in ``fedlab.server.factors``.

Two methods need no function here: FFA-LoRA is ``fedavg`` where ``ffa_lora`` trains, and Fed-SB is
``fedavg`` where ``lora_sb`` trains. Their averages multiply to the right product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Algorithm, ClientTable, Task, Terms, generator, params
from fedlab.models.adapted_layers import lora_layers
from fedlab.server.adapter_steps import averaging_ranks, for_task, moving_base, tensor_positions
from fedlab.server.aggregation_error import factor_views
from fedlab.server.algorithms import fedavg
from fedlab.server.building_blocks import refuse_double_weighting
from fedlab.server.factors import mean_factors, mean_product, nearest_factors, product_residual


def fedit(server_lr: float = 1.0) -> Algorithm:
    """Average A and B one by one: ``fedavg``, under its name for adapters.

    Zhang et al. 2024.

    Args:
        server_lr: Step on the server, above 0.

    Example:
        >>> algorithm = fedit()
    """
    return fedavg(server_lr)


def rolora(task: Task) -> Algorithm:
    """Train one factor at a time, so that the mean of the products is exact.

    B trains in odd rounds and A in even ones. The factor that stays does not go up. The whole model
    goes down, since clients of another round lack both. Chen et al. 2025.

    Args:
        task: Task with adapters, ``lora(...)``.
    """
    layers = lora_layers(task)
    a = [layer.a for layer in layers if layer.a is not None]
    b = [layer.b for layer in layers]

    def local_objective(state, cohort):
        return Terms(fixed=a if cohort.round % 2 else b)

    return for_task(task, fedavg()._replace(local_objective=local_objective, partial_updates=True))


def fedsa(task: Task) -> Algorithm:
    """Share A, and keep B on each client: ``A <- A + sum_i p_i (A_i - A)``.

    The model of a client comes from ``fedsa_models``; the server's own model, with the B that it
    began with, is no client's. FedSA-LoRA, Guo et al. 2025.

    Args:
        task: Task with adapters, ``lora(...)``.

    Returns:
        An algorithm whose state is the B of each client.
    """
    names = [layer.b for layer in lora_layers(task)]

    def init(w, num_clients):
        return ClientTable(w[tensor_positions(task, names)], num_clients)

    def local_objective(table, cohort):
        def start(w):
            return fedsa_models(task, w, table, cohort.ids)

        return Terms(private=names, start=start)

    def contributions(updates, cohort):
        shared = ~tensor_positions(task, names).to(updates.delta.device)
        return updates.delta * shared, updates.num_examples

    def step(w, table, cohort, updates, mean):
        trained = (updates.steps > 0).numpy(force=True)
        ids, private = cohort.ids[trained], tensor_positions(task, names)
        table[ids] = table[ids] + updates.delta[torch.from_numpy(trained)][:, private]
        return w + mean, table

    return for_task(
        task,
        Algorithm(
            init,
            local_objective,
            contributions,
            step,
            refuse_double_weighting,
            partial_updates=True,
        ),
    )


def fedsa_models(task: Task, w: Tensor, table: ClientTable, ids: np.ndarray) -> Tensor:
    """Return the models of clients under ``fedsa``: the server's, with their own B.

    Args:
        task: Task with adapters.
        w: The server's model, ``[d]``.
        table: State of ``fedsa``, the B of each client.
        ids: Client numbers, ``[m]``.

    Returns:
        Models ``[m, d]``.
    """
    models = w.repeat(len(ids), 1)
    models[:, tensor_positions(task, [layer.b for layer in lora_layers(task)])] = table[ids]
    return models


def flora(task: Task, ranks: Sequence[int] | None = None) -> Algorithm:
    """Add the mean product to W, ``W <- W + s sum_i p_i B_i A_i``; A and B start anew.

    This is exact for any ranks. Clients fetch the stacks that they missed, or W if that is smaller.
    Wang et al. 2024, Algorithm 1.

    Args:
        task: Task with adapters, and W in the row: ``lora(base=True)``.
        ranks: Rank of each client, ``[N]``; None: all have the rank of the task.
    """

    def fold(layer, w, a, b, p, cohort):
        rank, width = a.shape[1:]
        draw = generator(cohort.seed, "flora", cohort.round, layer.layer)
        fresh = draw.uniform(-1, 1, (rank, width)) / math.sqrt(width)
        change = layer.scale * mean_product(a, b, p)
        return torch.from_numpy(fresh).to(a), torch.zeros_like(b[0]), change

    def size(layer, cohort_ranks):
        return sum(cohort_ranks) * (layer.inputs + layer.outputs)

    return moving_base(task, ranks, fold, size, sends_factors=False)


def fedex(task: Task, ranks: Sequence[int] | None = None) -> Algorithm:
    """Average A and B, and add what their product lacks to W: ``W <- W + s residual``, exact.

    Clients fetch A, B and the residuals that they missed, of rank ``(m - 1) r`` at most, or W if
    that is smaller. FedEx-LoRA, Singhal et al. 2025.

    Args:
        task: Task with adapters, and W in the row: ``lora(base=True)``.
        ranks: Rank of each client, ``[N]``; None: all have the rank of the task.
    """

    def fold(layer, w, a, b, p, cohort):
        return *mean_factors(a, b, p), layer.scale * product_residual(a, b, p)

    def size(layer, cohort_ranks):
        # Clients that hold each row of A: a row adds their number less one to the residual's rank.
        holders = [
            sum(rank > row for rank in cohort_ranks) for row in range(max(cohort_ranks, default=0))
        ]
        residual_rank = sum(min(number, len(cohort_ranks) - 1) for number in holders)
        return residual_rank * (layer.inputs + layer.outputs)

    return moving_base(task, ranks, fold, size, sends_factors=True)


def flexlora(task: Task, ranks: Sequence[int]) -> Algorithm:
    """Average the products, and give each client the nearest product of its rank.

    The server keeps the nearest of the largest rank, whose first r rows and columns are the nearest
    of rank r. Bai et al. 2024.

    Args:
        task: Task with adapters of the largest rank.
        ranks: Rank of each client, ``[N]``.
    """

    def fold(layer, w, a, b, p, cohort):
        left, right = nearest_factors(mean_product(a, b, p), a.shape[1])
        lengths = left.norm(dim=1)
        # A factor from the rounding of a singular value 0 could not learn: it begins again.
        empty = lengths <= 1e-3 * lengths.max()
        first, _ = factor_views(params.views(w, task.shapes), layer)
        left[empty] = first[empty]
        right[:, empty] = 0
        return left, right

    return averaging_ranks(task, ranks, lambda models, p: p, fold)


def hetlora(task: Task, ranks: Sequence[int]) -> Algorithm:
    """Average factors padded with zeros to the largest rank, weighed by ``||B_i A_i||``.

    Client i takes the first ``ranks[i]`` rows and columns. Rows and columns that no client of the
    cohort holds stay unchanged. Cho et al. 2024.
    Differs: a client's rank stays the same; the paper's may prune it.

    Args:
        task: Task with adapters of the largest rank.
        ranks: Rank of each client, ``[N]``.
    """

    def weights(models, p):
        views = params.views(models, task.shapes)
        factors = (factor_views(views, layer) for layer in lora_layers(task))
        norms = sum((b @ a).square().sum((1, 2)) for a, b in factors).sqrt() * (p > 0)
        return norms / norms.sum() if norms.any() else p

    def fold(layer, w, a, b, p, cohort):
        weighed = zip(cohort.ids, p.tolist(), strict=True)
        held = max((ranks[i] for i, weight in weighed if weight > 0), default=0)
        return mean_factors(a[:, :held], b[:, :, :held], p)

    return averaging_ranks(task, ranks, weights, fold)
