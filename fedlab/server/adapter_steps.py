"""Server steps on adapted layers: clients of different ranks, and servers that move W.

``fedlab.server.adapter_averaging`` says which method folds the clients' factors in which way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Algorithm, Cohort, Experiment, Local, Task, Terms, once_per_task, params
from fedlab.core.validate import check_whole
from fedlab.models.adapted_layers import AdaptedLayer, lora_layers
from fedlab.models.subnetworks import check_same_task
from fedlab.server.aggregation_error import base_weight, factor_views
from fedlab.server.building_blocks import (
    no_state,
    refuse_double_weighting,
    require_weighted_mean,
    size_shares,
    trained_models,
    weigh_by_size,
)


class Fold(Protocol):
    """A function from the clients' factors of one layer to the server's."""

    def __call__(
        self, layer: AdaptedLayer, w: Tensor, a: Tensor, b: Tensor, p: Tensor, cohort: Cohort
    ) -> tuple[Tensor, ...]:
        """Return A and B and, if the server moves W, what is added to W ``[out, in]``.

        Args:
            layer: Layer whose factors these are.
            w: The server's model before the round, ``[d]``.
            a: Factors A of the clients, ``[m, r, in]``.
            b: Factors B of the clients, ``[m, out, r]``.
            p: Weights of the clients, ``[m]``.
            cohort: Clients of the round.
        """
        ...


def averaging_ranks(
    task: Task, ranks: Sequence[int], weights: Callable[[Tensor, Tensor], Tensor], fold: Fold
) -> Algorithm:
    """Return an algorithm whose clients have adapters of different ranks.

    Args:
        task: Task with adapters of the largest rank.
        ranks: Rank of each client, ``[N]``.
        weights: Function from the clients' models ``[m, d]`` and their shares of examples ``[m]``
            to their weights ``[m]``.
        fold: Function that folds the factors of a layer.
    """
    check_ranks(task, ranks)

    def init(w, num_clients):
        _check_one_per_client(ranks, num_clients)
        return no_state(w, num_clients)

    def local_objective(state, cohort):
        return Terms(mask=rank_masks(task, ranks, cohort))

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        models = trained_models(w, local_objective(state, cohort), updates)
        p = weights(models, size_shares(updates))
        return fold_layers(task, w, mean, models, p, fold, cohort), state

    parts = init, local_objective, weigh_by_size, step, weighs_examples
    return for_task(task, Algorithm(*parts, partial_updates=True))


def moving_base(
    task: Task,
    ranks: Sequence[int] | None,
    fold: Fold,
    size: Callable[[AdaptedLayer, list[int]], int],
    *,
    sends_factors: bool,
) -> Algorithm:
    """Return an algorithm whose server moves W, which clients fetch and leave unchanged.

    Its state counts the numbers of all changes of W so far, and how many of these each client has
    fetched. A client fetches the changes that it missed, or W if that is smaller.

    Args:
        task: Task with adapters, and W in the row: ``lora(base=True)``.
        ranks: Rank of each client, ``[N]``; None: all have the rank of the task.
        fold: Function that folds the factors of a layer.
        size: Function from a layer and the ranks of the cohort to the numbers of a change of W.
        sends_factors: Whether clients fetch A and B, too.
    """
    layers, fixed = lora_layers(task), _base_tensors(task)
    if ranks is not None:
        check_ranks(task, ranks)
    base_size = sum(layer.inputs * layer.outputs for layer in layers)
    factor_size = sum(layer.rank * (layer.inputs + layer.outputs) for layer in layers)
    others = sum(shape.numel() for name, shape in task.shapes.items() if name not in fixed)

    def init(w, num_clients):
        _check_one_per_client(ranks, num_clients)
        return np.zeros(1, dtype=np.int64), np.zeros(num_clients, dtype=np.int64)

    def local_objective(state, cohort):
        sent, fetched = state
        size = others - factor_size + np.minimum(sent - fetched[cohort.ids], base_size)
        if sends_factors:
            client_ranks = [rank_of(task, ranks, i) for i in cohort.ids]
            rank_size = factor_size // layers[0].rank
            size = size + np.array(client_ranks, dtype=np.int64) * rank_size
        mask = None if ranks is None else rank_masks(task, ranks, cohort)
        return Terms(mask=mask, fixed=fixed, fetched=size)

    def step(w, state, cohort, updates, mean):
        sent, fetched = state
        if not updates.steps.any():
            return w, state
        ids = cohort.ids[(updates.steps > 0).numpy(force=True)]
        fetched = fetched.copy()
        fetched[ids] = sent  # a client that fetched and then took no step fetches again
        cohort_ranks = [rank_of(task, ranks, i) for i in ids]
        changes = (min(size(each, cohort_ranks), each.inputs * each.outputs) for each in layers)
        models = trained_models(w, local_objective(state, cohort), updates)
        after = fold_layers(task, w, mean, models, size_shares(updates), fold, cohort)
        return after, (sent + sum(changes), fetched)

    parts = init, local_objective, weigh_by_size, step, weighs_examples
    return for_task(task, Algorithm(*parts, partial_updates=True))


def _base_tensors(task: Task) -> list[str]:
    """Return the names of the tensors that the server moves, W, or keeps, the biases beside W."""
    layers = lora_layers(task)
    weights = [layer.base for layer in layers if layer.base is not None]
    if len(weights) < len(layers):
        raise ValueError(
            "the task must have the adapted layers' own weights in the row (the server moves "
            "them). Try trainable=lora(..., base=True)"
        )
    biases = [name for name in task.shapes if name.removesuffix(".bias") + ".weight" in weights]
    return [*weights, *biases]


def fold_layers(
    task: Task, w: Tensor, mean: Tensor, models: Tensor, p: Tensor, fold: Fold, cohort: Cohort
) -> Tensor:
    """Return the next model: ``w + mean``, with its adapted layers folded.

    Args:
        task: Task with adapters.
        w: The server's model before the round, ``[d]``.
        mean: Result of the aggregate, ``[d]``.
        models: The clients' models after training, ``[m, d]``.
        p: Weights of the clients, ``[m]``.
        fold: Function that folds the factors of a layer.
        cohort: Clients of the round.

    Returns:
        The model ``[d]``.
    """
    after = w + mean
    trained, views = params.views(models, task.shapes), params.views(after, task.shapes)
    for layer in lora_layers(task):
        a, b, *changes = fold(layer, w, *factor_views(trained, layer), p, cohort)
        server_a, server_b = factor_views(views, layer)
        server_a[: len(a)] = a
        server_b[:, : len(a)] = b
        for change in changes:
            base_weight(views, layer).add_(change)
    return after


@once_per_task
def rank_mask(task: Task, rank: int) -> Tensor:
    """Return the mask ``[d]`` of the first rows of each A and the first columns of each B.

    It is 1 for everything that is no adapter.

    Args:
        task: Task with adapters.
        rank: Rows and columns that stay, at least 1 and at most the rank of the task.
    """
    mask = torch.ones(sum(shape.numel() for shape in task.shapes.values()))
    views = params.views(mask, task.shapes)
    check_whole(1, rank=rank)
    for layer in lora_layers(task):
        if rank > layer.rank:
            raise ValueError(
                f"rank={rank} must be at most {layer.rank}, the rank of the task's adapters. "
                f"Try trainable=lora({rank})"
            )
        a, b = factor_views(views, layer)
        a[rank:] = 0
        b[:, rank:] = 0
    return mask


def rank_masks(task: Task, ranks: Sequence[int], cohort: Cohort) -> Tensor:
    """Return the mask of each client of a cohort, ``[m, d]``.

    Args:
        task: Task with adapters.
        ranks: Rank of each client, ``[N]``.
        cohort: Clients of the round.
    """
    if not len(cohort.ids):
        return torch.empty(0, sum(shape.numel() for shape in task.shapes.values()))
    return torch.stack([rank_mask(task, rank_of(task, ranks, i)) for i in cohort.ids])


def rank_of(task: Task, ranks: Sequence[int] | None, client: int) -> int:
    """Return the rank of a client's adapters.

    Args:
        task: Task with adapters.
        ranks: Rank of each client, ``[N]``; None: all have the rank of the task.
        client: Number of the client.
    """
    return lora_layers(task)[0].rank if ranks is None else ranks[client]


def check_ranks(task: Task, ranks: Sequence[int]) -> None:
    """Raise ValueError unless all ranks are at least 1 and at most the rank of the task."""
    for rank in sorted(set(ranks)):
        rank_mask(task, rank)


def tensor_positions(task: Task, names: Sequence[str]) -> Tensor:
    """Return True for numbers of the row that belong to these tensors, ``[d]``."""
    return torch.cat(
        [torch.full((shape.numel(),), name in names) for name, shape in task.shapes.items()]
    )


def for_task(task: Task, algorithm: Algorithm) -> Algorithm:
    """Refuse experiments with another task than the one whose layers an algorithm knows."""

    def validate(local, experiment):
        check_same_task(task, experiment)
        algorithm.validate(local, experiment)

    return algorithm._replace(validate=validate)


def weighs_examples(local: Local, experiment: Experiment) -> None:
    """Raise ValueError unless updates are weighed by examples, once."""
    require_weighted_mean(experiment, "adapters are weighed by examples")
    refuse_double_weighting(local, experiment, "sample=uniform(K)")


def _check_one_per_client(ranks: Sequence[int] | None, num_clients: int) -> None:
    if ranks is not None and len(ranks) != num_clients:
        raise ValueError(
            f"ranks={ranks!r:.80} must have {num_clients} entries, one per client "
            f"(it has {len(ranks)}). Try {[max(ranks, default=1)]} * {num_clients}"
        )
