"""Models with fewer parameters: which of them go, when, and training with what is left.

A mask ``[d]`` of 0 and 1 says which stay.  Biases always do: they are few.
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
    """Of the weights of all layers together, the ``sparsity`` that is smallest in size goes.

    As Frankle & Carbin 2019 prune deep networks, where layers differ in what they have to spare (section 4).
    """
    weights = torch.cat(
        [torch.full((shape.numel(),), len(shape) > 1) for shape in task.shapes.values()]
    ).to(w.device)
    mask = torch.ones_like(w)
    mask[weights] = _largest(w[weights].abs(), sparsity)
    return mask


def magnitude_per_layer(task: Task, w: Tensor, sparsity: float) -> Tensor:
    """Of each layer's weights the ``sparsity`` that is smallest in size goes.  Han et al. 2015; Zhu & Gupta 2018.

    Differs: Frankle and Carbin prune the last layer at half the rate.
    """
    layers = params.views(w, task.shapes).values()
    return torch.cat(
        [_largest(p.abs().reshape(-1), sparsity if p.dim() > 1 else 0) for p in layers]
    )


def unit_magnitude(task: Task, w: Tensor, sparsity: float) -> Tensor:
    """Whole units go: the ``sparsity`` of each hidden layer with the smallest sum of sizes of incoming weights.

    Li et al. 2017, for the filters of convolutions.  ``shrink`` then makes the model truly smaller.
    """
    weights = [p for p in params.views(w, task.shapes).values() if p.dim() > 1]
    kept = []
    for p, units in zip(weights, hidden_units(task), strict=False):
        stays = _largest(p.abs().reshape(units, -1).sum(1), sparsity)
        kept.append(stays.nonzero().flatten().tolist())
    return unit_mask(task, kept).to(w)


def one_shot(sparsity: float, *, round: int) -> Schedule:
    """Nothing before that round, and all of it after it."""
    _below_1(sparsity=sparsity)
    check_whole(1, round=round)

    def at(t):
        return sparsity if t >= round else 0.0

    return at


def cubic(sparsity: float, *, start: int, end: int, every: int = 1) -> Schedule:
    """From 0 in round ``start`` to ``sparsity`` in round ``end``: ``s_t = s (1 - (1 - (t - start) / (end - start))^3)``.

    Zhu & Gupta 2018, equation 1: fast while there is much to choose from, slowly at last; a step ``every`` so many rounds.
    """
    _below_1(sparsity=sparsity)
    check_whole(1, start=start, every=every)
    check_whole(start + 1, end=end)

    def at(t):
        done = (min(t, end) - start) // every * every / (end - start) if t < end else 1
        return sparsity * (1 - (1 - max(0, done)) ** 3)

    return at


def pruned(
    algorithm: Algorithm, task: Task, schedule: Schedule, criterion: Criterion = magnitude
) -> Algorithm:
    """The algorithm on a model that loses weights: after each round those that ``criterion`` says go, to come back never.

    The server prunes what it has after its step, so the mask is the same for everyone; clients train what is left, and only
    that travels, unless an upload takes whole rows, as ``power_sgd`` does.  Zhu & Gupta 2018, with rounds for their steps.
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
    """Train for ``every`` rounds, take away ``share`` of what is left, put the rest back where it was, and train again.

    Iterative magnitude pruning, Frankle & Carbin 2019, section 2: back to ``w_0``, or to the model after round ``rewind``
    (Frankle et al. 2020).  ``times`` in all, then it trains on; 0.2 five times leaves a third.
    The algorithm's state starts anew, too; what an upload remembers does not.  In the federation the server does it, as in
    LotteryFL (Li et al. 2021).  Differs: there each client has its own ticket.
    """
    _check(algorithm, "lottery_ticket")
    _below_1(share=share)
    check_whole(1, every=every, times=times)
    check_whole(0, rewind=rewind)
    if rewind >= every:
        raise ValueError(
            f"rewind={rewind}: the model it goes back to is one before the first pruning, in round {every}"
        )

    def init(w, num_clients):
        return torch.ones_like(w), w.clone(), w.new_zeros(()), algorithm.init(w, num_clients)

    def local_objective(state, cohort):
        mask, _, _, inner = state
        return _with_mask(algorithm.local_objective(inner, cohort), mask)

    def step(w, state, cohort, updates, mean):
        mask, back, done, inner = state
        w, inner = algorithm.step(w, inner, cohort, updates, mean)
        w = w * mask
        if cohort.round == rewind:
            back = w
        if updates.steps.any() and done < times and cohort.round >= every * (done + 1):
            done = done + 1
            mask = mask * criterion(task, w, 1 - (1 - share) ** int(done))
            w, inner = back * mask, algorithm.init(back * mask, cohort.num_clients)
        return w, (mask, back, done, inner)

    return algorithm._replace(
        init=init,
        local_objective=local_objective,
        step=step,
        validate=_validate(algorithm, task),
        partial_updates=True,
    )


def _largest(size: Tensor, sparsity: float) -> Tensor:
    """1 for all but the ``sparsity`` of ``size [k]`` that is smallest, at least for one."""
    if not 0 <= sparsity < 1:
        raise ValueError(
            f"sparsity={sparsity:g}: it is at least 0 and below 1, where nothing would be left; try 0.9"
        )
    if not len(size):
        raise ValueError(
            "the model has no weights of two dimensions or more, and biases are not pruned"
        )
    kept = max(1, round((1 - sparsity) * len(size)))
    return torch.zeros_like(size).index_fill_(0, size.topk(kept).indices, 1)


def _with_mask(terms: Terms, mask: Tensor) -> Terms:
    return terms if mask.all() else terms._replace(mask=mask)


def _check(algorithm: Algorithm, name: str) -> None:
    if not isinstance(algorithm, Algorithm):
        told = getattr(algorithm, "__name__", repr(algorithm))
        raise ValueError(f"{name}({told}): it takes what a call gives, such as fedavg()")
    if algorithm.update_format != "rows":
        raise ValueError(
            f"{name} of an algorithm that takes {algorithm.update_format}: a mask is of rows; use fedavg() or the like"
        )
    if algorithm.partial_updates:
        raise ValueError(
            f"{name} of an algorithm that has masks already: two masks are not put together; use fedavg()"
        )


def _validate(algorithm: Algorithm, task: Task) -> Callable:
    def validate(local, experiment):
        algorithm.validate(local, experiment)
        check_same_task(task, experiment)

    return validate


def _below_1(**values: float) -> None:
    for name, value in values.items():
        if not (is_number(value) and 0 < value < 1):
            raise ValueError(
                f"{name}={value!r}: it is above 0 and below 1, where nothing would be left; try 0.8"
            )
