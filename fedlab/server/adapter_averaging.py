"""What a server makes of its clients' adapters.  The mean of A and the mean of B do not multiply to the mean of B A.

In the formulas client i of the cohort has ``B_i [out, r]``, ``A_i [r, in]`` and the weight ``p_i``, its share of the
cohort's examples; ``s = alpha / r`` stands before each product, and W is the layer's own weight.  What else is in the row,
a head for example, is averaged by ``p_i``.  Two methods need no function here: FFA-LoRA is ``fedavg`` where ``ffa_lora``
trains, Fed-SB is ``fedavg`` where ``lora_sb`` does; what is averaged there multiplies to what it should.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import (
    Algorithm,
    ClientTable,
    Cohort,
    Task,
    Terms,
    Updates,
    generator,
    once_per_task,
    params,
)
from fedlab.core.validate import check_whole
from fedlab.models.adapted_layers import AdaptedLayer, adapted_layers, lora_layers
from fedlab.models.subnetworks import check_same_task
from fedlab.server.algorithms import fedavg, only_weighted_mean, sizes_once

Factors = tuple[Tensor, Tensor]


def mean_factors(a: Tensor, b: Tensor, p: Tensor) -> Factors:
    """``sum_i p_i A_i`` and ``sum_i p_i B_i``, of ``a [m, r, in]``, ``b [m, out, r]``, ``p [m]``.  FedIT, Zhang 2024."""
    return torch.tensordot(p, a, 1), torch.tensordot(p, b, 1)


def mean_product(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """``sum_i p_i B_i A_i [out, in]``: what a mean should be."""
    return torch.einsum("m,mor,mri->oi", p, b, a)


def stack_factors(a: Tensor, b: Tensor, p: Tensor) -> Factors:
    """Factors of rank m r whose product is ``sum_i p_i B_i A_i``: all A_i, and beside them p_i B_i.  FLoRA, Wang 2024."""
    return a.flatten(0, 1), (b * p[:, None, None]).transpose(0, 1).flatten(1)


def residual(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """What the means lack: ``sum_i p_i B_i A_i - B A = sum_i p_i (B_i - B) (A_i - A)``.  FedEx-LoRA, Singhal et al. 2025."""
    mean_a, mean_b = mean_factors(a, b, p)
    return mean_product(a - mean_a, b - mean_b, p)


def nearest_factors(product: Tensor, rank: int) -> Factors:
    """Of all products of this rank the nearest to ``product [out, in]``, by its singular values, the largest first."""
    u, s, v = torch.linalg.svd(product, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root


def fedit(server_lr: float = 1.0) -> Algorithm:
    """A and B averaged one by one: ``fedavg``, under the name that it has with adapters.  Zhang et al. 2024."""
    return fedavg(server_lr)


def rolora(task: Task) -> Algorithm:
    """One of the factors at a time: B in odd rounds, A in even ones, so that the mean of what moves is exact.  Chen 2025.

    The factor that stays does not go up.  Down goes the model, since clients of another round lack both.
    """
    a, b = ([getattr(one, of) for one in lora_layers(task)] for of in "ab")

    def local_objective(state, cohort):
        return Terms(fixed=a if cohort.round % 2 else b)

    return _of_layers(
        task, fedavg()._replace(local_objective=local_objective, partial_updates=True)
    )


def fedsa(task: Task) -> Algorithm:
    """A is shared, B stays with its client: ``A <- A + sum_i p_i (A_i - A)``.  FedSA-LoRA, Guo et al. 2025.

    ``fedsa_models`` gives the clients' models; the server's own, with the B that it began with, is nobody's.
    """
    names = [one.b for one in lora_layers(task)]

    def init(w, num_clients):
        return ClientTable(w[_numbers(task, names)], num_clients)

    def local_objective(table, cohort):
        def start(w):
            return fedsa_models(task, w, table, cohort.ids)

        return Terms(private=names, start=start)

    def contributions(updates, cohort):
        return updates.delta * ~_numbers(task, names).to(updates.delta.device), updates.num_examples

    def step(w, table, cohort, updates, mean):
        trained = (updates.steps > 0).numpy(force=True)
        ids, own = cohort.ids[trained], _numbers(task, names)
        table[ids] = table[ids] + updates.delta[torch.from_numpy(trained)][:, own]
        return w + mean, table

    return _of_layers(
        task,
        Algorithm(init, local_objective, contributions, step, sizes_once, partial_updates=True),
    )


def fedsa_models(task: Task, w: Tensor, table: ClientTable, ids: np.ndarray) -> Tensor:
    """The models ``[m, d]`` that clients have under ``fedsa``: the server's ``w [d]`` with their own B."""
    rows = w.repeat(len(ids), 1)
    rows[:, _numbers(task, [one.b for one in lora_layers(task)])] = table[ids]
    return rows


def flora(task: Task, ranks: Sequence[int] | None = None) -> Algorithm:
    """Stack, and add to the layer's own weight: ``W <- W + s sum_i p_i B_i A_i``, exact for any ranks; A and B start anew.

    Wang et al. 2024, Algorithm 1.  Client i has the rank ``ranks[i]`` (None: all that there is).  Down go the stacks that a
    client has missed, or W, whatever is less.  Needs W in the row: ``lora(base=True)``.
    """

    def fold(one, w, a, b, p, cohort):
        rank, width = a.shape[1:]
        draw = generator(cohort.seed, "flora", cohort.round, one.layer).uniform(
            -1, 1, (rank, width)
        ) / math.sqrt(width)
        return (
            torch.from_numpy(draw).to(a),
            torch.zeros_like(b[0]),
            one.scale * mean_product(a, b, p),
        )

    def size(one, r):
        return sum(r) * (one.inputs + one.outputs)

    return _moving_the_base(task, ranks, fold, size, beside=False)


def fedex(task: Task, ranks: Sequence[int] | None = None) -> Algorithm:
    """Means of A and B, and what they lack goes to the layer's own weight: ``W <- W + s residual``, exact.

    FedEx-LoRA, Singhal et al. 2025.  Down go A, B and the residuals that a client has missed, of rank ``(m - 1) r`` at most,
    or W, whatever is less.  Needs W in the row: ``lora(base=True)``.
    """

    def fold(one, w, a, b, p, cohort):
        return *mean_factors(a, b, p), one.scale * residual(a, b, p)

    def size(one, r):
        slots = [
            sum(rank > slot for rank in r) for slot in range(max(r, default=0))
        ]  # who holds each row of A
        return sum(min(held, len(r) - 1) for held in slots) * (one.inputs + one.outputs)

    return _moving_the_base(task, ranks, fold, size, beside=True)


def flexlora(task: Task, ranks: Sequence[int]) -> Algorithm:
    """The mean of the products, and of that for each client the nearest of its rank ``ranks[i]``.  Bai et al. 2024.

    The server keeps the nearest of the largest rank, whose first r columns and rows are those of rank r.
    """

    def fold(one, w, a, b, p, cohort):
        left, right = nearest_factors(mean_product(a, b, p), a.shape[1])
        lengths = left.norm(dim=1)
        empty = (
            lengths <= 1e-3 * lengths.max()
        )  # a singular value of rounding alone could not learn: it begins again
        left[empty], right[:, empty] = params.views(w, task.shapes)[one.a][empty], 0
        return left, right

    return _of_ranks(task, ranks, lambda rows, p: p, fold)


def hetlora(task: Task, ranks: Sequence[int]) -> Algorithm:
    """Factors padded with zeros to the largest rank, weighed by ``||B_i A_i||`` and averaged; client i takes the first
    ``ranks[i]`` rows and columns.  Cho et al. 2024.

    What nobody of the cohort holds stays as it was.
    Differs: a client's rank stays as it is, where theirs may prune it.
    """

    def weights(rows, p):
        views = params.views(rows, task.shapes)
        s = sum(
            (views[one.b] @ views[one.a]).square().sum((1, 2)) for one in lora_layers(task)
        ).sqrt() * (p > 0)
        return s / s.sum() if s.any() else p

    def fold(one, w, a, b, p, cohort):
        held = max(
            (ranks[i] for i, share in zip(cohort.ids, p.tolist(), strict=True) if share > 0),
            default=0,
        )
        return mean_factors(a[:, :held], b[:, :, :held], p)

    return _of_ranks(task, ranks, weights, fold)


def with_aggregation_error(algorithm: Algorithm, task: Task) -> Algorithm:
    """The same, and how far its server was off in the last round: ``state[1]`` is its ``aggregation_error``, 0 before the first."""
    adapted_layers(task)

    def init(w, num_clients):
        return algorithm.init(w, num_clients), w.new_zeros(())

    def local_objective(state, cohort):
        told = algorithm.local_objective(state[0], cohort)
        if told.private:
            raise ValueError(
                "with_aggregation_error looks at what the server has, and of this algorithm each client keeps its own part"
            )
        return told

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        told = algorithm.local_objective(state[0], cohort)
        after, inner = algorithm.step(w, state[0], cohort, updates, mean)
        rows = _rows(w, told, updates)
        return after, (inner, aggregation_error(task, w, rows, _shares(updates), after))

    return algorithm._replace(init=init, local_objective=local_objective, step=step)


def aggregation_error(task: Task, before: Tensor, rows: Tensor, p: Tensor, after: Tensor) -> Tensor:
    """``||change - wanted|| / ||wanted||`` over the adapted layers in a round: 0 where aggregation is exact.

    A layer's weight is ``W + s B A``; wanted is ``sum_i p_i`` of the clients' ``rows [m, d]``, less what it was ``before
    [d]``; the change is what it is ``after``.
    """
    was, theirs, now = (effective_weights(task, w) for w in (before, rows, after))
    wanted = {name: torch.tensordot(p, theirs[name], 1) - was[name] for name in was}
    off = sum((now[name] - was[name] - wanted[name]).square().sum() for name in was)
    return (off / sum(one.square().sum() for one in wanted.values())).sqrt() if off > 0 else off


def effective_weights(task: Task, w: Tensor) -> dict[str, Tensor]:
    """``s B A``, and W where it is in the row, of each adapted layer, for rows ``w [..., d]``: ``[..., out, in]``."""
    views, found, template = params.views(w, task.shapes), {}, task.template(w)
    for one in adapted_layers(task):
        a = (
            template.get_submodule(one.layer).lora_A["default"].weight
            if one.a is None
            else views[one.a]
        )
        found[one.layer] = one.scale * views[one.b] @ a
        if one.base is not None:
            found[one.layer] += views[one.base].mT if one.transposed else views[one.base]
    return found


@once_per_task
def rank_mask(task: Task, rank: int) -> Tensor:
    """1 for the first ``rank`` rows of each A and columns of each B and for what is no adapter, ``[d]``."""
    mask = torch.ones(sum(shape.numel() for shape in task.shapes.values()))
    views = params.views(mask, task.shapes)
    check_whole(1, rank=rank)
    for one in lora_layers(task):
        if rank > one.rank:
            raise ValueError(
                f"rank={rank}: the task's adapters have {one.rank}; take as many at most, or lora({rank})"
            )
        views[one.a][rank:] = 0
        views[one.b][:, rank:] = 0
    return mask


# (layer, w, a [m, r, in], b [m, out, r], p [m], cohort) -> A, B and, if that moves, what W gains
Fold = Callable[[AdaptedLayer, Tensor, Tensor, Tensor, Tensor, Cohort], tuple[Tensor, ...]]


def _of_ranks(
    task: Task, ranks: Sequence[int], weights: Callable[[Tensor, Tensor], Tensor], fold: Fold
) -> Algorithm:
    """Clients with adapters of their own ranks."""
    _check_ranks(task, ranks)

    def local_objective(state, cohort):
        return Terms(mask=_masks(task, ranks, cohort))

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        rows, p = _rows(w, local_objective(state, cohort), updates), _shares(updates)
        return _folded(task, w, mean, rows, weights(rows, p), fold, cohort), state

    plain = fedavg()

    def init(w, num_clients):
        _one_each(ranks, num_clients)
        return plain.init(w, num_clients)

    return _of_layers(
        task,
        Algorithm(
            init, local_objective, plain.contributions, step, _validate, partial_updates=True
        ),
    )


def _moving_the_base(
    task: Task, ranks: Sequence[int] | None, fold: Fold, size: Callable, *, beside: bool
) -> Algorithm:
    """Methods whose server moves W, which clients fetch and leave as it is.

    The state counts the numbers of all changes of W so far, and how many of these each client has fetched.
    """
    layers = lora_layers(task)
    names = [one.base for one in layers]
    if None in names:
        raise ValueError(
            "the adapted layers' own weights are not in the row: make the task with lora(..., base=True)"
        )
    biases = [name for name in task.shapes if name.removesuffix(".bias") + ".weight" in names]
    if ranks is not None:
        _check_ranks(task, ranks)
    whole = sum(one.inputs * one.outputs for one in layers)
    factors = sum(one.rank * (one.inputs + one.outputs) for one in layers)
    others = (
        sum(shape.numel() for name, shape in task.shapes.items() if name not in {*names, *biases})
        - factors
    )

    def init(w, num_clients):
        _one_each(ranks, num_clients)
        return np.zeros(1, dtype=np.int64), np.zeros(num_clients, dtype=np.int64)

    def local_objective(state, cohort):
        sent, had = state
        missed = np.minimum(sent - had[cohort.ids], whole)
        mask = None if ranks is None else _masks(task, ranks, cohort)
        own = np.array([_rank(task, ranks, i) for i in cohort.ids], dtype=np.int64) * (
            factors // layers[0].rank
        )
        return Terms(
            mask=mask, fixed=[*names, *biases], fetched=others + missed + (own if beside else 0)
        )

    def step(w, state, cohort, updates, mean):
        sent, had = state
        if not updates.steps.any():
            return w, state
        ids, had = cohort.ids[(updates.steps > 0).numpy(force=True)], had.copy()
        had[ids] = sent  # who fetched in vain is not noted, and fetches again
        r = [_rank(task, ranks, i) for i in ids]
        sent = sent + sum(min(size(one, r), one.inputs * one.outputs) for one in layers)
        rows = _rows(w, local_objective(state, cohort), updates)
        return _folded(task, w, mean, rows, _shares(updates), fold, cohort), (sent, had)

    return _of_layers(
        task,
        Algorithm(
            init, local_objective, fedavg().contributions, step, _validate, partial_updates=True
        ),
    )


def _folded(
    task: Task, w: Tensor, mean: Tensor, rows: Tensor, p: Tensor, fold: Fold, cohort: Cohort
) -> Tensor:
    """The next model: ``w + mean``, and its adapted layers as ``fold`` says."""
    after = w + mean
    theirs, mine = params.views(rows, task.shapes), params.views(after, task.shapes)
    for one in lora_layers(task):
        a, b, *change = fold(one, w, theirs[one.a], theirs[one.b], p, cohort)
        mine[one.a][: len(a)], mine[one.b][:, : len(a)] = a, b
        for gain in change:
            mine[one.base].add_(gain.mT if one.transposed else gain)
    return after


def _rows(w: Tensor, terms: Terms, updates: Updates) -> Tensor:
    """What the clients' models are after training, ``[m, d]``."""
    start = w if terms.mask is None else w * terms.mask.to(w)
    return start + updates.delta


def _shares(updates: Updates) -> Tensor:
    n = updates.num_examples * (updates.steps > 0)
    return n / n.sum().clamp(min=1)


def _masks(task: Task, ranks: Sequence[int], cohort: Cohort) -> Tensor:
    masks = [rank_mask(task, _rank(task, ranks, i)) for i in cohort.ids]
    return (
        torch.stack(masks)
        if masks
        else torch.empty(0, sum(shape.numel() for shape in task.shapes.values()))
    )


def _rank(task: Task, ranks: Sequence[int] | None, client: int) -> int:
    return lora_layers(task)[0].rank if ranks is None else ranks[client]


def _one_each(ranks: Sequence[int] | None, num_clients: int) -> None:
    if ranks is not None and len(ranks) != num_clients:
        raise ValueError(
            f"ranks has {len(ranks)} entries for {num_clients} clients: give one a client"
        )


def _check_ranks(task: Task, ranks: Sequence[int]) -> None:
    for rank in sorted(set(ranks)):
        rank_mask(task, rank)


def _numbers(task: Task, names: Sequence[str]) -> Tensor:
    """Which numbers of the row belong to these tensors, ``[d]``."""
    return torch.cat(
        [torch.full((shape.numel(),), name in names) for name, shape in task.shapes.items()]
    )


def _validate(local: Any, experiment: Any) -> None:
    only_weighted_mean(experiment, "adapters are weighed by examples")
    sizes_once(local, experiment, "sample=uniform(K)")


def _of_layers(task: Task, algorithm: Algorithm) -> Algorithm:
    """The same, refused for another task than the one whose layers it knows."""

    def validate(local, experiment):
        check_same_task(task, experiment)
        algorithm.validate(local, experiment)

    return algorithm._replace(validate=validate)
