"""Pruning in the federation: which weights are removed, when, and training of the rest.

A criterion returns a mask ``[d]``: 1 for weights that stay, 0 for removed ones. Biases always
stay: they are few. A schedule returns the sparsity, the share of removed weights, after a round.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedlab.core import Algorithm, Task, Terms, params
from fedlab.core.validate import check_function, check_whole, is_number
from fedlab.models.subnetworks import check_same_task, hidden_units, unit_mask

Schedule = Callable[[int], float]  # round -> sparsity

Criterion = Callable[[Task, Tensor, float], Tensor]  # task, w [d], sparsity -> mask [d]


def magnitude(task: Task, w: Tensor, sparsity: float) -> Tensor:
    """Remove the smallest weights of all layers together.

    Frankle & Carbin 2019 (section 4) prune deep networks this way: layers differ in the number of
    weights that they can spare.

    Args:
        task: The task.
        w: Row ``[d]``.
        sparsity: Share of the weights to remove, at least 0 and below 1.

    Returns:
        A mask ``[d]``.

    Example:
        >>> from fedlab.models import classification
        >>> task = classification(lambda: torch.nn.Linear(2, 2))
        >>> magnitude(task, torch.tensor([1.0, -4.0, 2.0, 3.0, 0.0, 0.0]), 0.5)  # 2 biases
        tensor([0., 1., 0., 1., 1., 1.])
    """
    weights = torch.cat(
        [torch.full((shape.numel(),), len(shape) > 1) for shape in task.shapes.values()]
    ).to(w.device)
    mask = torch.ones_like(w)
    mask[weights] = _largest(w[weights].abs(), sparsity)
    return mask


def magnitude_per_layer(task: Task, w: Tensor, sparsity: float) -> Tensor:
    """Remove the smallest weights of each layer.

    Han et al. 2015; Zhu & Gupta 2018. Differs: Frankle & Carbin 2019 prune the last layer at half
    the rate.

    Args:
        task: The task.
        w: Row ``[d]``.
        sparsity: Share of each layer's weights to remove, at least 0 and below 1.

    Returns:
        A mask ``[d]``.
    """
    layers = params.views(w, task.shapes).values()
    return torch.cat(
        [_largest(p.abs().reshape(-1), sparsity if p.dim() > 1 else 0) for p in layers]
    )


def unit_magnitude(task: Task, w: Tensor, sparsity: float) -> Tensor:
    """Remove the units of each hidden layer with the smallest incoming weights.

    A unit's size is the sum of the absolute values of its incoming weights: Li et al. 2017, for
    the filters of convolutions. ``shrink`` then makes the model truly smaller.

    Args:
        task: The task, whose model is a chain of layers (see ``hidden_units``).
        w: Row ``[d]``.
        sparsity: Share of each layer's units to remove, at least 0 and below 1.

    Returns:
        A mask ``[d]``.
    """
    weights = [p for p in params.views(w, task.shapes).values() if p.dim() > 1]
    units = []
    for p, num_units in zip(weights, hidden_units(task), strict=False):
        stays = _largest(p.abs().reshape(num_units, -1).sum(1), sparsity)
        units.append(stays.nonzero().flatten().tolist())
    return unit_mask(task, units).to(w)


def one_shot(sparsity: float, *, round: int) -> Schedule:
    """Prune once, after a round.

    Args:
        sparsity: Share of the weights to remove, above 0 and below 1.
        round: The round, from 1.

    Example:
        >>> schedule = one_shot(0.9, round=5)
        >>> schedule(4), schedule(5)
        (0.0, 0.9)
    """
    _check_below_1(sparsity=sparsity)
    check_whole(1, round=round)

    def at(t):
        return sparsity if t >= round else 0.0

    return at


def cubic(sparsity: float, *, start: int, end: int, every: int = 1) -> Schedule:
    """Prune gradually: fast at first, while many weights are small, and slowly at last.

    In round t the sparsity is ``s_t = s (1 - (1 - (t - start) / (end - start))^3)``.
    Zhu & Gupta 2018, equation 1.

    Args:
        sparsity: Final share s of removed weights, above 0 and below 1.
        start: Round whose sparsity is 0, from 1.
        end: First round with the final sparsity.
        every: Rounds between two steps of the schedule.

    Example:
        >>> schedule = cubic(0.8, start=1, end=5)
        >>> [round(schedule(t), 2) for t in range(1, 7)]
        [0.0, 0.46, 0.7, 0.79, 0.8, 0.8]
    """
    _check_below_1(sparsity=sparsity)
    check_whole(1, start=start, every=every)
    check_whole(start + 1, end=end)

    def at(t):
        done = (min(t, end) - start) // every * every / (end - start) if t < end else 1
        return sparsity * (1 - (1 - max(0, done)) ** 3)

    return at


def pruned(
    algorithm: Algorithm, task: Task, schedule: Schedule, criterion: Criterion = magnitude
) -> Algorithm:
    """Prune the model during training; removed weights never return.

    The server prunes after its step, so the mask is the same for all clients. Clients train the
    rest, and only the rest is sent, unless an upload takes whole rows, as ``power_sgd`` does.
    Zhu & Gupta 2018, with rounds in place of their steps.

    Args:
        algorithm: The algorithm to prune, such as ``fedavg()``.
        task: The experiment's task.
        schedule: Sparsity per round, such as ``cubic(0.9, start=5, end=40)``.
        criterion: Choice of the weights that are removed.

    Returns:
        An algorithm whose state holds the mask, the sparsity and the inner algorithm's state.

    Raises:
        ValueError: If the algorithm does not send rows, or has masks already.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.server import fedavg
        >>> task = mlp(load("digits"))
        >>> pruned(fedavg(), task, one_shot(0.9, round=5)).partial_updates
        True
    """
    _check(algorithm, "pruned")
    check_function("Schedule", "cubic(0.9, start=5, end=40)", schedule=schedule)

    def init(w, num_clients):
        return torch.ones_like(w), w.new_zeros(()), algorithm.init(w, num_clients)

    def local_objective(state, cohort):
        mask, _, inner = state
        return _with_mask(algorithm.local_objective(inner, cohort), mask)

    def step(w, state, cohort, updates, mean):
        mask, sparsity, inner = state
        w, inner = algorithm.step(w, inner, cohort, updates, mean)
        due = schedule(cohort.round)
        if updates.steps.any() and due > sparsity + 1e-6:
            mask, sparsity = mask * criterion(task, w * mask, due), torch.full_like(sparsity, due)
        return w * mask, (mask, sparsity, inner)

    return algorithm._replace(
        init=init,
        local_objective=local_objective,
        step=step,
        validate=_validate(algorithm, task),
        partial_updates=True,
    )


def lottery_ticket(
    algorithm: Algorithm,
    task: Task,
    *,
    share: float = 0.2,
    every: int = 20,
    times: int = 5,
    rewind: int = 0,
    criterion: Criterion = magnitude_per_layer,
) -> Algorithm:
    """Train, prune, rewind the remaining weights to their early values, and train again.

    Iterative magnitude pruning: Frankle & Carbin 2019, section 2; rewinding to a later round:
    Frankle et al. 2020. The algorithm's state starts anew with each rewind; the memory of an
    upload does not. In the federation the server prunes, as in LotteryFL (Li et al. 2021).

    Differs: in LotteryFL each client has a ticket of its own.

    Args:
        algorithm: The algorithm to prune, such as ``fedavg()``.
        task: The experiment's task.
        share: Share of the remaining weights to remove each time, above 0 and below 1. 0.2 five
            times leaves a third.
        every: Rounds of training before each pruning.
        times: Number of prunings; the last model trains on.
        rewind: Round whose model the weights return to; 0 is the initial model.
        criterion: Choice of the weights that are removed.

    Returns:
        An algorithm whose state holds the mask, the early model, the number of prunings and the
        inner algorithm's state.

    Raises:
        ValueError: If ``rewind`` is not before the first pruning, or the algorithm does not send
            rows, or has masks already.
    """
    _check(algorithm, "lottery_ticket")
    _check_below_1(share=share)
    check_whole(1, every=every, times=times)
    check_whole(0, rewind=rewind)
    if rewind >= every:
        raise ValueError(
            f"rewind={rewind} must be below every={every} (weights return to a model before the "
            "first pruning). Try rewind=0"
        )

    def init(w, num_clients):
        return torch.ones_like(w), w.clone(), w.new_zeros(()), algorithm.init(w, num_clients)

    def local_objective(state, cohort):
        mask, _, _, inner = state
        return _with_mask(algorithm.local_objective(inner, cohort), mask)

    def step(w, state, cohort, updates, mean):
        mask, early, done, inner = state
        w, inner = algorithm.step(w, inner, cohort, updates, mean)
        w = w * mask
        if cohort.round == rewind:
            early = w
        if updates.steps.any() and done < times and cohort.round >= every * (done + 1):
            done = done + 1
            mask = mask * criterion(task, w, 1 - (1 - share) ** int(done))
            w, inner = early * mask, algorithm.init(early * mask, cohort.num_clients)
        return w, (mask, early, done, inner)

    return algorithm._replace(
        init=init,
        local_objective=local_objective,
        step=step,
        validate=_validate(algorithm, task),
        partial_updates=True,
    )


def _largest(size: Tensor, sparsity: float) -> Tensor:
    """Return 1 for the largest numbers of ``size [k]``, at least one, and 0 for the others."""
    if not 0 <= sparsity < 1:
        raise ValueError(
            f"sparsity={sparsity:g} must be at least 0 and below 1 (nothing would remain). Try 0.9"
        )
    if not len(size):
        raise ValueError(
            "the model must have weights of two dimensions or more (biases are not pruned). Try "
            "mlp(data)"
        )
    count = max(1, round((1 - sparsity) * len(size)))
    return torch.zeros_like(size).index_fill_(0, size.topk(count).indices, 1)


def _with_mask(terms: Terms, mask: Tensor) -> Terms:
    return terms if mask.all() else terms._replace(mask=mask)


def _check(algorithm: Algorithm, name: str) -> None:
    """Check that an algorithm can be pruned."""
    if not isinstance(algorithm, Algorithm):
        passed = getattr(algorithm, "__name__", repr(algorithm))
        raise ValueError(
            f"{name}({passed}) must have the result of a call (it makes an algorithm). Try fedavg()"
        )
    if algorithm.update_format != "rows":
        raise ValueError(
            f"{name} must have an algorithm of rows (a mask selects places in a row, and this one "
            f"takes {algorithm.update_format}). Try fedavg()"
        )
    if algorithm.partial_updates:
        raise ValueError(
            f"{name} must have an algorithm without masks (two masks are not combined). Try "
            "fedavg()"
        )


def _validate(algorithm: Algorithm, task: Task) -> Callable:
    def validate(local, experiment):
        algorithm.validate(local, experiment)
        check_same_task(task, experiment)

    return validate


def _check_below_1(**values: float) -> None:
    for name, value in values.items():
        if not (is_number(value) and 0 < value < 1):
            raise ValueError(
                f"{name}={value!r} must be above 0 and below 1 (nothing would remain). Try 0.8"
            )
