"""Compression within a budget: the rate that it allows, or rates that use it up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from fedlab.core import Budget, Cohort, Experiment, Message, Stage, Transform, generator
from fedlab.core.validate import check_whole, is_number
from fedlab.data.datasets import for_seed
from fedlab.upload import wire
from fedlab.upload.chains import sparsify

RATES = tuple(np.geomspace(1e-4, 1, 121))


def rate_within(
    budget: str,
    experiment: Experiment,
    make: Callable[[float], Transform],
    *,
    rates: Sequence[float] = RATES,
    seed: int = 0,
) -> float:
    """Find the largest rate whose upload stays within a budget over all rounds.

    A sampler is a function of the seed, so it is known beforehand how often each client takes part.
    The size of a message is measured on random numbers, whose indices compress worse than those of
    a real update.

    Args:
        budget: Text such as "5 MB up per client"; see ``fedlab.core.Budget``.
        experiment: Experiment whose rounds, sampler and model are counted.
        make: Function from a rate to a transform, such as ``top_k``.
        rates: Ascending rates to choose from.
        seed: Seed of the run.

    Returns:
        One of the rates, for ``upload=make(rate)``.

    Raises:
        ValueError: If not even the smallest rate fits, with the bytes that it takes. Also for
            algorithms with partial updates, whose size is not known beforehand.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.server import fedavg, uniform, weighted_mean
        >>> from fedlab.upload import top_k
        >>> digits = load("digits", 10)
        >>> parts = fedavg(), weighted_mean, uniform(5)
        >>> study = Experiment(digits, mlp(digits), Local(0.1), *parts, rounds=20)
        >>> rate = rate_within("100 kB up per client", study, top_k)
        >>> 0 < rate < 1
        True
    """
    if experiment.algorithm.partial_updates:
        raise ValueError(
            "algorithm must send whole updates (rate_within cannot know how much partial updates "
            "leave to send). Try Experiment(budget=...), which counts what travels"
        )
    allowed = Budget.parse(budget)
    times = _times_taking_part(experiment, seed)
    factor = int(times.max() if allowed.per_client else times.sum())
    low, high = -1, len(rates) - 1
    while low < high:  # the last rate that fits lies in low..high
        middle = (low + high + 1) // 2
        if factor * _round_size(make(rates[middle]), experiment, allowed) <= allowed.bytes:
            low = middle
        else:
            high = middle - 1
    if low < 0:
        needed = factor * _round_size(make(rates[0]), experiment, allowed) / 1e6
        raise ValueError(
            f"budget={budget!r} must be at least {needed:,.3g} MB (the smallest rate {rates[0]:g} "
            "takes that). Try that, or fewer rounds"
        )
    return float(rates[low])


def _times_taking_part(experiment: Experiment, seed: int) -> np.ndarray:
    """Count in how many rounds each client takes part, ``[N]``."""
    data = for_seed(experiment.data, seed)
    times = np.zeros(data.num_clients, dtype=np.int64)
    for t in range(1, experiment.rounds + 1):
        times[experiment.sample(data.sizes, t, generator(seed, "cohort", t))] += 1
    return times


def _round_size(upload: Transform, experiment: Experiment, budget: Budget) -> int:
    """Count the bytes of one client in one round, in the directions that the budget counts."""
    algorithm, shapes = experiment.algorithm, tuple(experiment.task.shapes.items())
    dense = int(wire.dense_sizes(shapes, torch.float32).sum())
    size = 0
    if budget.direction != "up":
        size += algorithm.vectors_down * dense
    if budget.direction != "down":
        size += (algorithm.vectors_up - 1) * dense + _message_size(upload, experiment)
    return size


def _message_size(upload: Transform, experiment: Experiment) -> int:
    """Measure the largest of four messages; some transforms send nothing in some rounds."""
    shapes, largest = experiment.task.shapes, 0
    draw, d = generator(0, "rate"), sum(shape.numel() for shape in shapes.values())
    state = upload.init(torch.zeros(d), shapes, 1)
    for t in range(1, 5):
        row = torch.from_numpy(draw.standard_normal((1, d), dtype=np.float32))
        client = Cohort(np.zeros(1, dtype=np.int64), t, 0, 1)
        message, state = upload.apply(Message(row, shapes), state, client)
        largest = max(largest, int(wire.sizes(message).sum()))
    return largest


def top_k_within(budget: str, *, rounds: int, growth: float = 1.0) -> Transform:
    """Send as many of the largest numbers as each client's budget allows in each round.

    The rest of a client's budget is divided over the rest of the rounds. A client that is drawn
    more often than expected sends less each time. Numbers have 32 bits. Use it with
    ``error_feedback``, as ``top_k``.

    Args:
        budget: Text such as "5 MB up per client": up, and per client.
        rounds: Rounds of the experiment.
        growth: Size of each round's message relative to the one before. 1 uses the budget evenly,
            above 1 more of it at the end, below 1 more of it early.

    Returns:
        A transform whose state is the bytes that each client has used, ``[N]``.

    Raises:
        ValueError: If the budget is of another kind, or a value is out of range.

    Example:
        >>> from fedlab.upload import error_feedback
        >>> upload = error_feedback(top_k_within("5 MB up per client", rounds=100))
    """
    total = Budget.parse(budget)
    check_whole(1, rounds=rounds)
    if total.direction != "up" or not total.per_client:
        raise ValueError(
            f'budget={budget!r} must be "... up per client" (it divides what one client sends). '
            'Try "5 MB up per client"'
        )
    if not (is_number(growth) and growth > 0):
        raise ValueError(f"growth={growth!r} must be above 0. Try 1, which uses the budget evenly")

    def init(w, shapes, num_clients):
        return np.zeros(num_clients)  # bytes used

    def apply(message, used, cohort):
        x, ahead = message.values, max(0, rounds - cohort.round)
        with np.errstate(over="ignore"):  # growth so large that this round gets nothing
            weight = 1 + cohort.share * (np.float64(growth) ** np.arange(1, ahead + 1)).sum()
        rest = Budget.parse(budget).bytes - used[cohort.ids]
        allowed = (rest - wire.EMPTY_SIZE * ahead) / weight  # an empty message is not free either
        header = 24 + sum(1 + 4 * len(shape) for shape in message.shapes.values())
        count = torch.from_numpy(_numbers_within(allowed - header, x.shape[1]))
        largest = min(max(1, int(count.max())), x.shape[1])
        index = x.abs().topk(largest, 1).indices  # the largest number first
        beyond = torch.arange(index.shape[1]) >= count[:, None]
        message = sparsify(message, index.masked_fill(beyond.to(x.device), x.shape[1]))
        used = used.copy()
        used[cohort.ids] += wire.sizes(message).sum(1)
        return message, used

    return Transform(init, apply, Stage.REDUCED, Stage.RAGGED)


def _numbers_within(size: np.ndarray, width: int) -> np.ndarray:
    """Count the 32-bit numbers that surely fit, with indices, in ``size [m]`` bytes."""
    counts = np.unique(np.geomspace(1, max(1, width), 2000).astype(np.int64))
    low = np.floor(np.log2(np.maximum(1, 0.69 * width / counts))).astype(np.int64)
    # The upper bound of a Rice code, wherever the indices are.
    needed = 4 * counts + (counts * (low + 1) + (width >> low)) // 8 + 2
    return np.append(0, counts)[np.searchsorted(needed, size, side="right")]
